//! `[merge]`: one upstream call for the ids of several callers.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::config::key::{Fallback, Key, Kind};
use crate::config::reader::Reader;

static ENABLED: Key = Key::new(
    "merge",
    "enabled",
    Kind::Flag,
    Fallback::Flag(false),
    "Whether waiting requests for different ids share one upstream call. Off until `defender-gateway probe` has confirmed how your \
     tenant answers.",
);
static MAX_IDS: Key = Key::new(
    "merge",
    "max_ids",
    // With one id there is nothing to merge; the most is the upstream's largest page.
    Kind::Count(2, 10_000),
    Fallback::Count(100),
    "The most ids in one shared call. The upstream's own limit is not documented.",
);
static GATHER: Key = Key::new(
    "merge",
    "gather",
    Kind::Duration(Duration::ZERO, Duration::from_secs(1)),
    Fallback::Text("5ms"),
    "How long a call may wait for company when it could leave at once; in the queue it always gathers.",
);

pub(super) static KEYS: &[&Key] = &[&ENABLED, &MAX_IDS, &GATHER];

/// One upstream call for the ids of several callers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merge {
    /// Whether requests are merged at all.
    pub enabled: bool,
    /// The most ids in one call, at least 2.
    pub max_ids: NonZeroUsize,
    /// How long a call that could leave waits for company.
    pub gather: Duration,
}

impl Merge {
    pub(in crate::config) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let enabled = reader.flag(&ENABLED);
        let max_ids = reader.count(&MAX_IDS);
        let gather = reader.duration(&GATHER);
        Some(Self {
            enabled: enabled?,
            max_ids: usize::try_from(max_ids?).ok().and_then(NonZeroUsize::new)?,
            gather: gather?,
        })
    }
}
