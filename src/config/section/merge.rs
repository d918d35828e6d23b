//! `[merge]`: one upstream call for the ids of several callers.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::config::key::{DefaultValue, Key, Kind};
use crate::config::reader::Reader;

static ENABLED: Key = Key::new(
    "merge",
    "enabled",
    Kind::FlagOr("auto"),
    DefaultValue::Text("auto"),
    "Whether waiting requests for different ids share one upstream call. `auto`: once it has been found out that this changes no \
     answer, by comparing answers to several ids with those to each, with ten calls of surplus quota at most.",
)
.live();
static MAX_IDS: Key = Key::new(
    "merge",
    "max_ids",
    // With one id there is nothing to batch; the maximum is the upstream's largest page.
    Kind::Count(2, 10_000),
    DefaultValue::Count(100),
    "The most ids in one shared call. The upstream's own limit is not documented.",
)
.live();
static GATHER: Key = Key::new(
    "merge",
    "gather",
    Kind::Duration(Duration::ZERO, Duration::from_secs(1)),
    DefaultValue::Text("5ms"),
    "How long a call that could leave at once waits for others at least, while others ask and slots are scarce. The emptier the \
     bucket, the longer it waits, up to the distance of two slots; while it is full, and for a lone caller, not at all. In the queue it \
     always gathers.",
)
.live();
static KNOWN_ROWS: Key = Key::new(
    "merge",
    "known_rows",
    Kind::Count(0, 1_000_000),
    DefaultValue::Count(0),
    "How many rows one answer is known to hold, as `defender-gateway probe` reports it; 0: nothing is known. Until a longer answer has \
     been seen, a shared one may have been cut off, and its requests share another, smaller call.",
)
.live();

pub(super) static KEYS: &[&Key] = &[&ENABLED, &MAX_IDS, &GATHER, &KNOWN_ROWS];

/// When requests are batched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merging {
    /// Once it has been found out that it changes no answer.
    Auto,
    /// From the start.
    On,
    /// Never.
    Off,
}

/// One upstream call for the ids of several callers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merge {
    /// When requests are batched.
    pub enabled: Merging,
    /// The most ids in one call, at least 2.
    pub max_ids: NonZeroUsize,
    /// The least time that a call that could leave waits for others to share it.
    pub gather: Duration,
    /// The number of rows that fit into one answer; 0 when it is not known.
    pub known_rows: usize,
}

impl Merge {
    pub(in crate::config) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let enabled = reader.flag_or(&ENABLED, [Merging::On, Merging::Off, Merging::Auto]);
        let max_ids = reader.count(&MAX_IDS);
        let gather = reader.duration(&GATHER);
        let known_rows = reader.count(&KNOWN_ROWS);
        Some(Self {
            enabled: enabled?,
            max_ids: usize::try_from(max_ids?).ok().and_then(NonZeroUsize::new)?,
            gather: gather?,
            known_rows: usize::try_from(known_rows?).ok()?,
        })
    }
}
