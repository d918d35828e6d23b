//! Estimates a host's round-trip time from noisy measurements.

use std::time::Duration;

/// A new measurement has the same weight as in the mean of all, but at least this one: a twentieth
/// averages out the jitter of a real network (from 30 % to 5 % in the estimate), so that hosts at
/// nearly the same distance keep their order for days.
const LEAST_WEIGHT: f64 = 0.05;

/// A measurement this many times the estimate (or its inverse), and [`STEP_LEAST`] away from it, is
/// not noise.
const STEP_FACTOR: f64 = 1.5;
const STEP_LEAST: Duration = Duration::from_millis(10);

/// A host is clearly nearer when it takes at most this share of the other's time ...
const CLEAR_SHARE: f64 = 0.8;
/// ... and is this much faster, because smaller differences cannot be noticed.
const CLEAR_LEAST: Duration = Duration::from_millis(5);

/// A smoothed set-up time. Small changes are averaged; a step is accepted when the next measurement
/// confirms it, so that a single slow packet changes nothing and a real change is followed with the
/// second measurement.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RttEstimate {
    estimate: Option<Duration>,
    /// The number of measurements of the estimate.
    samples: u32,
    /// A measurement that would be a step and waits for confirmation.
    odd: Option<Duration>,
}

impl RttEstimate {
    pub(super) fn observe(&mut self, sample: Duration) {
        let Some(estimate) = self.estimate else {
            (self.estimate, self.samples) = (Some(sample), 1);
            return;
        };
        let direction = step(estimate, sample);
        match (direction, self.odd.take()) {
            (Step::None, _) => {
                self.samples = self.samples.saturating_add(1);
                let weight = (1.0 / f64::from(self.samples)).max(LEAST_WEIGHT);
                self.estimate = Some(estimate.mul_f64(1.0 - weight) + sample.mul_f64(weight));
            }
            // Confirmed. The smaller one counts, because set-up times err upwards.
            (_, Some(odd)) if step(estimate, odd) == direction => {
                (self.estimate, self.samples) = (Some(odd.min(sample)), 2);
            }
            (_, _) => self.odd = Some(sample),
        }
    }

    /// The smoothed set-up time, once measured.
    pub(super) fn estimate(&self) -> Option<Duration> {
        self.estimate
    }

    /// Whether this host is enough nearer than `other` to change to it.
    pub(super) fn is_clearly_less_than(&self, other: &Self) -> bool {
        match (self.estimate, other.estimate) {
            (Some(own), Some(other)) => own <= other.mul_f64(CLEAR_SHARE) && other.saturating_sub(own) >= CLEAR_LEAST,
            // A host that has been measured is better than one that never answered a probe.
            (Some(_), None) => true,
            (None, _) => false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    None,
    Up,
    Down,
}

fn step(estimate: Duration, sample: Duration) -> Step {
    if estimate.abs_diff(sample) < STEP_LEAST {
        Step::None
    } else if sample >= estimate.mul_f64(STEP_FACTOR) {
        Step::Up
    } else if estimate >= sample.mul_f64(STEP_FACTOR) {
        Step::Down
    } else {
        Step::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn after(samples: &[u64]) -> RttEstimate {
        let mut rtt = RttEstimate::default();
        for sample in samples {
            rtt.observe(ms(*sample));
        }
        rtt
    }

    #[test]
    fn a_step_is_followed_with_the_second_measurement_both_ways() {
        assert_eq!(after(&[10, 10, 310]).estimate(), Some(ms(10)));
        assert_eq!(after(&[10, 10, 310, 320]).estimate(), Some(ms(310)));
        assert_eq!(after(&[310, 10, 12]).estimate(), Some(ms(10)));
    }

    #[test]
    fn single_outliers_move_nothing() {
        assert_eq!(after(&[20, 900, 20, 900, 20, 1, 20]).estimate(), Some(ms(20)));
        assert_eq!(
            after(&[20, 900, 1]).estimate(),
            Some(ms(20)),
            "two outliers in different directions"
        );
    }

    #[test]
    fn small_changes_are_averaged() {
        assert_eq!(after(&[20, 24]).estimate(), Some(ms(22)));
        let mut rtt = after(&[20; 100]);
        rtt.observe(ms(24));
        assert_eq!(rtt.estimate(), Some(Duration::from_micros(20_200)));
    }

    #[test]
    fn clearly_nearer_needs_a_fifth_and_five_milliseconds() {
        assert!(after(&[20]).is_clearly_less_than(&after(&[26])));
        assert!(!after(&[22]).is_clearly_less_than(&after(&[26])));
        assert!(!after(&[1]).is_clearly_less_than(&after(&[5])));
        assert!(after(&[50]).is_clearly_less_than(&after(&[])));
        assert!(!after(&[]).is_clearly_less_than(&after(&[50])));
    }
}
