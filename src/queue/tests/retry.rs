//! `Retry-After` is exact: who comes when told is let in, and who cannot wait could not have come a second earlier.

use proptest::prelude::*;

use super::*;
use crate::queue::Reason;

/// Who asks, how urgently, and how long it may wait, in seconds.
type Ask = (u8, u8, u64);

/// After these requests, `gap` milliseconds apart, somebody is refused and comes back `early` before it was told to. Whether it is let in;
/// `None` when it was not refused.
fn come_back(before: &[(Ask, u64)], last: Ask, early: Duration) -> Option<(Reason, bool)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
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
            // What was refused is expected back, and does not come: then there is more room than was said.
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
