//! One host: where it is, how near, how well.

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
    /// Unique among the candidates; the name in metrics and logs.
    pub(super) label: Arc<str>,
    pub(super) url: Arc<Url>,
    pub(super) nearness: RttEstimate,
    pub(super) health: Health,
    pub(super) usual: LatencyPercentile,
    pub(super) detection: Option<Detection>,
}

/// How hosts are ordered, best first. Within the same standing: the current host, then by nearness; among unreachable ones the one that
/// is worth a try first.
pub(super) type Rank = (HealthState, Option<Instant>, bool, Duration);

impl Host {
    /// The candidates as hosts. The first host of a name has it as its label; others append their host name.
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
                nearness: RttEstimate::default(),
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
        // What was never measured comes last.
        let nearness = self.nearness.estimate().unwrap_or(Duration::MAX);
        (standing, until, !current, nearness)
    }
}
