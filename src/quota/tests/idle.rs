//! What was forecast is there when its time comes, although nobody looked in between.

use tokio::time::Instant;

use super::*;
use crate::quota::forecast::Forecast;
use crate::quota::state::QuotaState;

#[test]
fn who_comes_back_when_told_finds_the_slot_after_any_history() {
    for seed in 1..200 {
        let mut rng = Rng::new(seed);
        let limits = vec![limit(5, Duration::from_secs(2)), limit(20, Duration::from_secs(20))];
        let config = Config::try_new(limits, NonZeroU32::new(5).unwrap(), TIMEOUT).unwrap();
        let mut now = Instant::now();
        let mut quota_state = QuotaState::new(&config, now);
        for _ in 0..60 {
            let charge = quota_state.take(now).unwrap_or_else(|_| {
                now = Forecast::new(&quota_state, now).next_slot();
                quota_state
                    .take(now)
                    .unwrap_or_else(|at| panic!("seed {seed}: not at {now:?}, but {at:?}"))
            });
            quota_state.settle(charge, now);
            if rng.chance(0.2) {
                now += rng.up_to(Duration::from_secs(8));
            }
        }
    }
}

#[test]
fn a_window_that_was_used_up_in_a_burst_is_shared_out_from_its_return_on() {
    let limits = vec![limit(5, Duration::from_secs(5))];
    let config = Config::try_new(limits, NonZeroU32::new(5).unwrap(), TIMEOUT).unwrap();
    let start = Instant::now();
    let mut quota_state = QuotaState::new(&config, start);
    for _ in 0..5 {
        let charge = quota_state.take(start).unwrap();
        quota_state.settle(charge, start);
    }
    assert!(quota_state.take(start).is_err());
    // All five return after five seconds; one is ready then, and from then on there is one per
    // second.
    let later = start + Duration::from_millis(8_200);
    let taken = std::iter::from_fn(|| quota_state.take(later).ok()).count();
    assert_eq!(taken, 4);
}
