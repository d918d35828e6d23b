//! The bucket: as it is shown, its absence, when it leaves a surplus for calls that nobody waits
//! for, and how it uses small limits up.

use tokio::time::Instant;

use super::*;
use crate::quota::pacer::BucketState;
use crate::quota::throttle_hint::ThrottleHint;
use crate::quota::{Pacing, QuotaState, UnknownPast};

const SECOND: Duration = Duration::from_secs(1);

fn take_all(quota_state: &mut QuotaState, now: Instant) -> usize {
    let charges: Vec<_> = std::iter::from_fn(|| quota_state.take(now).ok()).collect();
    for charge in &charges {
        quota_state.settle(*charge, now);
    }
    charges.len()
}

#[test]
fn the_bucket_is_shown_as_it_is_felt() {
    let start = Instant::now();
    let mut quota_state = QuotaState::new(&documented(), start);
    let full = quota_state.pace_state(start).unwrap();
    assert_eq!((full.capacity, full.whole_tokens()), (100, 100));
    assert_eq!((full.next_token, full.refill), (Duration::ZERO, Duration::from_mins(4)));
    assert_eq!(take_all(&mut quota_state, start), 100);
    let empty = quota_state.pace_state(start).unwrap();
    assert_eq!(empty.whole_tokens(), 0);
    // 1,400 calls are left for an hour in which the hundred return at its end.
    assert!((23.0..24.0).contains(&empty.per_minute), "{empty:?}");
    // It promises no more than it keeps: the next token is there when it says, and it is one.
    let later = start + MINUTE + Duration::from_secs(1);
    let before = quota_state.pace_state(later).unwrap();
    let next = quota_state.pace_state(later + before.next_token).unwrap();
    assert_eq!(next.whole_tokens(), before.whole_tokens() + 1, "{before:?} {next:?}");
    assert_eq!(take_all(&mut quota_state, later), before.whole_tokens());
}

#[test]
fn a_bucket_that_was_written_down_wrong_holds_a_burst_at_most() {
    let start = Instant::now();
    let wrong = BucketState {
        level: 1e12,
        rate: 1e12,
        lasts: Duration::MAX,
    };
    let mut quota_state = QuotaState::resume(&documented(), &[start], Some((start, wrong)), start);
    assert_eq!(take_all(&mut quota_state, start), 99, "and the windows hold");
}

#[test]
fn without_pacing_all_that_the_windows_allow_leaves_at_once_and_no_more() {
    let start = Instant::now();
    let mut quota_state = QuotaState::new(&documented().pacing(Pacing::None), start);
    assert_eq!(quota_state.pace_state(start), None);
    let step = MINUTE + Duration::from_secs(1);
    let taken: Vec<_> = (0..61).map(|n| take_all(&mut quota_state, start + step * n)).collect();
    assert_eq!(taken[..15], [100; 15], "the hour is gone after a quarter of it");
    assert_eq!(
        taken[15..].iter().sum::<usize>(),
        100,
        "until the first calls leave the window"
    );
}

#[test]
fn without_pacing_a_slow_start_is_still_slow_until_nothing_unknown_counts_any_more() {
    let start = Instant::now();
    let config = documented().pacing(Pacing::None).unknown_past(UnknownPast::Paced);
    let mut quota_state = QuotaState::new(&config, start);
    assert_eq!(take_all(&mut quota_state, start), 10);
    assert!(quota_state.pace_state(start).is_some());
    let watched = start + HOUR + TIMEOUT + Duration::from_secs(10);
    assert_eq!(quota_state.pace_state(watched), None);
    assert_eq!(take_all(&mut quota_state, watched), 100);
}

#[test]
fn without_pacing_a_pause_and_the_slow_start_after_it_hold_all_the_same() {
    let start = Instant::now();
    let mut quota_state = QuotaState::new(&documented().pacing(Pacing::None), start);
    let refused = quota_state.take(start).unwrap();
    quota_state.throttled(refused, said(MINUTE, 30), start);
    assert_eq!(quota_state.take(start), Err(Some(after(start, 30))));
    let probe = quota_state.take(after(start, 30)).unwrap();
    quota_state.settle(probe, after(start, 31));
    assert_eq!(take_all(&mut quota_state, after(start, 31)), 2, "few at once");
}

#[test]
fn pacing_can_be_changed_while_calls_are_made() {
    let start = Instant::now();
    let mut quota_state = QuotaState::new(&documented(), start);
    let step = MINUTE + Duration::from_secs(1);
    assert_eq!(take_all(&mut quota_state, start), 100);
    assert!(take_all(&mut quota_state, start + step) < 40);
    quota_state.reconfigure(&documented().pacing(Pacing::None), start + step);
    assert_eq!(take_all(&mut quota_state, start + step * 2), 100);
    quota_state.reconfigure(&documented(), start + step * 2);
    assert!(take_all(&mut quota_state, start + step * 3) < 40);
}

