//! Who waits for a slot hears of what may bring it earlier.

use futures_util::FutureExt as _;
use tokio::time::Instant;

use super::{MINUTE, documented, said};
use crate::clock::Wall;
use crate::quota::{Metrics, Permit, Quota};

fn quota() -> Quota {
    let wall = Wall::anchored(jiff::Timestamp::from_second(1_790_000_000).unwrap());
    Quota::ephemeral(&documented(), wall, Metrics::default())
}

/// A call that has left.
fn leave(quota: &Quota) -> Permit {
    let mut permit = quota.take(Instant::now()).unwrap();
    permit.leave();
    permit
}

/// Whether who waits is woken, and whether earlier forecasts are wrong.
fn heard(quota: &Quota, what: impl FnOnce(&Quota)) -> (bool, bool) {
    let _ = quota.changed().now_or_never();
    let version = quota.version();
    what(quota);
    (quota.changed().now_or_never().is_some(), quota.version() != version)
}

#[tokio::test(start_paused = true)]
async fn whatever_may_bring_a_slot_earlier_wakes_who_waits() {
    let (quota, permit) = (quota(), leave);
    assert_eq!(heard(&quota, |quota| permit(quota).settle()), (true, false));
    let all = (true, true);
    assert_eq!(heard(&quota, |quota| permit(quota).refund()), all);
    assert_eq!(heard(&quota, |quota| drop(permit(quota))), all, "a lost call");
    assert_eq!(heard(&quota, |quota| quota.reconfigure(&documented())), all);
    let refused = |quota: &Quota| _ = permit(quota).throttled(said(MINUTE, 8));
    assert_eq!(heard(&quota, refused), all);
    tokio::time::advance(MINUTE).await;
    assert_eq!(heard(&quota, |quota| permit(quota).settle()), all, "the pause is over");
    assert_eq!(heard(&quota, |quota| quota.forget_refusals(1)), all);
}
