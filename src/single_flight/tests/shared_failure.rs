//! Equal requests and batches that share the call to a silent host, while slots are free: how many
//! calls follow, and who is told what became of the first.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::StatusCode;
use tokio::time::{Instant, sleep, sleep_until};
use tower::{Layer as _, service_fn};

use super::fixture::{MERGE, RecordingSink, answer, caller, failure, predicted_wait, request, root, rows};
use crate::BoxError;
use crate::attempt::{Attempt, Delivery, Failure, RetryHint};
use crate::caller::{Caller, Urgency};
use crate::middleware;
use crate::scan::{CacheSink, Call, Merging, Outcome, Request, ServedResponse, UpstreamProfile, UpstreamResponse};
use crate::single_flight::driver::Below;
use crate::single_flight::{BatchConfig, Config, Metrics, SingleFlight};
use crate::task::Tasks;

/// How long a host is silent until it is given up.
const SILENCE: Duration = Duration::from_secs(45);

/// When the first slots come, all at once.
const FREE: Duration = Duration::from_secs(10);

/// A request for these ids, of this urgency, with so much time.
type Asked = (&'static [&'static str], u8, u64);

/// What becomes of the first call. The others are answered.
type Outcomes = fn(&Request) -> Result<UpstreamResponse, BoxError>;

/// The ids of each call, and when it left.
type Left = Vec<(Vec<String>, Duration)>;

/// The calls, and what each request was told, and when.
type Ended = (Left, Vec<(Result<ServedResponse, BoxError>, Duration)>);

async fn call_upstream(
    attempt: Attempt,
    free: Instant,
    outcome: Outcomes,
    left: Arc<Mutex<Left>>,
) -> Result<UpstreamResponse, BoxError> {
    if Instant::now() < free {
        Arc::clone(&attempt.request).queues(attempt.position, free);
        sleep_until(free).await;
    }
    let request = attempt.request.bind().ok_or("not needed")?;
    let is_first = {
        let mut left = left.lock().unwrap();
        let ids = request.ids().map(str::to_owned).collect();
        left.push((ids, free.elapsed()));
        left.len() == 1
    };
    if !is_first {
        return Ok(rows(&request));
    }
    sleep(SILENCE).await;
    outcome(&request)
}

/// Asks for all at once.
async fn ask(when: Merging, profile: UpstreamProfile, asked: &[Asked], outcome: Outcomes) -> Ended {
    let (start, calls, tasks) = (Instant::now(), Arc::<Mutex<Left>>::default(), Tasks::new());
    let left = Arc::clone(&calls);
    let below = service_fn(move |attempt| call_upstream(attempt, start + FREE, outcome, Arc::clone(&left)));
    let single_flight = SingleFlight::new(
        Config {
            merge: BatchConfig { when, ..MERGE },
            attempt: Duration::from_mins(1),
        },
        tasks.clone(),
        Arc::<RecordingSink>::default() as Arc<dyn CacheSink>,
        Arc::new(profile),
        predicted_wait(Duration::ZERO),
        Metrics::default(),
    );
    let flights = middleware::layer(single_flight.clone()).layer(Below::new(below));
    let mut told = Vec::new();
    for (nth, (ids, urgency, seconds)) in asked.iter().enumerate() {
        let asked = flights.call(Call {
            request: Arc::new(request(ids)),
            caller: Arc::new(Caller {
                urgency: Urgency::new(*urgency).unwrap(),
                ..caller(&nth.to_string(), *seconds)
            }),
        });
        told.push(tasks.spawn("test", async move { (asked.await, start.elapsed()) }));
    }
    let mut ended = Vec::new();
    for told in told {
        ended.push(told.await.unwrap());
    }
    assert_eq!(tasks.finish(Duration::from_mins(5)).await, 0, "a flight is left");
    assert_eq!(single_flight.flight_table.len(), 0);
    (std::mem::take(&mut *calls.lock().unwrap()), ended)
}

fn silent(_: &Request) -> Result<UpstreamResponse, BoxError> {
    Err(failure(RetryHint::Never))
}

fn lost(_: &Request) -> Result<UpstreamResponse, BoxError> {
    Err(failure(RetryHint::OtherHost))
}

