//! Limits that change while calls are under way.

use std::num::NonZeroU32;
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::{HOUR, MINUTE, Rng, TIMEOUT, after, documented, limit, most_in_any, refused, said};
use crate::clock::Wall;
use crate::quota::ledger::{Charge, Ledger};
use crate::quota::{Config, Limit, Metrics, Quota, QuotaState};

/// The tables that take turns: tighter, wider, other windows, a longer and a shorter last window.
fn tables() -> Vec<Vec<Limit>> {
    let ms = Duration::from_millis;
    vec![
        vec![limit(3, ms(500)), limit(7, ms(2000))],
        vec![limit(2, ms(500)), limit(3, ms(2000))],
        vec![limit(4, ms(500)), limit(20, ms(2000))],
        vec![limit(3, ms(700)), limit(12, ms(5000))],
        vec![limit(2, ms(300))],
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Issue,
    Settle(usize),
    Retune(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0_u64..400).prop_map(Step::Wait),
        12 => Just(Step::Issue),
        8 => (0_usize..8).prop_map(Step::Settle),
        1 => (0_usize..5).prop_map(Step::Retune),
    ];
    prop::collection::vec(step, 1..400)
}

/// The latest moment at which a call may have reached the upstream.
fn latest(issued: Instant, ended: Option<Instant>) -> Instant {
    ended.unwrap_or(issued + ATTEMPT)
}

const ATTEMPT: Duration = Duration::from_millis(900);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Every call there ever was counts, under whatever limits it was made.
    #[test]
    fn no_call_passes_the_limits_of_its_moment(steps in steps()) {
        let mut limits = tables().remove(0);
        let mut now = Instant::now();
        let mut ledger = Ledger::new(limits.clone(), ATTEMPT);
        let mut calls: Vec<(Charge, Instant, Option<Instant>)> = Vec::new();
        for step in steps {
            ledger.sweep(now);
            match step {
                Step::Wait(ms) => now += Duration::from_millis(ms),
                Step::Issue => {
                    if ledger.opening(now).is_none_or(|at| at > now) {
                        continue;
                    }
                    for limit in &limits {
                        let inside = calls.iter().filter(|(_, issued, ended)| latest(*issued, *ended) + limit.window() > now);
                        prop_assert!(inside.count() < limit.calls(), "{limit:?}");
                    }
                    calls.push((ledger.issue(now), now, None));
                }
                Step::Settle(pick) => {
                    let pending_calls = calls.iter_mut().filter(|(_, issued, ended)| ended.is_none() && *issued + ATTEMPT > now);
                    let pending_calls: Vec<_> = pending_calls.collect();
                    let count = pending_calls.len();
                    if let Some(call) = pending_calls.into_iter().nth(pick % count.max(1)) {
                        ledger.settle(call.0, now);
                        call.2 = Some(now);
                    }
                }
                Step::Retune(table) => {
                    limits = tables().remove(table);
                    ledger.reconfigure(limits.clone(), ATTEMPT, now);
                }
            }
        }
    }
}

fn config(limits: &[(u32, Duration)], burst: u32) -> Config {
    let limits = limits.iter().map(|(calls, window)| limit(*calls, *window)).collect();
    Config::try_new(limits, NonZeroU32::new(burst).unwrap(), TIMEOUT).unwrap()
}

/// A caller who takes every slot, while an operator changes the limits every few minutes, for a
/// day.
#[test]
fn the_upstream_never_sees_more_than_its_limits_through_a_day_of_changes() {
    let tables = [
        documented(),
        config(&[(10, MINUTE), (100, HOUR)], 10),
        config(&[(100, MINUTE), (1500, HOUR)], 20),
        config(&[(50, MINUTE)], 50),
        config(&[(100, MINUTE), (400, HOUR / 2)], 100),
        config(&[(100, MINUTE), (1500, HOUR), (3000, HOUR * 2)], 100),
    ];
    // What a table without a limit per hour lets through is no fault: 50 a minute are 3000 an hour.
    let upstream = [(MINUTE, 100), (HOUR, 3000)];
    let mut rng = Rng::new(7);
    let start = Instant::now();
    let mut quota_state = QuotaState::new(&tables[0], start);
    let (mut now, mut arrivals, mut due) = (start, Vec::new(), start + MINUTE * 5);
    while now < start + HOUR * 24 {
        if now >= due {
            let index = usize::try_from(rng.up_to(Duration::from_secs(6)).as_secs()).unwrap();
            quota_state.reconfigure(&tables[index], now);
            due = now + rng.up_to(MINUTE * 40);
        }
        match quota_state.take(now) {
            Ok(charge) => {
                arrivals.push(now);
                quota_state.settle(charge, now);
            }
            Err(Some(at)) => now = at.min(due).max(now + Duration::from_millis(1)),
            Err(None) => now += Duration::from_millis(100),
        }
    }
    assert!(arrivals.len() > 3000, "{} calls in a day", arrivals.len());
    for (window, calls) in upstream {
        let most = most_in_any(window, &arrivals);
        assert!(most <= calls, "{most} calls in {window:?}");
    }
}

