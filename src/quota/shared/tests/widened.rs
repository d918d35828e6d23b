//! Limits that reach further back than those of all replicas before, and lower ones.

use std::time::Duration;

use super::replicas::{Asking, Replicas, config};
use crate::quota::Pacing;

const SECOND: Duration = Duration::from_secs(1);
const SHORT: (u32, Duration) = (5, Duration::from_secs(10));
const LONG: (u32, Duration) = (50, Duration::from_mins(10));

/// A replica with the short window alone makes forty calls and is replaced by one with both, which
/// makes as many as it can. How many there were after a minute, in the first long window, and at
/// last.
fn calls(remembers: (usize, Duration), change: Option<(&str, &str)>) -> [usize; 3] {
    let of = |limits: &[(u32, Duration)]| config(limits, Pacing::None).remembering(remembers.0, remembers.1);
    let mut replicas = Replicas::over(1, of(&[SHORT]), change);
    replicas.ask(Asking {
        waiting: 40,
        patience: SECOND * 600,
        goes_on: false,
        ..Asking::at(0, "narrow")
    });
    replicas.pass(SECOND * 120);
    assert_eq!(replicas.total(), 40);
    replicas.config = of(&[SHORT, LONG]);
    replicas.join();
    replicas.pass(SECOND);
    replicas.kill(0);
    replicas.ask(Asking {
        patience: SECOND * 600,
        ..Asking::at(1, "wide")
    });
    replicas.pass(SECOND * 60);
    let soon = replicas.total();
    replicas.pass(SECOND * 400);
    let first = replicas.total();
    replicas.pass(LONG.1);
    [soon, first, replicas.total()]
}

#[test]
fn what_is_remembered_for_wider_limits_counts_in_them() {
    let [soon, first, at_last] = calls((50, LONG.1 + SECOND), None);
    assert_eq!((soon, first), (50, 50));
    assert!(at_last > 90, "{at_last}");
}

#[test]
fn what_was_forgotten_counts_as_the_most_that_can_have_been() {
    let [soon, first, at_last] = calls((0, Duration::ZERO), None);
    assert_eq!((soon, first), (40, 40));
    assert!(at_last > 80, "{at_last}");
}

#[test]
fn a_script_that_takes_what_was_forgotten_for_nothing_is_found_out() {
    let mistake = ("if state.keep > 0 and (keep", "if false and (keep");
    let [soon, ..] = calls((0, Duration::ZERO), Some(mistake));
    assert!(soon > 50, "{soon}");
}

#[test]
fn a_lowered_limit_is_used_as_soon_as_its_window_has_room() {
    let mut replicas = Replicas::over(1, config(&[LONG], Pacing::None), None);
    replicas.ask(Asking {
        waiting: 40,
        patience: SECOND * 600,
        goes_on: false,
        ..Asking::at(0, "before")
    });
    replicas.pass(SECOND * 10);
    assert_eq!(replicas.total(), 40);
    replicas.config = config(&[(20, LONG.1)], Pacing::Spread);
    replicas.join();
    replicas.pass(SECOND);
    replicas.kill(0);
    replicas.ask(Asking {
        patience: SECOND * 3600,
        ..Asking::at(1, "after")
    });
    // When all of the first have left the window, and half a window later.
    replicas.pass(LONG.1);
    let first = replicas.total();
    assert!(first <= 42, "{first}");
    replicas.pass(LONG.1 / 2);
    let later = replicas.total();
    assert!(later >= first + 8, "{first} {later}");
}
