//! `[cache]`: answers kept in memory.

use std::time::Duration;

use crate::config::key::{DefaultValue, Key, Kind};
use crate::config::reader::Reader;

/// Scan history is a record of sessions, and one older than a week is of no use.
const WEEK: Duration = Duration::from_hours(7 * 24);

static TTL: Key = Key::new(
    "cache",
    "ttl",
    Kind::Duration(Duration::ZERO, Duration::from_hours(24)),
    DefaultValue::Text("30s"),
    "How long an answer is fresh; `0s` turns the cache off. History changes when a scan session ends, every few hours, so minutes \
     lose little.",
)
.live();
static FINISHED_TTL: Key = Key::new(
    "cache",
    "finished_ttl",
    Kind::Duration(Duration::ZERO, WEEK),
    DefaultValue::Text("6h"),
    "How long the history of a finished session is fresh, which does not change any more; never shorter than `ttl`. A session that \
     may still run is fresh for `ttl`.",
)
.live();
static STALE_WHILE_REVALIDATE: Key = Key::new(
    "cache",
    "stale_while_revalidate",
    Kind::Duration(Duration::ZERO, WEEK),
    DefaultValue::Text("60s"),
    "How long past its freshness an answer is still given while a new one is fetched in the background.",
)
.live();
static STALE_IF_ERROR: Key = Key::new(
    "cache",
    "stale_if_error",
    Kind::Duration(Duration::ZERO, WEEK),
    DefaultValue::Text("10m"),
    "How long past its freshness an answer is given when no new one can be had: upstream down, quota spent.",
)
.live();
static MAX_SIZE: Key = Key::new(
    "cache",
    "max_size",
    Kind::Size(64 << 10, 1 << 40),
    DefaultValue::Text("64MiB"),
    "The memory that answers may take; the least used leave first. No more than the cache's share of the memory (`server.memory`): a \
     quarter of what is divided, or up to half where this is written.",
)
.live();

pub(super) static KEYS: &[&Key] = &[&TTL, &FINISHED_TTL, &STALE_WHILE_REVALIDATE, &STALE_IF_ERROR, &MAX_SIZE];

/// Answers kept in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    /// How long an answer is fresh; zero switches the cache off.
    pub ttl: Duration,
    /// How long the history of a finished session is fresh.
    pub finished_ttl: Duration,
    /// How long past its freshness it is served while a new one is fetched.
    pub stale_while_revalidate: Duration,
    /// How long past its freshness it is served when no new one can be fetched.
    pub stale_if_error: Duration,
    /// The memory that answers may take, in bytes.
    pub max_size: u64,
}

impl Cache {
    pub(in crate::config) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let ttl = reader.duration(&TTL);
        let finished_ttl = reader.duration(&FINISHED_TTL);
        let stale_while_revalidate = reader.duration(&STALE_WHILE_REVALIDATE);
        let stale_if_error = reader.duration(&STALE_IF_ERROR);
        let max_size = reader.size(&MAX_SIZE);
        Some(Self {
            ttl: ttl?,
            finished_ttl: finished_ttl?,
            stale_while_revalidate: stale_while_revalidate?,
            stale_if_error: stale_if_error?,
            max_size: max_size?,
        })
    }
}
