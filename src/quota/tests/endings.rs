//! What a 429 has left behind lasts for its time and then ends.

use std::time::Duration;

use tokio::time::Instant;

use super::{HOUR, MINUTE, TIMEOUT, after, documented, limit, refused, said};
use crate::clock::Wall;
use crate::quota::state::QuotaState;
use crate::quota::throttle_hint::ThrottleHint;
use crate::quota::{Config, Metrics, Quota};

/// A neighbour who fills one hour and never comes again. Our own calls are far from the limit, so
/// none of them says whether others are still there: time does.
#[test]
fn an_estimate_ends_with_time_however_few_calls_are_made() {
    for calls in [0, 50] {
        let start = Instant::now();
        let mut quota_state = QuotaState::new(&documented(), start);
        let refused = quota_state.take(start).unwrap();
        let over = quota_state.throttled(refused, said(HOUR, 1800), start);
        assert_eq!(quota_state.snapshot(after(start, 3590)).foreign, 1350);
        for n in 0..calls * 2 {
            let now = over + HOUR / calls * n;
            if let Ok(charge) = quota_state.take(now) {
                quota_state.settle(charge, now);
            }
        }
        let later = start + HOUR * 3;
        assert_eq!(quota_state.snapshot(later).foreign, 0, "{calls} calls an hour");
        while let Ok(charge) = quota_state.take(later) {
            quota_state.settle(charge, later);
        }
        let pace = quota_state.snapshot(later).pace.unwrap().per_minute;
        assert!(pace >= 20.0, "{pace} calls a minute after {calls} calls an hour");
    }
}

/// Refusals that go on keep it, however far apart they are.
#[test]
fn an_estimate_that_is_confirmed_does_not_end() {
    let start = Instant::now();
    let mut quota_state = QuotaState::new(&documented(), start);
    for hour in 0..5 {
        let now = start + HOUR * hour;
        if hour > 0 {
            let probe = quota_state.take(now).unwrap();
            quota_state.settle(probe, now);
        }
        let refused = quota_state.take(now).unwrap();
        quota_state.throttled(refused, said(HOUR, 1800), now);
        assert_eq!(quota_state.snapshot(now + HOUR).foreign, 1350, "hour {hour}");
    }
}

/// Calls whose fate nobody learns are not in flight for ever, and a slow start after which hardly
/// anybody calls is over.
#[test]
fn lost_calls_do_not_slow_down_the_calls_after_a_refusal() {
    let (start, mut quota_state) = refused(said(MINUTE, 8));
    let probe = quota_state.take(after(start, 8)).unwrap();
    quota_state.settle(probe, after(start, 9));
    let lost: Vec<_> = std::iter::from_fn(|| quota_state.take(after(start, 9)).ok()).collect();
    assert_eq!(lost.len(), 2);
    for charge in lost {
        quota_state.lose(charge, after(start, 10));
    }
    let go = |quota_state: &mut QuotaState, now| std::iter::from_fn(|| quota_state.take(now).ok()).count();
    assert_eq!(go(&mut quota_state, after(start, 10)), 2, "still few at once");
    let calls = go(&mut quota_state, after(start, 400));
    assert!(calls >= 50, "{calls} calls after minutes without any");
}

/// Another registration has a quota of its own: what was found out about the one before says
/// nothing of it. The calls count on, which is careful.
#[test]
fn another_registration_inherits_no_refusals() {
    let (start, mut quota_state) = refused(said(HOUR, 1800));
    let probe = quota_state.take(after(start, 1800)).unwrap();
    quota_state.forget_refusals(1);
    assert_eq!(quota_state.snapshot(after(start, 1801)).foreign, 0);
    quota_state.settle_for_another(probe, after(start, 1802));
    assert_eq!(quota_state.snapshot(after(start, 1802)).windows[1].used, 2);
    let own = quota_state.take(after(start, 1803)).unwrap();
    assert!(quota_state.take(after(start, 1803)).is_ok(), "no slow start");
    quota_state.throttled(own, said(MINUTE, 30), after(start, 1804));
    assert_eq!(
        quota_state.paused_until(),
        Some(after(start, 1834)),
        "its own refusals count"
    );
    let before = quota_state.take(after(start, 1834)).unwrap();
    quota_state.settle_for_another(before, after(start, 1835));
    assert!(quota_state.take(after(start, 1835)).is_ok(), "another call finds out");
    assert!(quota_state.take(after(start, 1835)).is_err(), "and only one");
}

