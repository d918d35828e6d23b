//! What the cache counts: its metrics, and its state for `/status`.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::cache::memory_store::{Cache, Entries};
use crate::telemetry::{Counters, metrics, named_enum};

metrics! {
    /// The cache's counters. Clones count together.
    #[derive(Clone, Debug)]
    pub struct Metrics {
        /// Requests by how the cache dealt with them.
        requests: Counters<Lookup> = "cache_requests" => by("result"),
        /// Ids that calls with room asked for although nobody waited for them, by whether an answer
        /// used their rows while they were fresh.
        prefetched: Counters<Used> = "prefetched_ids" => by("used"),
        /// `cache_bytes` and `cache_entries`.
        size: Size = collector,
    }
}

/// Prefetched ids, by whether they were used.
#[derive(Clone, Debug)]
pub(super) struct Prefetched {
    pub(super) used: Counter,
    pub(super) unused: Counter,
}

impl Metrics {
    /// The counters of prefetched ids whose rows an answer used, and of those that were not used.
    pub(super) fn prefetched(&self) -> Prefetched {
        let of = |used| self.prefetched.of(used).clone();
        Prefetched {
            used: of(Used::Yes),
            unused: of(Used::No),
        }
    }

    pub(super) fn count(&self, handling: Lookup) {
        self.requests.of(handling).inc();
    }

    pub(super) fn snapshot(&self, entries: &Entries) -> Snapshot {
        entries.run_pending_tasks();
        let counted = |lookup| self.requests.of(lookup).get();
        let misses = [
            Lookup::Miss,
            Lookup::Expired,
            Lookup::Request,
            Lookup::Partial,
            Lookup::Bypass,
            Lookup::NotCached,
        ];
        Snapshot {
            entries: entries.entry_count(),
            bytes: entries.weighted_size(),
            hits: counted(Lookup::Hit),
            stale: counted(Lookup::Stale),
            misses: misses.into_iter().map(counted).sum(),
        }
    }

    /// Exports the size of the cache. If there are several caches, that of the latest.
    pub(super) fn watch(&self, entries: &Entries) {
        self.size.0.store(Some(Arc::new(entries.clone())));
    }
}

named_enum! {
    /// The result of a lookup.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub(super) enum Lookup, as_str {
        /// Answered by a fresh entry.
        Hit = "hit",
        /// Answered by a stale entry.
        Stale = "stale",
        /// Forwarded: there was no entry.
        Miss = "miss",
        /// Forwarded: the entry was too old.
        Expired = "expired",
        /// Forwarded: the caller's `Cache-Control` asked for it.
        Request = "request",
        /// Forwarded for some of the ids.
        Partial = "partial",
        /// Forwarded: the cache is off.
        Bypass = "bypass",
        /// Refused: `only-if-cached`.
        NotCached = "not_cached",
    }
}

/// A request whose lookup is counted when it is known what answers it, or when its caller leaves.
pub(super) struct CountedOnDrop {
    cache: Arc<Cache>,
    lookup: Lookup,
}

impl CountedOnDrop {
    pub(super) fn new(cache: Arc<Cache>, lookup: Lookup) -> Self {
        Self { cache, lookup }
    }

    /// What answers the request after all, and is counted in place of what was found first.
    pub(super) fn becomes(&mut self, lookup: Lookup) {
        self.lookup = lookup;
    }
}

impl Drop for CountedOnDrop {
    fn drop(&mut self) {
        self.cache.count(self.lookup);
    }
}

named_enum! {
    /// Whether prefetched rows were used.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    enum Used, as_str {
        Yes = "true",
        No = "false",
    }
}

/// Reads the cache's size when metrics are scraped, so that it costs nothing in between.
#[derive(Clone, Default)]
struct Size(Arc<ArcSwapOption<Entries>>);

impl Collector for Size {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (mut bytes, mut count) = (0, 0);
        if let Some(entries) = self.0.load_full() {
            entries.run_pending_tasks();
            (bytes, count) = (entries.weighted_size(), entries.entry_count());
        }
        for (name, help, value) in [
            ("cache_bytes", "Memory taken by cached answers", bytes),
            ("cache_entries", "Cached answers", count),
        ] {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            let metric = encoder.encode_descriptor(name, help, None, prometheus_client::metrics::MetricType::Gauge)?;
            gauge.encode(metric)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Size").finish_non_exhaustive()
    }
}

/// The cache's state, for `/status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Snapshot {
    /// Entries in memory.
    pub entries: u64,
    /// Memory they take, in bytes.
    pub bytes: u64,
    /// Requests answered by a fresh entry.
    pub hits: u64,
    /// Requests that were forwarded, or refused because of `only-if-cached`.
    pub misses: u64,
    /// Requests answered by a stale entry.
    pub stale: u64,
}
