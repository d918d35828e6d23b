//! What sharing counts.

use std::fmt;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::scan::Doubt;

/// The counters of shared calls. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    merged_calls: Counter,
    merged_requests: Counter,
    doubts: Family<Labels, Counter>,
}

impl Metrics {
    /// Names the metrics `merged_calls_total`, `merged_requests_total` and `merge_doubts_total{reason}` in `registry`.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for doubt in Doubt::ALL {
            // A counter that appears with its first doubt hides that doubt from `increase()`.
            drop(metrics.doubts.get_or_create(&Labels { reason: Reason(doubt) }));
        }
        registry.register(
            "merged_calls",
            "Upstream calls that asked for several requests at once",
            metrics.merged_calls.clone(),
        );
        registry.register(
            "merged_requests",
            "Requests answered by such calls",
            metrics.merged_requests.clone(),
        );
        registry.register(
            "merge_doubts",
            "Such calls whose answer could not be taken apart with certainty",
            metrics.doubts.clone(),
        );
        metrics
    }

    /// Upstream calls that asked for several requests at once.
    #[must_use]
    pub fn merged_calls(&self) -> u64 {
        self.merged_calls.get()
    }

    /// Requests answered by such calls.
    #[must_use]
    pub fn merged_requests(&self) -> u64 {
        self.merged_requests.get()
    }

    pub(super) fn merged(&self, requests: usize) {
        self.merged_calls.inc();
        self.merged_requests.inc_by(requests as u64);
    }

    pub(super) fn doubt(&self, doubt: Doubt) {
        self.doubts.get_or_create(&Labels { reason: Reason(doubt) }).inc();
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    reason: Reason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Reason(Doubt);

impl EncodeLabelValue for Reason {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        self.0.as_str().encode(encoder)
    }
}
