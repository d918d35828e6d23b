//! `[merge]`: one upstream call for the ids of several callers.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::declare::{keys, section};
use crate::config::key::Key;
use crate::config::reader::Reader;
pub use crate::scan::Merging;

section! {
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Merge: "merge", "one upstream call for the ids of several callers";

    /// Whether waiting requests for different ids share one upstream call. `auto`: once it has been
    /// found out that this changes no answer, by comparing answers to several ids with those to
    /// each, with ten calls of surplus quota at most. Stored rows answer requests for other lists
    /// of ids whatever is set here, unless that comparison has shown that answers differ.
    enabled: Merging = Key::flag_or("auto", "auto").live()
        => |reader, key| reader.flag_or(key, [Merging::On, Merging::Off, Merging::Auto]);

    /// The most ids in one shared call. The upstream's own limit is not documented.
    // With one id there is nothing to batch; the maximum is the upstream's largest page.
    max_ids: NonZeroUsize = Key::count(2, 10_000, 100).live() => Reader::count;

    /// How long a call that could leave at once waits for others at least, while others ask and
    /// slots are scarce. The emptier the bucket, the longer it waits, up to the distance of two
    /// slots; while it is full, and for a lone caller, not at all. In the queue it always gathers.
    gather: Duration = Key::duration(Duration::ZERO, Duration::from_secs(1), "5ms").live() => Reader::duration;

    /// How many rows one answer is known to hold, as `defender-gateway probe` reports it; 0:
    /// nothing is known. Until a longer answer has been seen, a shared one may have been cut off,
    /// and its requests share another, smaller call.
    known_rows: usize = Key::count(0, 1_000_000, 0).live() => Reader::count;
}
