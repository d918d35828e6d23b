//! One host: its address, its round-trip time, its health, and how long its answers take.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use url::{Position, Url};

use crate::region::Config;
use crate::region::health::{Health, HealthState};
use crate::region::outlier::Detection;
use crate::region::rtt::RttEstimate;

/// The number of remembered answers. By construction, 5 in 100 are later than the 95th percentile,
/// so a host that becomes slow for good soon counts as usual again.
const MEMORY: usize = 100;

#[derive(Debug)]
pub(super) struct Host {
    pub(super) name: Arc<str>,
    /// Its unique name in metrics and logs.
    pub(super) label: Arc<str>,
    pub(super) url: Arc<Url>,
    pub(super) rtt: RttEstimate,
    pub(super) health: Health,
    pub(super) usual: LatencyPercentile,
    pub(super) detection: Option<Detection>,
}

/// The order of hosts, best first. Within the same health: the current host, then by round-trip
/// time; among unreachable ones the one that may be tried first.
pub(super) type Rank = (HealthState, Option<Instant>, bool, Duration);

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
                name,
                label,
                url: Arc::new(candidate.url.clone()),
                rtt: RttEstimate::default(),
                health: Health::new(config.down, config.ejected),
                usual: LatencyPercentile::default(),
                detection: None,
            }
        });
        labelled.collect()
    }

    pub(super) fn rank(&self, current: bool, now: Instant) -> Rank {
        let standing = self.health.standing(now);
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
}
