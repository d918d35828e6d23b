//! The metrics of the shared cache.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::telemetry::{metric_set, named_enum};

metric_set! {
    /// The counters of the shared cache. Clones count together.
    #[derive(Clone, Debug, Default)]
    pub struct Metrics {
        /// Whether answers are being shared: 0 while the store is left alone after a failure
        pub(super) up: Gauge = "shared_answers_up",
        /// Requests that memory could not answer, by what the shared store had for them
        lookups: Family<LookupLabels, Counter> = "shared_answers_lookups",
        /// Answers in the shared store that could not be used: another version, damaged, too large
        pub(super) unreadable: Counter = "shared_answers_unreadable",
        /// Answers for the shared store, by what became of them
        writes: Family<WriteLabels, Counter> = "shared_answers_writes",
    }
}

impl Metrics {
    /// Registers all of them in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        metrics.register_in(registry);
        for result in LookupResult::ALL {
            drop(metrics.lookups.get_or_create(&LookupLabels { result }));
        }
        for result in Write::ALL {
            drop(metrics.writes.get_or_create(&WriteLabels { result }));
        }
        metrics
    }

    pub(super) fn record_lookup(&self, result: LookupResult) {
        self.lookups.get_or_create(&LookupLabels { result }).inc();
    }

    pub(super) fn looked_up(&self, result: LookupResult) -> u64 {
        self.lookups.get_or_create(&LookupLabels { result }).get()
    }

    pub(super) fn record_write(&self, result: Write) {
        self.writes.get_or_create(&WriteLabels { result }).inc();
    }

    pub(super) fn written(&self) -> u64 {
        self.writes.get_or_create(&WriteLabels { result: Write::Written }).get()
    }
}

named_enum! {
    /// How a lookup ended for a request.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub(super) enum LookupResult, as_str {
        /// A stored answer.
        Hit = "hit",
        /// The answer of another replica's call.
        Followed = "followed",
        /// No answer; this replica asks for all.
        Led = "led",
        /// No answer that could be used or waited for; this replica asks for itself.
        Alone = "alone",
    }
}

named_enum! {
    /// What happened to an answer that was to be written.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub(super) enum Write, as_str {
        /// It is in the store.
        Written = "written",
        /// It is too large to be shared.
        TooLarge = "too_large",
        /// Too many were waiting to be written, or the circuit breaker is open.
        Dropped = "dropped",
        /// The store failed.
        Failed = "failed",
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LookupLabels {
    result: LookupResult,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    result: Write,
}
