//! Everybody obeys `Retry-After`: then nobody who comes on time is refused again, and those who
//! asked first are served first.

use bytes::Bytes;
use futures_util::future::join_all;
use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};
use proptest::prelude::*;
use tower::service_fn;

use super::*;
use crate::attempt::{Admitted, Delivery, Failure, RetryHint};
use crate::middleware::{Middleware as _, Next};
use crate::queue::Reason;
use crate::scan::{Headers, UpstreamResponse};

/// A caller of its own name: how long after the one before it asks, how long it may wait, and how
/// much later than it was told it comes back.
type Ask = (Duration, Duration, Duration);

/// What became of one.
#[derive(Debug)]
struct Outcome {
    /// When it asked, when it came back, and when it was served, counted from the start.
    asked: Duration,
    back: Duration,
    served: Duration,
    /// How long it may wait, and what it was told each time that it was refused.
    wait: Duration,
    told: Vec<(Reason, Duration)>,
}

/// What becomes of callers that all obey, beside slots that come so often. So many that nobody
/// takes when they come are saved up, so that none is lost; none is free at first.
fn obey(every: Duration, saved: u32, asks: &[Ask]) -> Vec<Outcome> {
    in_paused_time(async {
        let tasks = Tasks::new();
        let (queue, clockwork) = queue_before(Clockwork::saving(saved, every), &tasks);
        let start = Instant::now();
        clockwork.pause_until(start + every * 3 / 2);
        let mut asked = Duration::ZERO;
        let callers = asks.iter().zip(0..).map(|((gap, wait, late), n): (&Ask, u32)| {
            asked += *gap;
            let (queue, asked) = (queue.clone(), asked);
            async move {
                tokio::time::sleep_until(start + asked).await;
                let name = format!("caller {n}");
                let (mut told, mut back) = (Vec::new(), asked);
                loop {
                    match queue.turn(&attempt(&name, 3, *wait)).await {
                        Ok(slot) => {
                            slot.used();
                            let served = start.elapsed();
                            return Outcome {
                                asked,
                                back,
                                served,
                                wait: *wait,
                                told,
                            };
                        }
                        Err(refused) => {
                            told.push((refused.reason, start.elapsed() + refused.retry_after));
                            let seconds = u32::try_from(refused.retry_after_s()).unwrap();
                            tokio::time::sleep(SECOND * seconds + *late).await;
                            back = start.elapsed();
                        }
                    }
                }
            }
        });
        join_all(callers).await
    })
}

/// Who was refused more often than once, or served after somebody who had asked later and may wait
/// as long, though it was back by then.
fn wronged(all: &[Outcome]) -> Vec<String> {
    let again = all.iter().filter(|one| one.told.len() > 1);
    let again = again.map(|one| format!("refused again: {one:?}"));
    let overtaken = all.iter().enumerate().flat_map(|(n, one)| {
        let later = all[n + 1..]
            .iter()
            .filter(|later| later.asked >= one.asked && later.wait == one.wait);
        let before = later.filter(|later| one.back < later.served && later.served < one.served);
        before.map(move |later| format!("{later:?} served before {one:?}"))
    });
    again.chain(overtaken).collect()
}

#[test]
fn who_cannot_wait_and_comes_back_when_told_is_let_in_though_others_come_meanwhile() {
    for every in [150, 700, 1700, 2400, 9000, 20_000].map(Duration::from_millis) {
        for load in [50, 70, 90, 100, 120, 150, 200] {
            for late in [1, 20, 200].map(Duration::from_millis) {
                let asks = [(every * 100 / load, Duration::ZERO, late); 20];
                let all = obey(every, 100, &asks);
                assert!(
                    load <= 100 || all.iter().any(|one| !one.told.is_empty()),
                    "nobody was refused"
                );
                let wronged = wronged(&all);
                assert!(wronged.is_empty(), "{every:?}, {load} %, {late:?}: {wronged:#?}");
            }
        }
    }
}

