//! One host: its address, its round-trip time and its health.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use url::{Position, Url};

use crate::region::Config;
use crate::region::health::{Health, HealthState};
use crate::region::latency_percentile::LatencyPercentile;
use crate::region::outlier::Detection;
use crate::region::rtt::RttEstimate;

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
