//! The metrics of the shared cache.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use crate::telemetry::{Counters, metrics, named_enum};

metrics! {
    /// The counters of the shared cache. Clones count together.
    #[derive(Clone, Debug)]
    pub struct Metrics {
        /// Whether answers are being shared: 0 while the store is left alone after a failure
        pub(super) up: Gauge = "shared_answers_up",
        /// Requests that memory could not answer, by what the shared store had for them
        lookups: Counters<LookupResult> = "shared_answers_lookups" => by("result"),
        /// Answers in the shared store that could not be used: another version, damaged, too large
        pub(super) unreadable: Counter = "shared_answers_unreadable",
        /// Answers for the shared store, by what became of them
        writes: Counters<Write> = "shared_answers_writes" => by("result"),
    }
}

impl Metrics {
    pub(super) fn record_lookup(&self, result: LookupResult) {
        self.lookups.of(result).inc();
    }

    pub(super) fn looked_up(&self, result: LookupResult) -> u64 {
        self.lookups.of(result).get()
    }

    pub(super) fn record_write(&self, result: Write) {
        self.writes.of(result).inc();
    }

    pub(super) fn written(&self) -> u64 {
        self.writes.of(Write::Written).get()
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
