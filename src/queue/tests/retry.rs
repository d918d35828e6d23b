//! `Retry-After` is exact: who comes when told is let in, and who cannot wait could not have come a
//! second earlier.

use proptest::prelude::*;

use super::*;
use crate::queue::Reason;

/// Who asks, how urgently, and how long it may wait, in seconds.
type Ask = (u8, u8, u64);

/// After these requests, `gap` milliseconds apart, somebody is refused and comes back `early`
/// before it was told to. Whether it is let in; `None` when it was not refused.
fn come_back(before: &[(Ask, u64)], last: Ask, early: Duration) -> Option<(Reason, bool)> {
    in_paused_time(async {
        let tasks = Tasks::new();
        let (queue, _) = queue(Duration::from_millis(2400), &tasks);
        let enter = |(name, urgency, wait): Ask| {
            queue.enter(&attempt(
                &format!("caller {name}"),
                urgency,
                SECOND * u32::try_from(wait).unwrap(),
            ))
        };
        let mut waiting = Vec::new();
        for (ask, gap) in before {
            let turn = enter(*ask);
            // What was refused is expected back, and does not come: then there is more room than
            // was said.
            if turn.is_err() && !early.is_zero() {
                return None;
            }
            waiting.extend(turn);
            tokio::time::sleep(Duration::from_millis(*gap)).await;
        }
        let refused = enter(last).err()?;
        tokio::time::sleep(Duration::from_secs(refused.retry_after_s()).checked_sub(early)?).await;
        Some((refused.reason, enter(last).is_ok()))
    })
}

#[tokio::test(start_paused = true)]
async fn nobody_is_refused_for_the_sake_of_who_comes_back_after_the_slot() {
    let tasks = Tasks::new();
    let (queue, _) = queue(Duration::from_millis(2400), &tasks);
    queue.turn(&attempt("a", 3, SECOND)).await.unwrap().used();
    let waiting: Vec<_> = (0..5)
        .map(|n| queue.enter(&attempt(&format!("waits {n}"), 3, 60 * SECOND)).unwrap())
        .collect();
    let refused = queue.enter(&attempt("b", 3, 3 * SECOND)).err().unwrap();
    assert_eq!(refused.retry_after, 13 * SECOND, "its turn would come after 14.4 s");
    drop(waiting);
    // The slots until then are nobody's, though the one that comes back has the better right.
    let start = Instant::now();
    for n in 1..=5_u32 {
        let turn = queue.turn(&attempt("c", 7, 3 * SECOND)).await;
        turn.unwrap_or_else(|refused| panic!("{n}: {refused:?}")).used();
        assert_eq!(start.elapsed(), Duration::from_millis(2400) * n);
    }
    // The next one is not.
    assert_eq!(
        queue.turn(&attempt("c", 7, 3 * SECOND)).await.unwrap_err().reason,
        Reason::Promised
    );
    tokio::time::sleep(SECOND).await;
    queue.turn(&attempt("b", 3, 3 * SECOND)).await.unwrap().used();
    assert_eq!(start.elapsed(), Duration::from_millis(2400) * 6);
}

/// How often each of a hundred requests of one caller, all sent at once, has to come back when it
/// obeys every `Retry-After`.
#[tokio::test(start_paused = true)]
async fn a_crowd_behind_one_name_is_told_different_times_and_served_when_it_obeys() {
    let tasks = Tasks::new();
    let (queue, _) = queue(Duration::from_millis(200), &tasks);
    let asks = (0..100_u64).map(|n| {
        let queue = queue.clone();
        async move {
            for retries in 0.. {
                match queue.turn(&attempt("crowd", 3, 2 * SECOND)).await {
                    Ok(slot) => {
                        slot.used();
                        return retries;
                    }
                    // A timer and the way back take a moment.
                    Err(refused) => tokio::time::sleep(refused.retry_after + Duration::from_millis(n % 20)).await,
                }
            }
            unreachable!("the loop has no end");
        }
    });
    let retries: Vec<usize> = futures_util::future::join_all(asks).await;
    let at_most = |most: usize| retries.iter().filter(|count| **count <= most).count();
    assert!(at_most(1) >= 90 && at_most(3) == 100, "{retries:?}");
}

