//! The settings of the cache.

use std::time::Duration;

use crate::scan::Merging;

/// The cache's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long an answer is fresh. Without prefetching each entry's own time is up to a tenth
    /// shorter, so that answers fetched together do not all have to be refreshed together. Zero
    /// switches the cache off.
    pub ttl: Duration,
    /// How long the history of a finished session is fresh; no shorter than `ttl`.
    pub finished_ttl: Duration,
    /// How long after that a stale answer is served at once, while a new one is fetched from spare
    /// quota, if there is any.
    pub stale_while_revalidate: Duration,
    /// How long after its freshness a stale answer is served when no new one can be fetched.
    pub stale_if_error: Duration,
    /// When requests are merged: then calls with spare room refresh ids that are often asked for,
    /// so the cache counts how often they are.
    pub prefetch: Merging,
    /// Memory for entries, their keys and bookkeeping included, in bytes.
    pub max_size: u64,
    /// Memory for the bodies of entries, and of former entries that callers are still reading, in
    /// bytes; more than `max_size`.
    pub max_held: usize,
}

impl Config {
    /// How long an error about the request (400, 404) is stored, at most: long enough that a tool
    /// in a loop costs some six calls a minute, and short enough that a new definition is found
    /// soon.
    pub const NEGATIVE_TTL: Duration = Duration::from_secs(10);

    /// After this long no stored answer can be served any more.
    pub(super) fn kept(&self) -> Duration {
        self.ttl
            .max(self.finished_ttl)
            .saturating_add(self.longest_staleness())
            .min(Duration::from_hours(24 * 365))
    }

    /// This long after its freshness no entry can be served any more.
    pub(super) fn longest_staleness(&self) -> Duration {
        self.stale_while_revalidate.max(self.stale_if_error)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(30),
            finished_ttl: Duration::from_hours(6),
            stale_while_revalidate: Duration::from_mins(1),
            stale_if_error: Duration::from_mins(10),
            prefetch: Merging::Off,
            max_size: 64 << 20,
            max_held: 80 << 20,
        }
    }
}
