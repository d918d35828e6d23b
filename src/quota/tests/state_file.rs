//! What comes back from the state file, whatever has happened to it.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::{HOUR, MINUTE, documented};
use crate::clock::{BootTime, Reading, Wall};
use crate::quota::pacer::BucketState;
use crate::quota::{Metrics, Permit, Quota, StateFile};

/// Both clocks, on a machine whose wall clock is never stepped.
pub(super) fn at(second: i64) -> Reading {
    clocks("first-boot", second, second)
}

/// The wall clock shows that second, and the machine booted at second -1,000 by the other one.
pub(super) fn clocks(boot_id: &str, wall: i64, since_boot: i64) -> Reading {
    Reading {
        wall: Timestamp::from_second(1_790_000_000 + wall).unwrap(),
        boot: Some(BootTime {
            boot_id: boot_id.into(),
            elapsed: Duration::from_secs(u64::try_from(1000 + since_boot).unwrap()),
        }),
    }
}

/// So many seconds before the file was opened.
fn ago<const N: usize>(seconds: [i64; N]) -> [SignedDuration; N] {
    seconds.map(SignedDuration::from_secs)
}

pub(super) const FILLING: BucketState = BucketState {
    level: 12.5,
    rate: 0.4,
    lasts: Duration::from_secs(90),
};

pub(super) fn open(path: &Path, now: &Reading) -> (StateFile, Vec<SignedDuration>) {
    let (state_file, restored) = StateFile::open(path, &[], 1500, HOUR, MINUTE, now).unwrap();
    (state_file, restored.charges)
}

/// The same, made compact after a thousand facts.
pub(super) fn open_short(path: &Path, now: &Reading) -> StateFile {
    StateFile::open(path, &[], 10, HOUR, MINUTE, now).unwrap().0
}

#[test]
fn the_bucket_comes_back_as_it_was_last_written_down() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let bucket = |now| StateFile::open(&path, &[], 1500, HOUR, MINUTE, &now).unwrap().1.bucket;
    assert_eq!(bucket(at(0)), None);
    let (mut state_file, _) = open(&path, &at(0));
    state_file
        .issued(&at(1), BucketState { level: 13.0, ..FILLING })
        .unwrap();
    state_file.issued(&at(2), FILLING).unwrap();
    assert_eq!(bucket(at(3)), Some((SignedDuration::from_secs(1), FILLING)));
    // Made compact, and torn.
    fs::write(&path, [&fs::read(&path).unwrap()[..], b"b 17900000"].concat()).unwrap();
    assert_eq!(bucket(at(4)), Some((SignedDuration::from_secs(2), FILLING)));
}

#[test]
fn charges_of_a_predecessor_are_taken_over_once_for_each_time_it_was_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let [own, before, unused] = ["own", "before", "unused"].map(|name| dir.path().join(name));
    let charge = |path: &Path, now| {
        let (mut state_file, _) = open(path, &now);
        let id = state_file.issued(&now, FILLING).unwrap();
        state_file.settled(id, &now).unwrap();
    };
    let written = |path: &Path, second| {
        let time = UNIX_EPOCH + Duration::from_secs(second);
        File::options()
            .append(true)
            .open(path)
            .unwrap()
            .set_modified(time)
            .unwrap();
    };
    let predecessors = [before.clone(), unused];
    let reopen = |now| {
        StateFile::open(&own, &predecessors, 1500, HOUR, MINUTE, &now)
            .unwrap()
            .1
            .charges
    };
    charge(&before, at(0));
    charge(&before, at(1));
    assert_eq!(reopen(at(3)), ago([3, 2]));
    // They are in the new file now, which is the later one.
    written(&before, 1_000);
    charge(&own, at(4));
    assert_eq!(reopen(at(5)), ago([5, 4, 1]));
    // And back: the other one was in use meanwhile.
    charge(&before, at(6));
    written(&own, 1_000);
    assert_eq!(reopen(at(7)), ago([7, 6, 3, 1]));
}

#[test]
fn charges_come_back_as_they_ended() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let (mut state_file, before) = open(&path, &at(0));
    assert!(before.is_empty());
    let settled = state_file.issued(&at(1), FILLING).unwrap();
    state_file.settled(settled, &at(2)).unwrap();
    let refunded = state_file.issued(&at(3), FILLING).unwrap();
    state_file.refunded(refunded, &at(4)).unwrap();
    state_file.issued(&at(5), FILLING).unwrap();
    drop(state_file);
    // The one whose fate is unknown counts at its timeout, but no later than now.
    assert_eq!(open(&path, &at(100)).1, ago([98, 35]));
    assert_eq!(open(&path, &at(10_000)).1, []);
}

#[test]
fn an_unsettled_charge_counts_a_second_from_now_when_its_timeout_is_ahead() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    open(&path, &at(0)).0.issued(&at(1), FILLING).unwrap();
    assert_eq!(open(&path, &at(2)).1, ago([-1]));
}

