//! `[cache]`: answers kept in memory.

use std::time::Duration;

use super::declare::{keys, section};
use crate::config::key::Key;
use crate::config::reader::Reader;

/// Scan history is a record of sessions, and one older than a week is of no use.
const WEEK: Duration = Duration::from_hours(7 * 24);

section! {
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Cache: "cache", "answers kept in memory";

    /// How long an answer is fresh; `0s` turns the cache off. History changes when a scan session
    /// ends, every few hours, so minutes lose little.
    ttl: Duration = Key::duration(Duration::ZERO, Duration::from_hours(24), "30s").live() => Reader::duration;

    /// How long the history of a finished session is fresh, which does not change any more; never
    /// shorter than `ttl`. A session that may still run is fresh for `ttl`.
    finished_ttl: Duration = Key::duration(Duration::ZERO, WEEK, "6h").live() => Reader::duration;

    /// How long past its freshness an answer is still given while a new one is fetched in the
    /// background.
    stale_while_revalidate: Duration = Key::duration(Duration::ZERO, WEEK, "60s").live() => Reader::duration;

    /// How long past its freshness an answer is given when no new one can be had: upstream down,
    /// quota spent.
    stale_if_error: Duration = Key::duration(Duration::ZERO, WEEK, "10m").live() => Reader::duration;

    /// The memory that answers may take; the least used leave first. No more than the cache's share
    /// of the memory (`server.memory`): a quarter of what is divided, or up to half where this is
    /// written.
    max_size: u64 = Key::size(64 << 10, 1 << 40, "64MiB").live() => Reader::size;
}
