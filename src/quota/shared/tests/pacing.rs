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
