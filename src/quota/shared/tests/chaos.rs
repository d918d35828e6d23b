//! Replicas are killed, and the store is frozen, emptied or told another time: calls leave again
//! soon, and no window is over.

use std::time::Duration;

use super::replicas::{Asking, MS, Replicas, SECOND};

/// A fifth of the documented limits, sixty times as fast: the next slot is never far.
const LIMITS: [(u32, Duration); 2] = [(20, Duration::from_secs(1)), (300, Duration::from_mins(1))];

/// Within so much time calls leave again.
const SOON: Duration = Duration::from_millis(1500);

/// Nine replicas with two callers each, in saturation.
fn saturated() -> Replicas {
    let mut replicas = Replicas::new(9, &LIMITS);
    for replica in 0..9 {
        for name in ["A", "B"] {
            replicas.ask(Asking::at(replica, name));
        }
    }
    replicas.pass(SECOND * 20);
    replicas
}

/// Judges until what was granted by mistake would have been seen.
fn judge(replicas: Replicas, what: &str, took: Duration) {
    judge_within(replicas, what, took, (SOON, 280));
}

/// The same with other bounds: when the next call has to leave, and how many in the 65 s after it.
fn judge_within(mut replicas: Replicas, what: &str, took: Duration, (most, least): (Duration, usize)) {
    println!("{what}: the next call after {took:?}");
    assert!(took <= most, "{what}: no call for {took:?}");
    let before = replicas.total();
    replicas.pass(SECOND * 65);
    replicas.assert_never_over(&LIMITS);
    let made = replicas.total() - before;
    assert!(made >= least, "{what}: {made} calls in the 65 s afterwards");
}

#[test]
fn calls_leave_again_after_a_third_of_the_replicas_was_killed() {
    let mut replicas = saturated();
    (0..3).for_each(|n| replicas.kill(n));
    let took = replicas.until_next_call();
    judge(replicas, "a third killed", took);
}

#[test]
fn calls_leave_again_after_the_store_was_emptied() {
    let mut replicas = saturated();
    replicas.store.flush();
    let took = replicas.until_next_call();
    judge(replicas, "the store emptied", took);
}

#[test]
fn calls_leave_again_after_the_store_was_emptied_and_a_third_of_the_replicas_killed() {
    let mut replicas = saturated();
    (0..3).for_each(|n| replicas.kill(n));
    replicas.store.flush();
    let took = replicas.until_next_call();
    judge(replicas, "a third killed, and the store emptied", took);
}

#[test]
fn calls_leave_again_after_the_store_was_frozen() {
    let mut replicas = saturated();
    replicas.freeze();
    replicas.pass(SECOND * 3);
    replicas.thaw();
    let took = replicas.until_next_call();
    judge(replicas, "frozen for 3 s", took);
}

/// Copies from before the freeze say less of what the missing were granted: these are waited for as
/// long as any may take to come, and the most that they can have been granted is charged.
#[test]
fn calls_leave_again_after_a_frozen_store_was_emptied_and_replicas_were_killed() {
    let mut replicas = saturated();
    replicas.freeze();
    replicas.pass(SECOND * 2);
    (0..3).for_each(|n| replicas.kill(n));
    replicas.pass(SECOND);
    replicas.store.flush();
    replicas.thaw();
    let took = replicas.until_next_call();
    judge_within(
        replicas,
        "frozen for 3 s, emptied, and a third killed",
        took,
        (SOON * 2, 250),
    );
}

/// The clock forgets calls that still count at the upstream: that is noticed, and the copies go
/// back in.
#[test]
fn calls_leave_again_after_the_clock_of_the_store_has_jumped_ahead() {
    for ahead in [MS * 20, MS * 300, SECOND * 3, SECOND * 70, SECOND * 86_400] {
        let mut replicas = saturated();
        replicas.ahead = ahead;
        let took = replicas.until_next_call();
        judge(replicas, &format!("a clock {ahead:?} ahead"), took);
    }
}

/// The one replica that knows of the latest calls is killed while the clock of the store jumps
/// ahead.
#[test]
fn no_window_is_over_when_the_clock_jumps_ahead_and_the_replicas_that_know_most_are_killed() {
    for ahead in [MS * 300, SECOND * 3, SECOND * 70] {
        for empties in [false, true] {
            let mut replicas = saturated();
            if empties {
                replicas.store.flush();
                replicas.pass(MS);
            }
            replicas.ahead = ahead;
            // Those who come for the burst of the replicas that are gone.
            (0..8).for_each(|n| replicas.kill(n));
            for _ in 0..2 {
                replicas.join();
            }
            for replica in [8, 9, 10] {
                replicas.ask(Asking {
                    waiting: 20,
                    ..Asking::at(replica, "C")
                });
            }
            replicas.pass(SECOND * 130);
            replicas.assert_never_over(&LIMITS);
        }
    }
}