#[test]
fn a_pause_lets_nothing_go_and_hides_no_room() {
    let start = Instant::now();
    let mut quota_state = QuotaState::new(&documented(), start);
    let refused = quota_state.take(start).unwrap();
    let said = ThrottleHint {
        window: None,
        wait: Some(Duration::from_secs(8)),
    };
    let _ = quota_state.throttled(refused, said, start);
    let room = |quota_state: &mut QuotaState, now| {
        let usable = quota_state.snapshot(now).usable();
        let tokens = usable.pace.unwrap().whole_tokens();
        (usable.windows[0].remaining, usable.windows[1].remaining, tokens)
    };
    assert_eq!(room(&mut quota_state, start), (0, 0, 0));
    let shown = quota_state.snapshot(start).windows;
    assert_eq!((shown[0].remaining, shown[1].remaining), (99, 1499), "what people see");
    assert_eq!(quota_state.pause(start), Some(Duration::from_secs(8)));
    // The pause is over: one call may find out.
    let over = start + Duration::from_secs(9);
    assert_eq!(
        (quota_state.pause(over), room(&mut quota_state, over)),
        (None, (1, 1, 1))
    );
    let probe = quota_state.take(over).unwrap();
    // Until it is answered nothing may go, and that is soon.
    assert_eq!(room(&mut quota_state, over).0, 0);
    assert!(
        quota_state
            .pause(over)
            .is_some_and(|pause| pause <= Duration::from_secs(2))
    );
    quota_state.settle(probe, over + Duration::from_secs(1));
    // Meanwhile the bucket has become full again.
    assert_eq!(room(&mut quota_state, over + Duration::from_secs(1)), (98, 1498, 99));
}

/// A call that is answered at once.
fn call(quota_state: &mut QuotaState, now: Instant) {
    let charge = quota_state.take(now).unwrap();
    quota_state.settle(charge, now);
}

#[tokio::test(start_paused = true)]
async fn after_a_paced_start_there_is_surplus_while_few_callers_come() {
    let mut now = Instant::now() + Duration::from_hours(2);
    let mut quota_state = QuotaState::new(&documented().unknown_past(UnknownPast::Paced), now);
    call(&mut quota_state, now);
    assert!(quota_state.has_surplus(now), "99 of 100 calls are left");
    // Callers that come as fast as the bucket holds out are served first.
    for _ in 0..6 {
        call(&mut quota_state, now);
    }
    assert!(!quota_state.has_surplus(now));
    // When they have gone, what is left is for renewals again, long before half of the bucket is
    // there.
    now += 11 * SECOND;
    assert!(quota_state.has_surplus(now));
}

#[tokio::test(start_paused = true)]
async fn renewals_leave_callers_their_part_of_a_low_bucket() {
    let mut now = Instant::now() + Duration::from_hours(2);
    let mut quota_state = QuotaState::new(&documented().unknown_past(UnknownPast::Paced), now);
    let mut renewed = 0;
    for _ in 0..60 {
        while quota_state.has_surplus(now) {
            call(&mut quota_state, now);
            renewed += 1;
        }
        assert!(
            quota_state.take(now).is_ok_and(|charge| {
                quota_state.refund(charge, now);
                true
            }),
            "a caller who comes now waits for nothing"
        );
        now += SECOND;
    }
    assert!((20..=60).contains(&renewed), "{renewed} were renewed in a minute");
}

#[tokio::test(start_paused = true)]
async fn a_window_that_is_half_used_has_none_whatever_the_bucket_holds() {
    let now = Instant::now() + Duration::from_hours(2);
    let mut quota_state = QuotaState::new(&documented(), now);
    for _ in 0..50 {
        assert!(quota_state.has_surplus(now));
        call(&mut quota_state, now);
    }
    assert!(quota_state.has_surplus(now));
    call(&mut quota_state, now);
    assert!(!quota_state.has_surplus(now), "51 of 100");

    let config = Config::try_new(vec![limit(100, HOUR)], 10.try_into().unwrap(), TIMEOUT).unwrap();
    let mut now = now;
    let mut quota_state = QuotaState::new(&config, now);
    for _ in 0..51 {
        call(&mut quota_state, now);
        now += 40 * SECOND;
    }
    now += 5 * MINUTE;
    assert!(quota_state.pace.is_half_full(now) && !quota_state.has_surplus(now));
}

/// When calls leave within so long if somebody always waits, each being answered after at most
/// `latency`.
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
