//! A store that goes back to older data of its own, under the same run.

use super::members::Few;
use super::store::waiting;

/// As when its machine is set back to a snapshot, or when a master takes over an older copy and
/// becomes master again.
#[test]
fn a_store_that_went_back_in_time_under_the_same_run_is_found_out() {
    for is_of_another_epoch in [false, true] {
        let mut few = Few::new(2, None);
        few.store.save("earlier");
        let earlier = few.epoch();
        if is_of_another_epoch {
            few.store.flush();
            (0..4).for_each(|_| (0..2).for_each(|n| few.step(n)));
        }
        assert!(few.is_granted(0));
        few.replicas[0].demand(&waiting("nobody", 0), few.start + few.now);
        few.store.load("earlier");
        few.step(0);
        assert_ne!(few.epoch(), earlier, "the next step begins a new one");
        (0..3).for_each(|_| (0..2).for_each(|n| few.step(n)));
        let [_, _, pending_calls, ..] = few.sharing.keys();
        assert_eq!(few.store.ask::<i64>(&["ZCARD", &pending_calls]), 1);
    }
}

/// Whoever steps first knew less, and its own step makes the numbers as high again.
#[test]
fn a_store_that_went_back_in_time_is_found_out_after_it_has_caught_up() {
    let mut few = Few::new(2, None);
    let rest = |few: &mut Few, n: usize| few.replicas[n].demand(&waiting("nobody", 0), few.start + few.now);
    (0..2).for_each(|_| (0..2).for_each(|n| few.step(n)));
    few.store.save("earlier");
    let earlier = few.epoch();
    assert!(few.is_granted(1));
    rest(&mut few, 1);
    few.step(1);
    few.store.load("earlier");
    assert!(few.is_granted(0));
    rest(&mut few, 0);
    few.step(0);
    assert_eq!(few.epoch(), earlier, "this one knew no more");
    few.step(1);
    assert_ne!(few.epoch(), earlier, "this one did");
    (0..3).for_each(|_| (0..2).for_each(|n| few.step(n)));
    let [_, _, pending_calls, ..] = few.sharing.keys();
    assert_eq!(few.store.ask::<i64>(&["ZCARD", &pending_calls]), 2);
}
