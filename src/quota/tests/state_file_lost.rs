//! The state file on a disk that is full, gone from it, or in the hands of another process.

use std::fs::{self, File};
use std::time::Duration;

use jiff::SignedDuration;

use super::documented;
use super::state_file::{FILLING, at, open, open_short};
use crate::clock::Wall;
use crate::quota::local::Local;
use crate::quota::snapshot::Metrics;

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

#[tokio::test(start_paused = true)]
async fn another_process_that_keeps_the_file_is_told_of_until_it_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = documented();
    config.state_file = Some(dir.path().join("state"));
    let [first, second] = [(); 2].map(|()| Local::open(&config, Wall::system(), Metrics::default()).unwrap());
    let is_told = |local: &Local| {
        assert_eq!(local.unwritten(), None);
        local.is_file_shared()
    };
    // One that finishes its work may take so long.
    tokio::time::advance(Duration::from_mins(5)).await;
    assert!(!is_told(&second));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(is_told(&second));
    assert!(!is_told(&first), "it has the file");
    drop(first);
    assert!(!is_told(&second), "it took the file over");
    let third = Local::open(&config, Wall::system(), Metrics::default()).unwrap();
    tokio::time::advance(Duration::from_mins(6)).await;
    assert!(is_told(&third));
}
