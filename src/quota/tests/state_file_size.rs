//! How long the state file gets.

use std::fs::{self, File};
use std::time::Duration;

use super::state_file::{FILLING, at, clocks, open, open_short};
use super::{HOUR, MINUTE};
use crate::quota::StateFile;

#[test]
fn the_file_stays_small() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let (mut state_file, _) = StateFile::open(&path, &[], 10, Duration::from_secs(10), MINUTE, &at(0)).unwrap();
    for second in 0..20_000 {
        let id = state_file.issued(&at(second), FILLING).unwrap();
        state_file.settled(id, &at(second)).unwrap();
    }
    assert!(fs::metadata(&path).unwrap().len() < 60_000);
    assert!(state_file.live.len() < 1200);
}

/// A process that makes no calls may have the right to rewrite the file for weeks.
#[test]
fn of_a_file_that_has_grown_long_the_end_counts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let _idle = open_short(&path, &at(0));
    let mut busy = open_short(&path, &at(1));
    let charge = |state_file: &mut StateFile, second| {
        let id = state_file.issued(&at(second), FILLING).unwrap();
        state_file.settled(id, &at(second)).unwrap();
    };
    charge(&mut busy, 2);
    let long = File::options().append(true).open(&path).unwrap();
    long.set_len(65 << 20).unwrap();
    for second in 3..10_003 {
        charge(&mut busy, second);
    }
    assert!(busy.live.len() < 4_500, "{}", busy.live.len());
    let (_, charges) = open(&path, &clocks("first-boot", 99_999, 10_003));
    assert!(
        (3590..=3600).contains(&charges.len()),
        "by the clock that its end names: {}",
        charges.len()
    );
    // Where no clock tells the time since boot, no line says what boot it was.
    for first in ["b ", "p ", "r ", "\nb ", "\np ", "\ns ", "\nr "] {
        fs::write(&path, format!("{first}1 2\n")).unwrap();
        long.set_len(65 << 20).unwrap();
        assert!(
            StateFile::open(&path, &[], 10, HOUR, MINUTE, &at(0)).is_ok(),
            "{first:?}"
        );
    }
    fs::write(&path, "a diary\n").unwrap();
    long.set_len(65 << 20).unwrap();
    assert!(
        StateFile::open(&path, &[], 10, HOUR, MINUTE, &at(0)).is_err(),
        "not ours"
    );
}

/// The line of a call cannot be written when the disk is full; the call counts all the same.
#[test]
fn a_file_that_is_taken_over_holds_calls_that_could_not_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let first = open_short(&path, &at(0));
    let mut besides = open_short(&path, &at(1));
    let unwritten = besides.issued(&at(2), FILLING).unwrap();
    fs::write(&path, "").unwrap();
    drop(first);
    // A clock that is stepped has the file written anew.
    besides.issued(&clocks("first-boot", 500, 3), FILLING).unwrap();
    assert!(besides.live.contains_key(&unwritten));
    drop(besides);
    let (_, charges) = open(&path, &clocks("first-boot", 501, 4));
    assert_eq!(charges.len(), 2);
}
