//! When calls may be made that nobody waits for.

use std::time::Duration;

use tokio::time::Instant;

use super::documented;
use crate::quota::UnknownPast;
use crate::quota::state::QuotaState;

const SECOND: Duration = Duration::from_secs(1);

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
}
