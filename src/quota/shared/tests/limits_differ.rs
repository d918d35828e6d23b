//! Members that go by different limits, as in a rollout.

use std::time::Duration;

use super::members::Few;
use crate::quota::shared::Timing;

const SECOND: Duration = Duration::from_secs(1);

/// The names of members come with what each step brings, as ever; so it does not matter which
/// version's script runs.
#[test]
fn limits_that_differ_are_known_to_all_until_the_last_with_other_ones_has_left_or_lapsed() {
    let lease = Timing::new(SECOND / 4).lease;
    let mut few = Few::new(2, None);
    let others = |few: &Few, n: usize| {
        let snapshot = few.replicas[n].snapshot(few.start + few.now);
        snapshot.other_limits.map(|other| other.replicas)
    };
    assert_eq!(others(&few, 0), None, "versions that do not tell their limits");
    for limits in ["a", "a", "b", "c"] {
        few.join_as(&format!("r{}-{limits}", few.replicas.len()));
    }
    for _ in 0..3 {
        (0..6).for_each(|n| few.step(n));
    }
    assert_eq!(
        [0, 1, 2, 3, 4, 5].map(|n| others(&few, n)),
        [None, None, Some(2), Some(2), Some(3), Some(3)]
    );
    // One leaves, and one is killed.
    few.leave(4);
    few.step(2);
    let since = |few: &Few| few.replicas[2].copy.other_limits.unwrap().since;
    let begun = since(&few);
    few.now += lease / 2;
    for n in [0, 1, 2, 3] {
        few.step(n);
    }
    assert_eq!((others(&few, 2), since(&few)), (Some(1), begun));
    few.now += lease / 2;
    few.step(2);
    few.step(3);
    assert_eq!([2, 3].map(|n| others(&few, n)), [None, None]);
}
