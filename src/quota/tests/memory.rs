//! What comes back from the state file, whatever has happened to it.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

use super::{HOUR, MINUTE};
use crate::quota::memory::Memory;
use crate::quota::pace::Filling;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + second).unwrap()
}

const FILLING: Filling = Filling {
    level: 12.5,
    rate: 0.4,
    lasts: Duration::from_secs(90),
};

fn open(path: &Path, now: Timestamp) -> (Memory, Vec<Timestamp>) {
    let (memory, past) = Memory::open(path, 1500, HOUR, MINUTE, now).unwrap();
    (memory, past.charges)
}

#[test]
fn the_bucket_comes_back_as_it_was_last_written_down() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let bucket = |now| Memory::open(&path, 1500, HOUR, MINUTE, now).unwrap().1.bucket;
    assert_eq!(bucket(at(0)), None);
    let (mut memory, _) = open(&path, at(0));
    memory.issued(at(1), Filling { level: 13.0, ..FILLING }).unwrap();
    memory.issued(at(2), FILLING).unwrap();
    assert_eq!(bucket(at(3)), Some((at(2), FILLING)));
    // Made compact, and torn.
    fs::write(&path, [&fs::read(&path).unwrap()[..], b"b 17900000"].concat()).unwrap();
    assert_eq!(bucket(at(4)), Some((at(2), FILLING)));
}

#[test]
fn charges_come_back_as_they_ended() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let (mut memory, before) = open(&path, at(0));
    assert!(before.is_empty());
    let settled = memory.issued(at(1), FILLING).unwrap();
    memory.settled(settled, at(2)).unwrap();
    let refunded = memory.issued(at(3), FILLING).unwrap();
    memory.refunded(refunded, at(4)).unwrap();
    memory.issued(at(5), FILLING).unwrap();
    drop(memory);
    // The one whose fate is unknown counts at its timeout, but no later than now.
    assert_eq!(open(&path, at(100)).1, [at(2), at(65)]);
    assert_eq!(open(&path, at(10_000)).1, []);
}

#[test]
fn an_unsettled_charge_counts_a_second_from_now_when_its_timeout_is_ahead() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    open(&path, at(0)).0.issued(at(1), FILLING).unwrap();
    assert_eq!(open(&path, at(2)).1, [at(3)]);
}

#[test]
fn torn_and_foreign_lines_are_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let good = at(1).as_microsecond();
    fs::write(
        &path,
        format!("s 1 {good}\nnonsense\ns x y\ns 2 {good} extra\n\u{0}\ns 3 179000"),
    )
    .unwrap();
    let (mut memory, counted) = open(&path, at(2));
    assert_eq!(counted, [at(1)]);
    let id = memory.issued(at(3), FILLING).unwrap();
    memory.settled(id, at(3)).unwrap();
    drop(memory);
    assert_eq!(open(&path, at(4)).1, [at(1), at(3)]);
}

#[test]
fn a_file_cut_at_any_byte_loses_the_torn_line_only_and_counts_no_call_less() {
    let dir = tempfile::tempdir().unwrap();
    let (path, cut) = (dir.path().join("state"), dir.path().join("cut"));
    let (mut memory, _) = open(&path, at(0));
    for second in 1..=12 {
        let id = memory.issued(at(second), FILLING).unwrap();
        match second % 3 {
            0 => memory.settled(id, at(second + 1)).unwrap(),
            1 => memory.refunded(id, at(second + 1)).unwrap(),
            _ => {}
        }
    }
    let whole = fs::read(&path).unwrap();
    let counted = |text: &[u8]| {
        fs::write(&cut, text).unwrap();
        let (mut memory, counted) = open(&cut, at(20));
        // What is remembered from then on is remembered behind whatever was there.
        memory.issued(at(20), FILLING).unwrap();
        drop(memory);
        assert_eq!(open(&cut, at(20)).1.len(), counted.len() + 1);
        counted
    };
    for end in 0..=whole.len() {
        let lines = whole[..end]
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        let left = counted(&whole[..end]);
        assert_eq!(left, counted(&whole[..lines]), "cut at {end}");
        let text = String::from_utf8_lossy(&whole[..lines]).into_owned();
        let facts = |kind: &str| text.lines().filter(|line| line.starts_with(kind)).count();
        assert_eq!(
            left.len(),
            facts("i ") - facts("r "),
            "cut at {end}: every call that may have left"
        );
    }
}

#[test]
fn a_line_that_a_full_disk_cut_off_spoils_no_later_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let (mut memory, _) = open(&path, at(0));
    let working = std::mem::replace(&mut memory.file, File::open(&path).unwrap());
    memory.issued(at(1), FILLING).unwrap_err();
    fs::write(&path, "i 0 17900").unwrap();
    memory.file = working;
    memory.issued(at(2), FILLING).unwrap();
    drop(memory);
    assert_eq!(open(&path, at(1000)).1, [at(62)]);
}

#[test]
fn the_highest_number_of_all_is_followed_by_others() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    fs::write(&path, format!("s {} {}\n", u64::MAX, at(1).as_microsecond())).unwrap();
    let (mut memory, before) = open(&path, at(2));
    assert_eq!(before, [at(1)]);
    let id = memory.issued(at(3), FILLING).unwrap();
    memory.settled(id, at(3)).unwrap();
    drop(memory);
    assert_eq!(open(&path, at(4)).1, [at(1), at(3)]);
}

#[test]
fn the_file_stays_small() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let (mut memory, _) = Memory::open(&path, 10, Duration::from_secs(10), MINUTE, at(0)).unwrap();
    for second in 0..20_000 {
        let id = memory.issued(at(second), FILLING).unwrap();
        memory.settled(id, at(second)).unwrap();
    }
    assert!(fs::metadata(&path).unwrap().len() < 60_000);
    assert!(memory.live.len() < 1200);
}