#[test]
fn torn_and_foreign_lines_are_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let good = at(1).wall.as_microsecond();
    fs::write(
        &path,
        format!("s 1 {good}\nnonsense\ns x y\ns 2 {good} extra\n\u{0}\ns 3 179000"),
    )
    .unwrap();
    let (mut state_file, counted) = open(&path, &at(2));
    assert_eq!(counted, ago([1]));
    let id = state_file.issued(&at(3), FILLING).unwrap();
    state_file.settled(id, &at(3)).unwrap();
    drop(state_file);
    assert_eq!(open(&path, &at(4)).1, ago([3, 1]));
}

#[test]
fn a_file_cut_at_any_byte_loses_the_torn_line_only_and_counts_no_call_less() {
    let dir = tempfile::tempdir().unwrap();
    let (path, cut) = (dir.path().join("state"), dir.path().join("cut"));
    let (mut state_file, _) = open(&path, &at(0));
    for second in 1..=12 {
        let id = state_file.issued(&at(second), FILLING).unwrap();
        match second % 3 {
            0 => state_file.settled(id, &at(second + 1)).unwrap(),
            1 => state_file.refunded(id, &at(second + 1)).unwrap(),
            _ => {}
        }
    }
    let whole = fs::read(&path).unwrap();
    let counted = |text: &[u8]| {
        fs::write(&cut, text).unwrap();
        let (mut state_file, counted) = open(&cut, &at(20));
        // What is remembered from then on is remembered behind whatever was there.
        state_file.issued(&at(20), FILLING).unwrap();
        drop(state_file);
        assert_eq!(open(&cut, &at(20)).1.len(), counted.len() + 1);
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
    let (mut state_file, _) = open(&path, &at(0));
    let working = std::mem::replace(&mut state_file.file, File::open(&path).unwrap());
    state_file.issued(&at(1), FILLING).unwrap_err();
    fs::write(&path, "i 0 17900").unwrap();
    state_file.file = working;
    // There is room for a line, and none for all of them.
    let in_the_way = dir.path().join("state.new");
    fs::create_dir(&in_the_way).unwrap();
    state_file.issued(&at(2), FILLING).unwrap_err();
    drop(state_file);
    fs::remove_dir(&in_the_way).unwrap();
    assert_eq!(open(&path, &at(1000)).1, ago([938]));
}

#[test]
fn the_highest_number_of_all_is_followed_by_others() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    fs::write(&path, format!("s {} {}\n", u64::MAX, at(1).wall.as_microsecond())).unwrap();
    let (mut state_file, before) = open(&path, &at(2));
    assert_eq!(before, ago([1]));
    let id = state_file.issued(&at(3), FILLING).unwrap();
    state_file.settled(id, &at(3)).unwrap();
    drop(state_file);
    assert_eq!(open(&path, &at(4)).1, ago([3, 1]));
}

#[test]
fn a_process_that_comes_while_another_has_the_file_takes_nothing_away() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let charge = |state_file: &mut StateFile, second| {
        let id = state_file.issued(&at(second), FILLING).unwrap();
        state_file.settled(id, &at(second)).unwrap();
    };
    let read_back = |second| {
        let mut charges = open(&path, &at(second)).1;
        charges.sort();
        charges
    };
    let mut gateway = open_short(&path, &at(0));
    charge(&mut gateway, 1);
    // Such as `probe`, which the runbooks advise.
    let (mut probe, known) = open(&path, &at(2));
    assert_eq!(known, ago([1]));
    charge(&mut probe, 3);
    charge(&mut gateway, 4);
    drop(probe);
    assert_eq!(read_back(5), ago([1, 2, 4]));
    // Nor is what it has written lost when the file is made compact.
    for _ in 0..1_000 {
        let id = gateway.issued(&at(10), FILLING).unwrap();
        gateway.refunded(id, &at(10)).unwrap();
    }
    assert!(fs::metadata(&path).unwrap().len() < 90_000, "it was made compact");
    charge(&mut gateway, 11);
    assert_eq!(read_back(12), ago([1, 8, 9, 11]));
    drop(gateway);
    assert_eq!(read_back(13), ago([2, 9, 10, 12]));
}

#[test]
fn a_process_that_stays_when_the_other_has_gone_makes_the_file_compact() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let [mut before, mut after] = [0, 1].map(|second| open_short(&path, &at(second)));
    let id = before.issued(&at(2), FILLING).unwrap();
    before.settled(id, &at(2)).unwrap();
    drop(before);
    for _ in 0..1_000 {
        let id = after.issued(&at(3), FILLING).unwrap();
        after.refunded(id, &at(3)).unwrap();
    }
    let last = after.issued(&at(4), FILLING).unwrap();
    assert!(fs::metadata(&path).unwrap().len() < 90_000, "it was made compact");
    after.settled(last, &at(5)).unwrap();
    assert_eq!(open(&path, &at(6)).1, ago([4, 1]), "what it had not read is kept");
}

