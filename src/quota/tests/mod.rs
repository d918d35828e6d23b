//! Virtual time: a day of calls in milliseconds, judged by what the upstream would have counted.

mod day;
mod endings;
mod forecast;
pub(in crate::quota) mod layer;
mod ledger;
mod pacing;
mod retune;
mod state_file;
mod state_file_lost;
mod state_file_size;
mod state_reach;
mod throttled;
mod wakes;

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;

use super::state::QuotaState;
use super::throttle_hint::ThrottleHint;
use super::{Config, Limit};

pub(super) const MINUTE: Duration = Duration::from_mins(1);
pub(super) const HOUR: Duration = Duration::from_hours(1);
pub(super) const TIMEOUT: Duration = Duration::from_mins(1);

pub(super) fn limit(calls: u32, window: Duration) -> Limit {
    Limit::try_new(NonZeroU32::new(calls).unwrap(), window).unwrap()
}

pub(super) fn documented() -> Config {
    let limits = vec![limit(100, MINUTE), limit(1500, HOUR)];
    Config::try_new(limits, NonZeroU32::new(100).unwrap(), TIMEOUT).unwrap()
}

/// A 429 that names a window and how long to wait.
pub(super) fn said(window: Duration, seconds: u64) -> ThrottleHint {
    ThrottleHint {
        window: Some(window),
        wait: Some(Duration::from_secs(seconds)),
    }
}

pub(super) fn after(start: Instant, seconds: u64) -> Instant {
    start + Duration::from_secs(seconds)
}

/// A quota whose first call has just been answered with this 429.
pub(super) fn refused(answer: ThrottleHint) -> (Instant, QuotaState) {
    let start = Instant::now();
    let mut quota_state = QuotaState::new(&documented(), start);
    let charge = quota_state.take(start).unwrap();
    quota_state.throttled(charge, answer, start);
    (start, quota_state)
}

/// The most arrivals in any half-open window of this length, at any alignment.
pub(super) fn most_in_any(window: Duration, arrivals: &[Instant]) -> usize {
    let mut first = 0;
    let mut most = 0;
    for (last, at) in arrivals.iter().enumerate() {
        while *at - arrivals[first] >= window {
            first += 1;
        }
        most = most.max(last + 1 - first);
    }
    most
}

/// A small seeded generator: the same table on every machine.
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn roll(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(super) fn up_to(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.roll())
    }

    pub(super) fn chance(&mut self, probability: f64) -> bool {
        self.roll() < probability
    }
}