fn with_status(status: StatusCode) -> UpstreamResponse {
    UpstreamResponse { status, ..answer("") }
}

const UNAVAILABLE: Outcomes = |_| Ok(with_status(StatusCode::SERVICE_UNAVAILABLE));

fn throttled(_: &Request) -> Result<UpstreamResponse, BoxError> {
    Err(Failure {
        delivery: Delivery::Answered,
        again: RetryHint::WhenAllowed,
        answer: Some(with_status(StatusCode::TOO_MANY_REQUESTS)),
        source: "no time is left".into(),
    }
    .into())
}

/// Who is asked for alone, with others, and both.
fn mixes(seconds: u64) -> [(Merging, Vec<Asked>); 3] {
    let equal = |n: u8| (0..n).rev().map(move |level| (&["a"][..], level, seconds));
    let other = ["b", "c", "d"].map(|id| match id {
        "b" => (&["b"][..], 3, seconds),
        "c" => (&["c"][..], 3, seconds),
        _ => (&["d"][..], 3, seconds),
    });
    [
        (Merging::Off, equal(8).collect()),
        (
            Merging::On,
            [(&["a"][..], 3, seconds)].into_iter().chain(other).collect(),
        ),
        (Merging::On, equal(4).chain(other).collect()),
    ]
}

#[tokio::test(start_paused = true)]
async fn whose_time_is_over_when_a_shared_call_fails_is_told_so_and_makes_no_call() {
    for outcome in [silent, lost, UNAVAILABLE, throttled] as [Outcomes; 4] {
        for (when, asked) in mixes(20) {
            let (calls, told) = ask(when, UpstreamProfile::new(1000), &asked, outcome).await;
            assert_eq!(calls.len(), 1, "{asked:?}: {calls:?}");
            for (told, at) in &told {
                assert_eq!(*at, FREE + SILENCE);
                match (told, outcome(&request(&["a"]))) {
                    (Err(error), Err(_)) => assert_eq!(root(error), "connection lost"),
                    (Ok(served), Ok(expected)) => assert_eq!(served.answer.status, expected.status),
                    (Ok(served), Err(_)) => assert_eq!(served.answer.status, StatusCode::TOO_MANY_REQUESTS),
                    other => panic!("{other:?}"),
                }
            }
            let outcomes = told.iter().filter_map(|(told, _)| Some(told.as_ref().ok()?.outcome));
            assert!(outcomes.filter(|outcome| *outcome == Outcome::Forwarded).count() <= 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_still_has_time_when_a_shared_call_fails_makes_one_call_for_each_request() {
    for outcome in [silent, lost, UNAVAILABLE] as [Outcomes; 3] {
        for (when, mut asked) in mixes(600) {
            // All but the first have time, and one other has not.
            asked[0].2 = 20;
            asked[2].2 = 20;
            let (calls, told) = ask(when, UpstreamProfile::new(1000), &asked, outcome).await;
            let mut in_time: Vec<_> = asked
                .iter()
                .filter(|asked| asked.2 == 600)
                .map(|asked| asked.0[0])
                .collect();
            in_time.sort_unstable();
            in_time.dedup();
            assert_eq!(calls.len(), 1 + in_time.len(), "{asked:?}: {calls:?}");
            for ((told, at), asked) in told.iter().zip(&asked) {
                assert_eq!(*at, FREE + SILENCE);
                let is_good = told.as_ref().is_ok_and(|served| served.answer.status == StatusCode::OK);
                assert_eq!(is_good, asked.2 == 600, "{asked:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_good_for_nobody_is_followed_by_one_call_for_equal_requests() {
    // Too many rows for what is known of answers, when the time of all has been over for long.
    let all = &mixes(20)[2].1;
    let (calls, told) = ask(Merging::On, UpstreamProfile::new(0), all, |request| Ok(rows(request))).await;
    for (told, _) in told {
        assert_eq!(told.unwrap().answer.status, StatusCode::OK);
    }
    let for_a = calls.iter().filter(|(ids, _)| ids.iter().any(|id| id == "a")).count();
    assert_eq!(for_a, 2, "{calls:?}");
}
