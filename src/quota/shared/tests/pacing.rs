//! Without pacing only the windows hold calls back, over all replicas.

use std::time::Duration;

use super::fleet::{Asking, Fleet, SECOND};
use crate::quota::Pacing;

const LIMITS: [(u32, Duration); 2] = [(10, Duration::from_secs(10)), (50, Duration::from_secs(100))];

#[test]
fn replicas_use_the_long_window_up_as_fast_as_the_short_one_allows() {
    for (pacing, at_least, at_most) in [(Pacing::None, 49, 50), (Pacing::Spread, 25, 40)] {
        let mut fleet = Fleet::paced(2, &LIMITS, pacing);
        let busy = |replica, name| Asking {
            waiting: 10,
            ..Asking::at(replica, name)
        };
        fleet.ask(busy(0, "A"));
        fleet.ask(busy(1, "B"));
        fleet.pass(SECOND * 55);
        let total = fleet.total();
        assert!((at_least..=at_most).contains(&total), "{pacing:?}: {total} of 50 calls");
        fleet.pass(SECOND * 40);
        assert!(fleet.total() <= 50, "{pacing:?}: {}", fleet.total());
        fleet.pass(SECOND * 300);
        assert!(fleet.total() >= 180, "{pacing:?}: {}", fleet.total());
        fleet.assert_never_over(&LIMITS);
    }
}

/// Small limits are used up over replicas as they are alone: but for one call, spread or not.
#[test]
fn replicas_use_small_limits_up() {
    for limits in [
        &[(1, SECOND * 10)][..],
        &[(2, SECOND * 10)],
        &[(5, SECOND * 10)],
        &[(12, SECOND * 10)],
        &[(20, SECOND * 60)],
        &[(3, SECOND), (10, SECOND * 10)],
    ] {
        let used = |pacing| {
            let mut fleet = Fleet::paced(2, limits, pacing);
            for (replica, name) in [(0, "A"), (1, "B")] {
                fleet.ask(Asking {
                    waiting: 10,
                    ..Asking::at(replica, name)
                });
            }
            let (calls, window) = *limits.last().unwrap();
            fleet.pass(SECOND * 600);
            fleet.assert_never_over(limits);
            let from = fleet.made[0];
            let full = (0..).map(|n| fleet.made.iter().filter(|at| **at < from + window * n).count());
            (calls as usize, full.take(9).collect::<Vec<_>>())
        };
        let ((calls, spread), (_, unpaced)) = (used(Pacing::Spread), used(Pacing::None));
        println!("{limits:?}: {spread:?} of {unpaced:?}");
        // Answers take their time, so each window comes a little later than the one before: its calls may have left in one case only.
        for (n, (spread, unpaced)) in spread.iter().zip(&unpaced).enumerate().skip(1) {
            assert!(
                spread + calls >= *unpaced,
                "{limits:?}, {n} windows: {spread} of {unpaced}"
            );
        }
    }
}
