//! Limits that change from process to process, and what the state file knows then.

use std::path::Path;
use std::time::Duration;

use jiff::SignedDuration;
use tokio::time::{Instant, advance};

use super::state_file::{FILLING, at};
use super::{HOUR, MINUTE, TIMEOUT, limit};
use crate::clock::Wall;
use crate::quota::{Config, Limit, Metrics, Pacing, Permit, Quota, StateFile};

const DAY: Duration = Duration::from_hours(24);

fn config(path: &Path, limits: &[(u32, Duration)]) -> Config {
    let limits: Vec<_> = limits.iter().map(|(calls, window)| limit(*calls, *window)).collect();
    let burst = limits.iter().map(Limit::calls).min().unwrap();
    let burst = u32::try_from(burst).unwrap().try_into().unwrap();
    let config = Config::try_new(limits, burst, TIMEOUT).unwrap();
    config.pacing(Pacing::None).state_file(Some(path.join("state")))
}

/// A process with these limits.
fn process(config: &Config, wall: &Wall) -> Quota {
    Quota::open(config, wall.clone(), Metrics::default()).unwrap()
}

/// Makes all calls that can be made in so long.
async fn use_up(quota: &Quota, time: Duration) -> usize {
    let (end, mut made) = (Instant::now() + time, 0);
    while Instant::now() < end {
        made += std::iter::from_fn(|| quota.take(Instant::now()).ok())
            .map(Permit::settle)
            .count();
        advance(Duration::from_secs(1)).await;
    }
    made
}

/// How many calls count in the longest window.
fn used(quota: &Quota) -> usize {
    quota.snapshot().windows.last().unwrap().used
}

const DOCUMENTED: [(u32, Duration); 2] = [(100, MINUTE), (1500, HOUR)];

/// A day besides the hour.
const LONG: [(u32, Duration); 2] = [(1500, HOUR), (5000, DAY)];

#[tokio::test(start_paused = true)]
async fn limits_that_are_tightened_by_a_restart_and_taken_back_by_another_forget_no_call() {
    let (folder, wall) = (tempfile::tempdir().unwrap(), Wall::anchored(at(0).wall));
    let [wide, narrow] = [&DOCUMENTED[..], &[(20, MINUTE)]].map(|limits| config(folder.path(), limits));
    let quota = process(&wide, &wall);
    let before = use_up(&quota, MINUTE * 14).await;
    assert!((1300..1500).contains(&before), "{before}");
    drop(quota);
    let quota = process(&narrow, &wall);
    let meanwhile = use_up(&quota, MINUTE * 4).await;
    assert!((60..=80).contains(&meanwhile), "{meanwhile}");
    // A change while it runs, or another restart.
    quota.reconfigure(&wide);
    assert_eq!(used(&quota), before + meanwhile);
    drop(quota);
    assert_eq!(used(&process(&wide, &wall)), before + meanwhile);
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_a_window_longer_than_any_before_is_full_of_what_may_have_been_made() {
    let (folder, wall) = (tempfile::tempdir().unwrap(), Wall::anchored(at(0).wall));
    let [hour, day] = [&DOCUMENTED[..], &LONG].map(|limits| config(folder.path(), limits));
    use_up(&process(&hour, &wall), HOUR * 3).await;
    for _ in 0..2 {
        assert_eq!(used(&process(&day, &wall)), 5000);
    }
    // While it is not looked at for an hour, it is known.
    use_up(&process(&hour, &wall), HOUR).await;
    let quota = process(&day, &wall);
    assert_eq!(use_up(&quota, HOUR).await, 0);
    // In the end the unknown past is over.
    advance(DAY).await;
    assert!(use_up(&quota, MINUTE).await > 0);
}

#[tokio::test(start_paused = true)]
async fn a_window_that_was_lengthened_while_the_process_ran_is_as_full_after_a_restart() {
    let (folder, wall) = (tempfile::tempdir().unwrap(), Wall::anchored(at(0).wall));
    let [hour, day] = [&DOCUMENTED[..], &LONG].map(|limits| config(folder.path(), limits));
    let quota = process(&hour, &wall);
    use_up(&quota, HOUR * 3).await;
    quota.reconfigure(&day);
    assert_eq!(used(&quota), 5000);
    drop(quota);
    assert_eq!(used(&process(&day, &wall)), 5000);
}

/// A first start assumes what `on_unknown_past` says.
#[tokio::test(start_paused = true)]
async fn with_nothing_written_nothing_is_missing() {
    let (folder, wall) = (tempfile::tempdir().unwrap(), Wall::anchored(at(0).wall));
    assert_eq!(used(&process(&config(folder.path(), &LONG), &wall)), 0);
}

#[test]
fn a_call_counts_as_late_as_the_process_that_made_it_allowed_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let open = |attempt, now| StateFile::open(&path, &[], 1500, HOUR, attempt, &at(now)).unwrap();
    let (mut state_file, _) = open(MINUTE, 0);
    state_file.issued(&at(1), FILLING).unwrap();
    drop(state_file);
    let charges = open(Duration::from_secs(10), 100).1.charges;
    assert_eq!(charges, [SignedDuration::from_secs(100 - 61)]);
}

#[test]
fn a_file_of_calls_that_no_limit_needs_any_more_stays_small() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let (mut state_file, _) = StateFile::open(&path, &[], 100, HOUR, MINUTE, &at(0)).unwrap();
    for second in 0..2_500 {
        let id = state_file.issued(&at(second), FILLING).unwrap();
        state_file.settled(id, &at(second)).unwrap();
    }
    assert!(state_file.live.len() < 1200, "{}", state_file.live.len());
    let charges = StateFile::open(&path, &[], 100, HOUR, MINUTE, &at(2_500)).unwrap();
    assert!(charges.1.charges.len() >= 100);
}