/// Whoever waited when the registration became another one calls as the one before, with a slot
/// that was given only afterwards.
#[tokio::test(start_paused = true)]
async fn who_still_calls_as_the_registration_before_holds_nobody_back() {
    let wall = Wall::anchored(jiff::Timestamp::from_second(1_790_000_000).unwrap());
    let hour = said(HOUR, 1800);
    let quota = Quota::ephemeral(&documented(), wall.clone(), Metrics::default());
    let take = |quota: &Quota, registration| {
        let mut permit = quota.take(Instant::now()).unwrap();
        permit.made_as(registration);
        permit.leave();
        permit
    };
    assert!(take(&quota, 0).throttled(hour).is_some());
    quota.forget_refusals(1);
    assert_eq!(take(&quota, 0).throttled(hour), None);
    assert_eq!((quota.snapshot().paused, quota.snapshot().foreign), (None, 0));
    assert!(take(&quota, 1).throttled(hour).is_some(), "its own refusals count");
    assert!(quota.take(Instant::now()).is_err());
    // The numbers are those of the gateway's registrations, and not of its callers'.
    let of_caller = Quota::of_caller(
        &documented(),
        wall,
        crate::scan::CallerToken::new("token").unwrap().token_id(),
    );
    assert!(take(&of_caller, 1).throttled(hour).is_some());
}

/// A running gateway would wait, and send one call to find out.
#[tokio::test(start_paused = true)]
async fn a_pause_goes_on_after_a_restart_and_ends_with_one_call() {
    let dir = tempfile::tempdir().unwrap();
    let config = documented().state_file(Some(dir.path().join("state")));
    let wall = Wall::anchored(jiff::Timestamp::from_second(1_790_000_000).unwrap());
    let open = || Quota::open(&config, wall.clone(), Metrics::default()).unwrap();
    let quota = open();
    let refused = quota.take(Instant::now()).unwrap();
    let wait = ThrottleHint {
        window: None,
        wait: Some(Duration::from_mins(10)),
    };
    refused.throttled(wait);
    drop(quota);
    tokio::time::advance(MINUTE).await;
    let quota = open();
    let paused = quota.snapshot().paused.expect("the pause goes on");
    assert!(paused.abs_diff(MINUTE * 9) <= Duration::from_secs(2), "{paused:?}");
    assert!(quota.take(Instant::now()).is_err());
    drop(quota);
    tokio::time::advance(MINUTE * 10).await;
    let quota = open();
    let probe = quota.take(Instant::now()).unwrap();
    assert!(quota.take(Instant::now()).is_err(), "one call finds out");
    probe.settle();
    let permits: Vec<_> = std::iter::from_fn(|| quota.take(Instant::now()).ok()).collect();
    assert_eq!(permits.len(), 2, "few at once, as after any pause");
    drop(permits);
    drop(quota);
    let quota = open();
    assert_eq!(quota.snapshot().paused, None);
    let calls = [(); 3].map(|()| quota.take(Instant::now()).is_ok());
    assert_eq!(calls, [true; 3], "it is over");
}

/// A quota that is forgotten then comes back without its pause, and without its calls.
#[test]
fn a_quota_is_empty_when_no_call_can_count_and_no_pause_is_ordered() {
    let minute = limit(10, MINUTE);
    let config = Config::try_new(vec![minute.clone()], 10.try_into().unwrap(), TIMEOUT).unwrap();
    let start = Instant::now();
    let mut quota_state = QuotaState::new(&config, start);
    assert_eq!(quota_state.empty_at(start), start);
    let charge = quota_state.take(start).unwrap();
    let arrives = start + TIMEOUT + QuotaState::LANDING;
    assert_eq!(quota_state.empty_at(start), arrives + minute.hold());
    quota_state.throttled(charge, said(MINUTE, 1800), start);
    assert_eq!(quota_state.empty_at(start), after(start, 1800));
}
