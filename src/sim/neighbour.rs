//! Another client with the same app registration, which calls at random moments at a steady rate
//! and does not retry when refused.

use std::time::Duration;

use super::rng::Rng;

/// The future calls of the other client.
#[derive(Clone, Debug)]
pub(super) struct Neighbour {
    rng: Rng,
    mean: Duration,
    /// The next call, after the start of the simulator.
    next: Duration,
}

impl Neighbour {
    /// A client that makes this many calls an hour on average from `now` on; `None` for none.
    pub(super) fn new(per_hour: u32, seed: u64, now: Duration) -> Option<Self> {
        let mean = Duration::from_hours(1).checked_div(per_hour)?;
        let mut neighbour = Self {
            rng: Rng::for_text(seed, "neighbour"),
            mean,
            next: now,
        };
        let gap = neighbour.gap();
        neighbour.next += gap;
        Some(neighbour)
    }

    /// The next call up to `now`, if there is one.
    pub(super) fn call(&mut self, now: Duration) -> Option<Duration> {
        let at = (self.next <= now).then_some(self.next)?;
        let gap = self.gap();
        self.next += gap;
        Some(at)
    }

    /// The time to the next of events that are independent of each other.
    fn gap(&mut self) -> Duration {
        let share = (self.rng.below(1 << 53) as f64 + 1.0) / (1_u64 << 53) as f64;
        self.mean.mul_f64(-share.ln())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_client_calls_at_its_rate_at_random_moments() {
        let hours = Duration::from_hours(20);
        let mut neighbour = Neighbour::new(750, 1, Duration::ZERO).unwrap();
        let calls: Vec<_> = std::iter::from_fn(|| neighbour.call(hours)).collect();
        assert!((14_500..15_500).contains(&calls.len()), "{}", calls.len());
        assert!(calls.is_sorted());
        let short = calls
            .windows(2)
            .filter(|pair| pair[1] < pair[0] + Duration::from_secs(1));
        assert!(short.count() > 1_000, "not evenly spaced");
        assert!(Neighbour::new(0, 1, Duration::ZERO).is_none());
    }
}
