//! Without pacing only the windows hold calls back, over all replicas.

use std::time::Duration;

use super::replicas::{Asking, Replicas, SECOND};
use crate::quota::Pacing;

const LIMITS: [(u32, Duration); 2] = [(10, Duration::from_secs(10)), (50, Duration::from_secs(100))];

#[test]
fn replicas_use_the_long_window_up_as_fast_as_the_short_one_allows() {
    for (pacing, at_least, at_most) in [(Pacing::None, 49, 50), (Pacing::Spread, 25, 40)] {
        let mut replicas = Replicas::paced(2, &LIMITS, pacing);
        let busy = |replica, name| Asking {
            waiting: 10,
            ..Asking::at(replica, name)
        };
        replicas.ask(busy(0, "A"));
        replicas.ask(busy(1, "B"));
        replicas.pass(SECOND * 55);
        let total = replicas.total();
        assert!((at_least..=at_most).contains(&total), "{pacing:?}: {total} of 50 calls");
        replicas.pass(SECOND * 40);
        assert!(replicas.total() <= 50, "{pacing:?}: {}", replicas.total());
        replicas.pass(SECOND * 300);
        assert!(replicas.total() >= 180, "{pacing:?}: {}", replicas.total());
        replicas.assert_never_over(&LIMITS);
    }
}

/// Calls before the start are as unknown after an epoch as before it, whatever the store has lost.
#[test]
fn a_slow_start_goes_on_through_an_epoch() {
    for is_all_lost in [false, true] {
        let mut replicas = Replicas::slow_at_first(2, &LIMITS);
        if is_all_lost {
            replicas.store.flush();
        } else {
            replicas.store.evict(6);
        }
        replicas.pass(SECOND * 5);
        replicas.ask(Asking {
            waiting: 10,
            ..Asking::at(0, "A")
        });
        replicas.pass(SECOND * 40);
        let calls = replicas.total();
        assert!((15..=30).contains(&calls), "{calls} calls, all lost: {is_all_lost}");
        replicas.pass(SECOND * 300);
        assert!(replicas.total() - calls >= 140, "{}", replicas.total() - calls);
    }
}

/// Small limits are used up over replicas as they are alone: but for one call, whenever the longest
/// window would have let as many go as it holds, and once more, and so on.
#[test]
fn replicas_use_small_limits_up() {
    let mut wrong = Vec::new();
    for limits in [
        &[(1, SECOND * 10)][..],
        &[(2, SECOND * 10)],
        &[(5, SECOND * 10)],
        &[(12, SECOND * 10)],
        &[(20, SECOND * 60)],
        &[(3, SECOND), (10, SECOND * 10)],
    ] {
        let made = |pacing| {
            let mut replicas = Replicas::paced(2, limits, pacing);
            for (replica, name) in [(0, "A"), (1, "B")] {
                replicas.ask(Asking {
                    waiting: 10,
                    ..Asking::at(replica, name)
                });
            }
            replicas.pass(limits.last().unwrap().1 * 10);
            replicas.assert_never_over(limits);
            replicas.made
        };
        let (spread, unpaced) = (made(Pacing::Spread), made(Pacing::None));
        let calls = limits.last().unwrap().0 as usize;
        for made in (calls..unpaced.len()).step_by(calls) {
            let spread = spread.iter().filter(|at| **at < unpaced[made]).count();
            if spread + 1 < made {
                wrong.push(format!(
                    "{limits:?}: {spread} of {made} calls until {:?}",
                    unpaced[made]
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