/// Requests that cannot wait are each told a slot of their own, although those who were told to
/// come back before did not.
#[tokio::test(start_paused = true)]
async fn who_cannot_wait_has_a_slot_to_come_back_to_whatever_others_do() {
    let tasks = Tasks::new();
    let (queue, _) = queue(SECOND * 2, &tasks);
    queue.turn(&attempt("a", 3, SECOND)).await.unwrap().used();
    for n in 0..60 {
        let never_back = queue.enter(&attempt(&format!("gone {n}"), 3, Duration::ZERO));
        assert!(never_back.is_err());
    }
    tokio::time::sleep(SECOND * 300).await;
    let asks = (0..30).map(|_| {
        let queue = queue.clone();
        async move {
            let ask = attempt("burst", 3, Duration::ZERO);
            let refused = match queue.turn(&ask).await {
                Ok(slot) => {
                    slot.used();
                    return true;
                }
                Err(refused) => refused,
            };
            tokio::time::sleep(SECOND * u32::try_from(refused.retry_after_s()).unwrap()).await;
            queue.turn(&ask).await.map(Slot::used).is_ok()
        }
    });
    let served = futures_util::future::join_all(asks).await;
    let again = served.iter().filter(|served| !**served).count();
    assert_eq!(again, 0, "{again} of {} were refused twice", served.len());
}

/// How often an urgent caller that cannot wait is refused that obeys every `Retry-After`, beside
/// somebody who always has twenty requests waiting.
async fn refusals_beside_an_exporter(every: Duration, first: Duration) -> usize {
    let tasks = Tasks::new();
    let (queue, _) = queue(every, &tasks);
    let export = (0..20).map(|_| async {
        loop {
            match queue.turn(&attempt("exporter", 6, 300 * SECOND)).await {
                Ok(slot) => slot.used(),
                Err(refused) => tokio::time::sleep(refused.retry_after).await,
            }
        }
    });
    let poll = async {
        tokio::time::sleep(first).await;
        for refusals in 0..10 {
            let asked = Instant::now();
            match queue.turn(&attempt("poller", 0, Duration::ZERO)).await {
                Ok(slot) => {
                    slot.used();
                    assert!(asked.elapsed() <= SECOND * 3 / 2, "{:?}", asked.elapsed());
                    return refusals;
                }
                // A timer and the way back take a moment.
                Err(refused) => {
                    let at = SECOND * u32::try_from(refused.retry_after_s()).unwrap();
                    tokio::time::sleep(at + Duration::from_millis(20)).await;
                }
            }
        }
        10
    };
    tokio::select! {
        _ = futures_util::future::join_all(export) => unreachable!("exporters have no end"),
        refusals = poll => refusals,
    }
}

/// Others come while it is away, and so the queue is never empty.
#[tokio::test(start_paused = true)]
async fn who_cannot_wait_and_obeys_is_not_refused_for_ever_though_others_come() {
    for every in [200, 1000, 2000, 2400, 30_000].map(Duration::from_millis) {
        for phase in 0..10 {
            let refusals = refusals_beside_an_exporter(every, every * 3 + every * phase / 10).await;
            assert!(refusals <= 1, "{every:?}, {phase}: {refusals}");
        }
    }
}

