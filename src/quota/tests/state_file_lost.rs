//! The state file on a disk that is full, or gone from it.

use std::fs::{self, File};

use jiff::SignedDuration;

use super::state_file::{FILLING, at, open, open_short};

#[test]
fn what_a_full_disk_did_not_take_is_written_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let mut state_file = open_short(&path, &at(0));
    let first = state_file.issued(&at(1), FILLING).unwrap();
    let working = std::mem::replace(&mut state_file.file, File::open(&path).unwrap());
    let in_the_way = dir.path().join("state.new");
    fs::create_dir(&in_the_way).unwrap();
    state_file.refunded(first, &at(2)).unwrap_err();
    let second = state_file.next_name();
    state_file.issued(&at(3), FILLING).unwrap_err();
    state_file.settled(second, &at(4)).unwrap_err();
    state_file.file = working;
    // The lines are taken again, and those before are missing still.
    state_file.issued(&at(5), FILLING).unwrap_err();
    state_file.mend(&at(6)).unwrap_err();
    fs::remove_dir(&in_the_way).unwrap();
    state_file.mend(&at(7)).unwrap();
    drop(state_file);
    let ages: Vec<_> = open(&path, &at(1000)).1.iter().map(SignedDuration::as_secs).collect();
    assert_eq!(
        ages,
        [996, 935],
        "what was refunded does not count, and what was settled counts from then"
    );
}

#[test]
fn a_disk_that_stays_full_does_not_fill_memory() {
    let dir = tempfile::tempdir().unwrap();
    let mut state_file = open_short(&dir.path().join("state"), &at(0));
    drop(dir);
    for second in 1..100 {
        state_file.issued(&at(second), FILLING).unwrap_err();
    }
    assert!(state_file.live.len() <= 21, "{} calls", state_file.live.len());
}

#[test]
fn a_file_that_was_removed_is_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let mut state_file = open_short(&path, &at(0));
    let mut besides = open_short(&path, &at(1));
    for second in 2..4 {
        state_file.issued(&at(second), FILLING).unwrap();
        besides.issued(&at(second), FILLING).unwrap();
    }
    for (second, by) in [(4, &mut state_file), (5, &mut besides)] {
        by.mend(&at(second)).unwrap();
        fs::remove_file(&path).unwrap();
        by.mend(&at(second)).unwrap();
    }
    assert_eq!(open(&path, &at(6)).1.len(), 2, "the calls of the one that looked");
    state_file.mend(&at(7)).unwrap();
    assert_eq!(open(&path, &at(8)).1.len(), 4);
}
