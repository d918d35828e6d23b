//! How long and how much.

use std::time::Duration;

/// Whether ids that are asked for often are renewed by calls that have room for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prefetch {
    /// They are, so what is asked for is counted.
    On,
    /// They are not.
    #[default]
    Off,
}

/// The cache's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// For how long an answer is fresh. Without prefetching each entry's own time is up to a tenth shorter, so that answers fetched
    /// together do not all have to be renewed together. Zero switches the cache off.
    pub ttl: Duration,
    /// For how long the history of a finished session is fresh; no shorter than `ttl`.
    pub finished_ttl: Duration,
    /// For how long after that a stale answer is served at once, while a new one is fetched from surplus quota, if there is any.
    pub stale_while_revalidate: Duration,
    /// For how long after its freshness a stale answer is served when no new one can be had.
    pub stale_if_error: Duration,
    /// Whether it notes what is asked for often, for calls with room to take along.
    pub prefetch: Prefetch,
    /// Memory for entries, in bytes, their keys and bookkeeping included.
    pub max_size: u64,
    /// Memory for the bodies of entries and of those that were entries and are not yet taken by all callers, in bytes; more than
    /// `max_size`.
    pub max_held: usize,
}

impl Config {
    /// For how long a refused question (400, 404) is remembered, at most: long enough that a tool in a loop costs some six calls a minute,
    /// short enough that a definition just created is found soon.
    pub const NEGATIVE_TTL: Duration = Duration::from_secs(10);

    /// After this long nothing that was stored is of use to anybody.
    pub(super) fn kept(&self) -> Duration {
        self.ttl
            .max(self.finished_ttl)
            .saturating_add(self.longest_staleness())
            .min(Duration::from_hours(24 * 365))
    }

    /// After this long past its freshness an entry is of no use to anybody.
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
            prefetch: Prefetch::Off,
            max_size: 64 << 20,
            max_held: 80 << 20,
        }
    }
}
