//! Small limits are used up as well, and spread.

use tokio::time::Instant;

use super::*;
use crate::quota::{Pacing, QuotaState};

const SECOND: Duration = Duration::from_secs(1);

/// When calls leave within so long if somebody always waits, each being answered after at most
/// `latency_estimator`.
fn saturated(config: &Config, latency: Duration, jitter: f64, length: Duration) -> Vec<Duration> {
    let start = Instant::now();
    let mut quota_state = QuotaState::new(config, start);
    let (mut now, mut calls, mut rng) = (start, Vec::new(), Rng::new(1));
    let mut pending_calls = std::collections::VecDeque::new();
    while now < start + length {
        while let Some((_, charge)) = pending_calls.pop_front_if(|(at, _)| *at <= now) {
            quota_state.settle(charge, now);
        }
        let at = match quota_state.take(now) {
            Ok(charge) => {
                let answer = now + latency.mul_f64(1.0 - jitter * rng.roll());
                let index = pending_calls.partition_point(|(at, _)| *at <= answer);
                pending_calls.insert(index, (answer, charge));
                calls.push(now - start);
                continue;
            }
            Err(at) => at,
        };
        let answer = pending_calls.front().map(|(at, _)| *at);
        now = at.into_iter().chain(answer).min().unwrap().max(now + SECOND / 1000);
    }
    calls
}

fn within(limits: Vec<Limit>, calls: u32) -> Config {
    Config::try_new(limits, NonZeroU32::new(calls).unwrap(), TIMEOUT).unwrap()
}

const LATENCY: Duration = Duration::from_millis(200);

fn gaps(calls: &[Duration]) -> impl Iterator<Item = (Duration, Duration)> {
    calls.windows(2).map(|pair| (pair[1], pair[1].saturating_sub(pair[0])))
}

/// As many calls leave as without spreading, but for one, by the end of each longest window; and
/// after the first ones they are spread.
fn judge(config: &Config, wrong: &mut Vec<String>) {
    let limits = config.limits();
    let name = limits.iter().map(|limit| format!("{}/{}", limit.calls(), limit.name()));
    let name = name.collect::<Vec<_>>().join(", ");
    let (short, long) = (&limits[0], limits.last().unwrap());
    let cycle = long.hold() + LATENCY;
    let spread = saturated(config, LATENCY, 0.0, cycle * 12);
    let unpaced = saturated(&config.clone().pacing(Pacing::None), LATENCY, 0.0, cycle * 12);
    // When the longest window would have let as many go as it holds, and once more, and so on.
    for made in (long.calls()..unpaced.len()).step_by(long.calls()) {
        let spread = spread.iter().filter(|at| **at < unpaced[made]).count();
        if spread + 1 < made {
            wrong.push(format!("{name}: {spread} of {made} calls until {:?}", unpaced[made]));
        }
    }
    let later = gaps(&spread).filter(|(at, _)| *at >= cycle * 2);
    let gap = later.map(|(_, gap)| gap).max().unwrap();
    // The hole that the answers to the first burst left stays. A shorter window that allows no more
    // than the long one is not spread.
    let even = LATENCY + cycle.mul_f64(1.5 / long.calls() as f64);
    let own = if limits.len() > 1 { short.hold() + LATENCY } else { even };
    if gap > even.max(own) {
        wrong.push(format!("{name}: no call for {gap:?}"));
    }
}

#[test]
fn as_many_calls_leave_as_the_ledger_allows() {
    let mut wrong = Vec::new();
    for window in [SECOND, 10 * SECOND, MINUTE] {
        for calls in 1..=20 {
            judge(&within(vec![limit(calls, window)], calls), &mut wrong);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn two_windows_are_used_up_together() {
    let mut wrong = Vec::new();
    for (few, short) in [(1, 1), (2, 1), (3, 1), (5, 1), (10, 1), (3, 5), (7, 5)] {
        for calls in [few, few + 1, few + 2, few * 3 / 2, few * 2, few * 3, few * 4, few * 7] {
            for window in [10 * SECOND, MINUTE] {
                let limits = vec![limit(few, SECOND * short), limit(calls, window)];
                judge(&within(limits, few), &mut wrong);
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Calls whose answers take anything up to two windows: what returns when is guessed, and still
/// little is lost.
#[test]
fn small_limits_are_used_up_whatever_calls_take() {
    for latency in [SECOND / 20, SECOND / 2, SECOND * 2] {
        for window in [SECOND, 10 * SECOND] {
            for calls in [1, 2, 3, 5, 10, 20] {
                let config = within(vec![limit(calls, window)], calls);
                let length = (window + latency) * 20;
                let spread = saturated(&config, latency, 0.9, length).len();
                let unpaced = saturated(&config.clone().pacing(Pacing::None), latency, 0.9, length).len();
                assert!(
                    (spread + calls as usize) as f64 >= 0.95 * unpaced as f64,
                    "{calls} in {window:?}, {latency:?}: {spread} of {unpaced}"
                );
            }
        }
    }
}
