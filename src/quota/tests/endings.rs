//! What a 429 has left behind lasts for its time and then ends.

use std::time::Duration;

use tokio::time::Instant;

use super::{HOUR, MINUTE, documented};
use crate::quota::state::QuotaState;
use crate::quota::throttle_hint::ThrottleHint;

fn said(window: Duration, seconds: u64) -> ThrottleHint {
    ThrottleHint {
        window: Some(window),
        wait: Some(Duration::from_secs(seconds)),
    }
}

fn after(start: Instant, seconds: u64) -> Instant {
    start + Duration::from_secs(seconds)
}

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
