//! What the queue reports.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::refused::Reason;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RefusedLabel {
    reason: &'static str,
}

/// The queue's metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(super) waiting: Gauge,
    wait: Histogram,
    refused: Family<RefusedLabel, Counter>,
}

/// Waits are either nothing, a few slots of 2.4 s, or up to the longest wait of ten minutes.
const WAIT_BUCKETS: [f64; 10] = [0.001, 0.01, 0.1, 1.0, 2.5, 5.0, 15.0, 30.0, 120.0, 600.0];

impl Default for Metrics {
    fn default() -> Self {
        let refused = Family::<RefusedLabel, Counter>::default();
        // A reason that has not occurred yet is a zero, not a gap.
        for reason in Reason::ALL {
            drop(refused.get_or_create(&RefusedLabel { reason: reason.name() }));
        }
        Self {
            waiting: Gauge::default(),
            wait: Histogram::new(WAIT_BUCKETS),
            refused,
        }
    }
}

impl Metrics {
    /// Registers the metrics under the contract's names.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "queue_waiting",
            "Requests that wait for a slot of the quota",
            metrics.waiting.clone(),
        );
        registry.register(
            "queue_wait_seconds",
            "How long requests waited for a slot",
            metrics.wait.clone(),
        );
        registry.register(
            "queue_refused",
            "Requests refused because of the quota",
            metrics.refused.clone(),
        );
        metrics
    }

    pub(super) fn waited(&self, wait: Duration) {
        self.wait.observe(wait.as_secs_f64());
    }

    /// Counts a refusal.
    pub fn refused(&self, reason: Reason) {
        self.refused
            .get_or_create(&RefusedLabel { reason: reason.name() })
            .inc();
    }
}