/// Inputs with which somebody came back on time and was refused again: requests of the same caller
/// had not come back, and its place was not kept. Caller, urgency, wait and gap of each, and the
/// last one.
const SIBLINGS_STAY_AWAY: [(&str, Ask); 2] = [
    (
        "0 2 20 487, 0 2 20 693, 0 2 20 970, 0 3 20 767, 0 3 20 21, 0 3 20 759, 1 3 20 79, \
         0 2 20 619, 3 3 20 1018, 0 3 20 672, 0 3 20 898, 2 3 20 790, 0 3 20 1029, \
         0 2 20 418, 0 3 20 386, 0 3 20 227, 0 2 20 842, 0 2 20 626, 0 2 20 1007, \
         0 2 20 1055, 0 2 20 338, 0 2 20 1010, 0 2 20 130, 0 2 20 149, 0 2 20 660, \
         0 2 20 208, 0 2 20 1009, 0 3 22 279, 0 2 20 951, 0 2 20 1040, 0 2 20 582, \
         0 2 20 62, 0 2 20 925, 0 2 20 1053, 0 2 20 225, 0 3 20 181, 0 2 38 780, 0 2 20 392, \
         0 2 20 839",
        (2, 3, 1),
    ),
    (
        "0 2 20 970, 0 2 20 1166, 0 2 20 541, 0 3 77 141, 0 2 20 908, 0 3 20 1075, 0 3 20 0, \
         0 2 20 222, 0 2 20 488, 0 2 24 603, 0 3 20 415, 0 3 20 1188, 0 2 29 410, \
         1 2 20 514, 0 3 20 954, 1 3 20 914, 0 2 30 728, 0 2 40 88, 2 2 20 676, 0 3 72 975, \
         2 2 20 944, 0 2 59 600, 2 2 29 352, 0 2 31 884, 0 3 20 1122, 0 2 36 619, \
         0 3 20 452, 0 3 20 925, 0 3 20 993, 0 3 60 790, 0 2 40 947, 1 2 20 50, 1 2 39 35, \
         1 3 20 992, 0 3 20 961, 0 2 34 244, 0 3 56 879, 2 3 20 135, 1 2 21 368, 0 2 42 156, \
         1 2 20 267, 3 3 23 676, 0 3 37 46, 1 3 36 692, 0 2 48 843, 2 2 25 923, 2 3 41 937, \
         0 3 20 217, 0 2 20 517, 1 2 42 821, 2 3 63 195, 3 3 65 15, 1 3 53 789, 0 2 47 239, \
         0 2 54 339, 1 3 59 977, 0 2 20 1074, 0 2 20 319, 0 2 20 920, 0 2 20 916, \
         0 2 20 894, 0 2 20 431, 0 2 20 1120, 0 2 20 1047, 1 2 20 850, 1 2 20 677, \
         1 2 20 785, 1 2 20 1121, 0 2 20 530",
        (0, 3, 1),
    ),
];

#[test]
fn who_comes_back_when_told_is_let_in_though_others_of_its_caller_stay_away() {
    for (before, last) in SIBLINGS_STAY_AWAY {
        let numbers = before.split_ascii_whitespace();
        let numbers: Vec<u64> = numbers
            .map(|number| number.trim_end_matches(',').parse().unwrap())
            .collect();
        let small = |number: u64| u8::try_from(number).unwrap();
        let before = numbers
            .chunks(4)
            .map(|ask| ((small(ask[0]), small(ask[1]), ask[2]), ask[3]));
        let (reason, let_in) = come_back(&before.collect::<Vec<_>>(), last, Duration::ZERO).unwrap();
        assert!(let_in, "{reason:?}, came back and was refused again: {last:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn who_comes_back_when_told_is_let_in(
        before in prop::collection::vec(((0_u8..4, 2_u8..4, 20_u64..200), 0_u64..1200), 20..80),
        last in (0_u8..6, 2_u8..4, 0_u64..30),
    ) {
        if let Some((reason, let_in)) = come_back(&before, last, Duration::ZERO) {
            prop_assert!(let_in, "{reason:?}, came back and was refused again");
        }
    }

    #[test]
    fn who_cannot_wait_could_not_have_come_a_second_earlier(
        before in prop::collection::vec(((0_u8..4, 2_u8..4, 100_u64..200), 0_u64..1200), 20..30),
        last in (0_u8..6, 2_u8..4, Just(0)),
    ) {
        if let Some((reason, let_in)) = come_back(&before, last, SECOND) {
            prop_assert!(!let_in, "{reason:?}, could have come a second earlier");
        }
    }
}