#[test]
fn what_a_longer_window_counts_is_kept_from_when_it_is_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let (mut state_file, _) = StateFile::open(&path, &[], 10, MINUTE, MINUTE, &at(0)).unwrap();
    let id = state_file.issued(&at(1), FILLING).unwrap();
    state_file.settled(id, &at(1)).unwrap();
    state_file.extend(10, HOUR, MINUTE, &at(2)).unwrap();
    for _ in 0..1_000 {
        let id = state_file.issued(&at(600), FILLING).unwrap();
        state_file.refunded(id, &at(600)).unwrap();
    }
    assert!(fs::metadata(&path).unwrap().len() < 90_000, "it was made compact");
    let kept = open(&path, &at(601)).1;
    assert!(
        kept.contains(&ago([600])[0]),
        "beside those that may have been made before"
    );
}

#[test]
fn no_file_beside_it_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("quota.new");
    fs::write(&other, "somebody else's").unwrap();
    for name in ["quota.history", "quota.definitions"] {
        open(&dir.path().join(name), &at(0));
    }
    assert_eq!(fs::read(&other).unwrap(), b"somebody else's");
}

#[test]
fn within_a_boot_no_step_of_the_wall_clock_changes_the_age_of_a_charge() {
    let dir = tempfile::tempdir().unwrap();
    for step in [-86_400, -7200, -2, 0, 2, 7200, 31_536_000] {
        let path = dir.path().join(format!("state{step}"));
        let (mut state_file, _) = open(&path, &at(0));
        let id = state_file.issued(&at(1), FILLING).unwrap();
        state_file.settled(id, &at(2)).unwrap();
        drop(state_file);
        // Stepped while the program was down.
        let (mut state_file, before) = open(&path, &clocks("first-boot", 10 + step, 10));
        assert_eq!(before, ago([8]), "a step of {step} s");
        // And stepped back while it runs.
        let id = state_file.issued(&at(11), FILLING).unwrap();
        state_file.settled(id, &at(12)).unwrap();
        drop(state_file);
        let (_, restored) =
            StateFile::open(&path, &[], 1500, HOUR, MINUTE, &clocks("first-boot", 20 - step, 20)).unwrap();
        assert_eq!(restored.charges, ago([18, 8]), "a step of {step} s");
        assert_eq!(restored.bucket, Some((SignedDuration::from_secs(9), FILLING)));
    }
}

#[test]
fn across_boots_the_wall_clock_tells_the_age_as_it_was_last_corrected() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    // The machine came up with a clock that is a day behind, and was corrected after the first
    // call.
    let (mut state_file, _) = open(&path, &clocks("first-boot", -86_400, 0));
    let first = state_file.issued(&clocks("first-boot", -86_399, 1), FILLING).unwrap();
    state_file.settled(first, &clocks("first-boot", -86_398, 2)).unwrap();
    let second = state_file.issued(&at(3), FILLING).unwrap();
    state_file.settled(second, &at(4)).unwrap();
    drop(state_file);
    assert_eq!(open(&path, &clocks("second-boot", 100, -990)).1, ago([98, 96]));
    // Once read, they are known on the second boot's clock.
    assert_eq!(open(&path, &clocks("second-boot", 99_999, -980)).1, ago([108, 106]));
}

#[test]
fn a_file_of_an_earlier_version_is_read_by_the_wall_clock_and_readable_by_that_version() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let written = at(1).wall.as_microsecond();
    fs::write(
        &path,
        format!("s 1 {written}\nb {written} 12500000 400000000 90000000\n"),
    )
    .unwrap();
    let (mut state_file, before) = open(&path, &at(5));
    assert_eq!(before, ago([4]));
    let id = state_file.issued(&at(6), FILLING).unwrap();
    state_file.settled(id, &at(7)).unwrap();
    drop(state_file);
    let text = fs::read_to_string(&path).unwrap();
    let mut charges = text.lines().filter(|line| line.starts_with("s "));
    assert!(charges.all(|line| line.split(' ').count() == 3));
    let last = text.lines().last().unwrap();
    assert_eq!(last, format!("s 1 {}", at(7).wall.as_microsecond()), "as Unix time");
    // Where the system tells no time since boot, the wall clock is all there is.
    let wall_only = Reading { boot: None, ..at(9) };
    assert_eq!(open(&path, &wall_only).1, ago([8, 2]));
}

#[tokio::test(start_paused = true)]
async fn a_clock_stepped_forward_while_the_program_was_down_gives_no_call_away() {
    let dir = tempfile::tempdir().unwrap();
    let config = documented().state_file(Some(dir.path().join("state")));
    let wall = Wall::anchored(at(0).wall);
    let quota = Quota::open(&config, wall.clone(), Metrics::default()).unwrap();
    let calls = std::iter::from_fn(|| quota.take(Instant::now()).ok());
    assert_eq!(calls.map(Permit::settle).count(), 100);
    drop(quota);
    tokio::time::advance(Duration::from_secs(1)).await;
    let stepped = wall.stepped(SignedDuration::from_hours(3));
    let quota = Quota::open(&config, stepped, Metrics::default()).unwrap();
    assert!(quota.take(Instant::now()).is_err());
    assert_eq!(quota.snapshot().windows[0].used, 100);
    // Nothing is forgotten for ever either.
    tokio::time::advance(MINUTE).await;
    assert!(quota.take(Instant::now()).is_ok());
}
