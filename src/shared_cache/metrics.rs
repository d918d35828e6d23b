//! What the shared cache counts: its metrics, and its state for `/status`.

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

    pub(super) fn record_write(&self, result: Write) {
        self.writes.of(result).inc();
    }

    /// The counts, while answers are shared or not.
    pub(super) fn snapshot(&self, up: bool) -> Snapshot {
        let looked_up = |result| self.lookups.of(result).get();
        Snapshot {
            up,
            hits: looked_up(LookupResult::Hit),
            followed: looked_up(LookupResult::Followed),
            led: looked_up(LookupResult::Led),
            alone: looked_up(LookupResult::Alone),
            written: self.writes.of(Write::Written).get(),
            unreadable: self.unreadable.get(),
        }
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

/// The counts for `/status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Snapshot {
    /// Whether answers are shared; `false` while the circuit breaker is open.
    pub up: bool,
    /// Requests answered from the store.
    pub hits: u64,
    /// Requests answered by a call of another replica.
    pub followed: u64,
    /// Requests for which this replica had the lease.
    pub led: u64,
    /// Requests that this replica asked for itself only.
    pub alone: u64,
    /// Answers written to the store.
    pub written: u64,
    /// Values in the store that could not be used.
    pub unreadable: u64,
}
