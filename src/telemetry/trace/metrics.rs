//! The metrics of traces.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Counts spans. Clones share the counts.
#[derive(Clone, Debug)]
pub struct Metrics {
    sent: Counter,
    dropped: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    result: &'static str,
}

impl Metrics {
    /// Registers `trace_spans_total{result}`: `sent`, or `dropped` because the collector was
    /// unreachable, slow, or rejected them.
    pub fn register(registry: &mut Registry) -> Self {
        let spans = Family::<Labels, Counter>::default();
        registry.register(
            "trace_spans",
            "Recorded spans, by whether the collector took them or they were lost",
            spans.clone(),
        );
        let counter = |result| spans.get_or_create_owned(&Labels { result });
        Self {
            sent: counter("sent"),
            dropped: counter("dropped"),
        }
    }

    pub(super) fn sent(&self, spans: usize) {
        self.sent.inc_by(spans as u64);
    }

    pub(super) fn dropped(&self, spans: usize) {
        self.dropped.inc_by(spans as u64);
    }
}
