//! One host: its address, its round-trip time, estimated from noisy measurements, its health, and
//! how long its answers take.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use url::Position;

use crate::region::bad_answers::BadAnswers;
use crate::region::health::{Health, HealthState};
use crate::region::{Config, HostStatus};

/// The number of remembered answers. By construction, 5 in 100 are later than the 95th percentile,
/// so a host that becomes slow for good soon counts as usual again.
const MEMORY: usize = 100;

#[derive(Debug)]
pub(super) struct Host {
    /// As it was last logged and shown.
    pub(super) shown: HostStatus,
    pub(super) rtt: RttEstimate,
    pub(super) health: Health,
    pub(super) usual: LatencyPercentile,
    /// When the latest detection of an outlier began, if it has no result yet.
    pub(super) detection: Option<Instant>,
    pub(super) bad_answers: BadAnswers,
}

/// The order of hosts, best first. Within the same health: the current host, then by round-trip
/// time; among unreachable ones the one that may be tried first.
type Rank = (HealthState, Option<Instant>, bool, Duration);

impl Host {
    /// The candidates as hosts. The first host of a name has that name as its label; others append
    /// their host name.
    pub(super) fn all(config: &Config) -> Vec<Self> {
        let candidates = config.candidates();
        let labelled = candidates.iter().enumerate().map(|(at, candidate)| {
            let name = Arc::<str>::from(candidate.name.as_str());
            let label = if candidates[..at].iter().any(|other| other.name == candidate.name) {
                format!("{name} ({})", &candidate.url[Position::BeforeHost..Position::AfterPort]).into()
            } else {
                Arc::clone(&name)
            };
            Self {
                shown: HostStatus {
                    name,
                    label,
                    url: Arc::new(candidate.url.clone()),
                    healthy: true,
                    ejection_reason: None,
                    rtt: None,
                    selected: false,
                },
                rtt: RttEstimate::default(),
                health: Health::new(config.down, config.ejected),
                usual: LatencyPercentile::default(),
                detection: None,
                bad_answers: BadAnswers::default(),
            }
        });
        labelled.collect()
    }

    /// The host's place; for a request that got a bad answer already (`again`), at a host that may
    /// give it an answer.
    pub(super) fn rank(&self, current: bool, again: Option<u64>, now: Instant) -> Rank {
        let mut standing = self.health.standing(now);
        if again.is_some_and(|request| self.health.is_on_trial() || self.bad_answers.are_suspected(request, now)) {
            standing = standing.max(HealthState::Avoided);
        }
        let until = self.health.until().filter(|_| standing == HealthState::Down);
        // Hosts that were never measured come last.
        let rtt = self.rtt.estimate().unwrap_or(Duration::MAX);
        (standing, until, !current, rtt)
    }
}

/// The longest pauses of a host's latest answers: until the head came, or until the body went on.
#[derive(Debug, Default)]
pub(super) struct LatencyPercentile(VecDeque<Duration>);

impl LatencyPercentile {
    /// The pause that 95 % of the latest answers did not exceed; with few answers, the longest of
    /// all. `None` before the first one.
    pub(super) fn pause(&self) -> Option<Duration> {
        let mut sorted: Vec<_> = self.0.iter().copied().collect();
        sorted.sort_unstable();
        let rank = (sorted.len() * 95).div_ceil(100);
        sorted.get(rank.checked_sub(1)?).copied()
    }

    /// Records the longest pause of an answer.
    pub(super) fn answered(&mut self, pause: Duration) {
        if self.0.len() >= MEMORY {
            self.0.pop_front();
        }
        self.0.push_back(pause);
    }
}

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

    #[test]
    fn the_95th_percentile_of_the_latest_answers_is_usual() {
        let mut usual = LatencyPercentile::default();
        assert_eq!(usual.pause(), None);
        for n in 1..=19 {
            usual.answered(ms(n));
            assert_eq!(usual.pause(), Some(ms(n)), "few: the longest");
        }
        usual.answered(ms(20));
        assert_eq!(usual.pause(), Some(ms(19)));
        for n in 101..=200 {
            usual.answered(ms(n));
        }
        assert_eq!(usual.pause(), Some(ms(195)), "the old ones are forgotten");
        assert_eq!(usual.0.len(), MEMORY);
    }

    #[test]
    fn a_slower_host_is_usual_after_six_late_answers() {
        let mut usual = LatencyPercentile::default();
        for _ in 0..100 {
            usual.answered(ms(10));
        }
        for _ in 0..5 {
            usual.answered(ms(8000));
            assert_eq!(usual.pause(), Some(ms(10)));
        }
        usual.answered(ms(8000));
        assert_eq!(usual.pause(), Some(ms(8000)));
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