#[test]
fn tighter_limits_count_what_was_made_before_and_wider_ones_again_all_of_it() {
    let now = Instant::now();
    let mut quota_state = QuotaState::new(&documented(), now);
    for _ in 0..80 {
        let charge = quota_state.take(now).unwrap();
        quota_state.settle(charge, now);
    }
    quota_state.reconfigure(&config(&[(10, MINUTE), (100, HOUR)], 10), now);
    let windows = quota_state.windows(now);
    assert_eq!(
        (windows[0].used, windows[0].remaining),
        (10, 0),
        "at most what the window holds is shown"
    );
    assert_eq!((windows[1].used, windows[1].remaining), (80, 20));
    assert!(quota_state.take(now).is_err());
    quota_state.reconfigure(&documented(), now + MINUTE / 2);
    assert_eq!(quota_state.windows(now + MINUTE / 2)[0].used, 80);
}

#[test]
fn a_window_that_reaches_further_back_than_memory_is_taken_to_be_as_full_as_it_can_be() {
    let start = Instant::now();
    let mut quota_state = QuotaState::new(&documented(), start);
    let charge = quota_state.take(start).unwrap();
    quota_state.settle(charge, start);
    // Nothing is forgotten yet: the longer window is known.
    quota_state.reconfigure(&config(&[(100, MINUTE), (3000, HOUR * 2)], 100), start + MINUTE);
    assert_eq!(quota_state.windows(start + MINUTE)[1].used, 1);

    let later = start + HOUR * 3;
    let mut quota_state = QuotaState::new(&documented(), start);
    for at in [start, later] {
        let charge = quota_state.take(at).unwrap();
        quota_state.settle(charge, at);
    }
    let now = later + MINUTE;
    // The call three hours ago was forgotten; it and whatever else was is outside of two hours, but
    // not of six.
    let mut two = quota_state.clone();
    two.reconfigure(&config(&[(100, MINUTE), (3000, HOUR * 2)], 100), now);
    assert_eq!(two.windows(now)[1].used, 1);
    quota_state.reconfigure(&config(&[(100, MINUTE), (9000, HOUR * 6)], 100), now);
    assert_eq!(quota_state.windows(now)[1].used, 9000);
}

#[test]
fn another_burst_and_another_long_window_hold_at_once() {
    let (start, mut quota_state) = refused(said(HOUR, 1800));
    let over = after(start, 1800);
    let probe = quota_state.take(over).unwrap();
    quota_state.settle(probe, over);
    assert!(quota_state.foreign(over) > 0);
    quota_state.reconfigure(&config(&[(100, MINUTE), (3000, HOUR)], 10), over);
    assert_eq!(quota_state.foreign(over), 0, "it was found out about another window");
    let later = over + MINUTE * 10;
    let calls = std::iter::from_fn(|| quota_state.take(later).ok()).count();
    assert_eq!(calls, 10);
}

/// Before what its state file remembers, the process before may have made as many as its limits
/// let go.
#[tokio::test(start_paused = true)]
async fn after_a_restart_a_longer_window_is_taken_to_be_as_full_as_it_can_be() {
    tokio::time::advance(HOUR * 3).await;
    let dir = tempfile::tempdir().unwrap();
    let config = documented().state_file(Some(dir.path().join("state")));
    let wall = Wall::anchored(jiff::Timestamp::from_second(1_790_000_000).unwrap());
    let quota = Quota::open(&config, wall, Metrics::default()).unwrap();
    assert_eq!(quota.snapshot().windows[1].used, 0);
    quota.reconfigure(&self::config(&[(100, MINUTE), (3000, HOUR * 2)], 100));
    assert_eq!(quota.snapshot().windows[1].used, 3000);
}