/// Whom the upstream refuses itself has a place to come back to, as those have whom the queue
/// refuses.
#[tokio::test(start_paused = true)]
async fn who_is_handed_the_upstreams_refusal_is_let_in_when_it_says() {
    let tasks = Tasks::new();
    let every = Duration::from_millis(2400);
    let (queue, clockwork) = queue_before(Clockwork::saving(2, every), &tasks);
    // Three have a slot each; whoever else comes is refused by the queue.
    tokio::time::sleep(3 * every).await;
    let start = Instant::now();
    let throttled = Next::new(service_fn(move |admitted: Admitted<Slot>| {
        admitted.permit.used();
        let clockwork = clockwork.clone();
        async move {
            tokio::time::sleep(SECOND / 10).await;
            clockwork.pause_until(start + 2 * SECOND);
            Err::<UpstreamResponse, _>(Failure {
                delivery: Delivery::Answered,
                again: RetryHint::WhenAllowed,
                answer: Some(UpstreamResponse {
                    status: StatusCode::TOO_MANY_REQUESTS,
                    headers: Headers::from_iter([(RETRY_AFTER, HeaderValue::from(2))]),
                    body: Bytes::new(),
                }),
                source: "throttled".into(),
            })
        }
    }));
    let callers = (0..6_u32).map(|n| {
        let (queue, throttled) = (queue.clone(), throttled.clone());
        async move {
            tokio::time::sleep_until(start + SECOND / 50 * if n < 3 { n } else { 5 + n }).await;
            let ask = || attempt(&format!("caller {n}"), 3, Duration::ZERO);
            let retry_after = if n < 3 {
                let answer = queue.call(ask(), &throttled).await.unwrap_err().answer.unwrap();
                answer
                    .headers
                    .get(RETRY_AFTER)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .parse()
                    .unwrap()
            } else {
                queue.turn(&ask()).await.unwrap_err().retry_after_s()
            };
            tokio::time::sleep(Duration::from_secs(retry_after) + SECOND / 50).await;
            queue.turn(&ask()).await.map(Slot::used).map_err(|refused| (n, refused))
        }
    });
    let refused: Vec<_> = join_all(callers).await.into_iter().filter_map(Result::err).collect();
    assert!(refused.is_empty(), "{refused:?}");
}

/// A slot that somebody did not come for has gone to somebody else, or is saved up: nobody else's
/// turn is later for that. But as some stay away, two more may be told the same slot.
#[tokio::test(start_paused = true)]
async fn who_stays_away_delays_nobody_who_obeys() {
    let every = Duration::from_millis(2400);
    let tasks = Tasks::new();
    let (queue, clockwork) = queue_before(Clockwork::saving(100, every), &tasks);
    clockwork.pause_until(Instant::now() + every / 2);
    for n in 0..3 {
        let never_back = queue.enter(&attempt(&format!("gone {n}"), 3, Duration::ZERO));
        assert!(never_back.is_err());
    }
    let start = Instant::now();
    let callers = (0..16_u32).map(|n| {
        let queue = queue.clone();
        async move {
            tokio::time::sleep_until(start + Duration::from_millis(1600) * n).await;
            let ask = attempt(&format!("caller {n}"), 3, Duration::ZERO);
            let Err(refused) = queue.turn(&ask).await.map(Slot::used) else {
                return Ok(());
            };
            tokio::time::sleep(SECOND * u32::try_from(refused.retry_after_s()).unwrap() + SECOND / 50).await;
            queue
                .turn(&ask)
                .await
                .map(Slot::used)
                .map_err(|again| (n, refused, again))
        }
    });
    let refused: Vec<_> = join_all(callers).await.into_iter().filter_map(Result::err).collect();
    assert!(refused.len() <= 1, "{} of 16: {refused:#?}", refused.len());
}

/// One of them always comes five seconds later than it was told to, when its slot has passed.
#[test]
fn who_is_always_late_keeps_nobody_from_a_slot_for_long() {
    for every in [3500, 5500, 7000, 9000].map(Duration::from_millis) {
        for n in 5..15 {
            let on_time = (every * 10 / 13, 5 * SECOND, SECOND / 50);
            let mut asks = [on_time; 40];
            asks[n] = (every * 10 / 13, 2 * SECOND, 5 * SECOND);
            let all = obey(every, 9, &asks);
            let others = all.iter().enumerate().filter(|(other, _)| *other != n);
            let most = others.max_by_key(|(_, one)| one.told.len()).unwrap();
            assert!(most.1.told.len() <= 2, "{every:?}, {n}: {most:?}");
        }
    }
}

/// Slots a tenth of a second to twenty seconds apart, with callers that ask for half of them to
/// twice as many.
fn worlds() -> impl Strategy<Value = (Duration, u32, Vec<Ask>)> {
    let every = prop_oneof![100_u64..1000, 1000_u64..20_000];
    (every, 2_u32..10, 50_u64..200).prop_flat_map(|(every, saved, load)| {
        let waits = prop::sample::select(vec![0_u32, 0, 1, 2, 5, 60]);
        let ask = (0..every * 200 / load, waits);
        let ask = ask.prop_map(|(gap, wait)| (Duration::from_millis(gap), SECOND * wait, Duration::ZERO));
        let asks = prop::collection::vec(ask, 5..60);
        (Just(Duration::from_millis(every)), Just(saved), asks)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn who_obeys_is_let_in_and_the_order_is_kept((every, saved, asks) in worlds()) {
        let wronged = wronged(&obey(every, saved, &asks));
        prop_assert!(wronged.is_empty(), "{wronged:#?}");
    }
}
