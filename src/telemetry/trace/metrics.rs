//! The metrics of traces.

use crate::telemetry::{Counters, metrics, named_enum};

metrics! {
    /// Counts spans. Clones share the counts.
    #[derive(Clone, Debug)]
    pub struct Metrics {
        /// Recorded spans, by whether the collector took them or they were lost.
        spans: Counters<Outcome> = "trace_spans" => by("result"),
    }
}

named_enum! {
    #[derive(Clone, Copy, Debug)]
    enum Outcome, as_str {
        Sent = "sent",
        /// The collector was unreachable, slow, or rejected it.
        Dropped = "dropped",
    }
}

impl Metrics {
    pub(super) fn sent(&self, spans: usize) {
        self.spans.of(Outcome::Sent).inc_by(spans as u64);
    }

    pub(super) fn dropped(&self, spans: usize) {
        self.spans.of(Outcome::Dropped).inc_by(spans as u64);
    }
}
