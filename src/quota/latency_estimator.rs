//! How long calls take.

use std::time::Duration;

use super::config::Limit;
use super::pacer::WindowBudget;

/// How long calls take, as a bound that most keep: a smoothed mean and four mean deviations, as TCP
/// estimates its round trip.
#[derive(Clone, Copy, Debug)]
pub(super) struct Latency {
    mean: f64,
    deviation: f64,
}

impl Latency {
    pub(super) const START: Self = Self {
        mean: 0.2,
        deviation: 0.05,
    };

    pub(super) fn observe(&mut self, seconds: f64) {
        self.deviation += 0.25 * ((seconds - self.mean).abs() - self.deviation);
        self.mean += 0.125 * (seconds - self.mean);
    }

    /// When a call in flight is planned to count, after it was issued. In a small window each
    /// moment by which most calls are faster would be lost again and again.
    pub(super) fn landing(self, longest: &Limit) -> Duration {
        if longest.calls() > WindowBudget::SMALL {
            return self.bound();
        }
        Duration::from_secs_f64(self.mean.max(0.0))
    }

    pub(super) fn bound(self) -> Duration {
        Duration::from_secs_f64((self.mean + 4.0 * self.deviation).max(0.0))
    }
}
