//! Where answers go that may be wanted again.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::scan::{Answer, Request};

/// Keeps answers for later requests.
///
/// It is called by whoever makes the calls, not by whoever waits for them, so that an answer that was paid for is kept even when
/// everybody who wanted it has gone.
pub trait Keep: Send + Sync + fmt::Debug {
    /// Keeps the answer to a call that left at `asked`. Returns for how long it counts as fresh; `None` when it was not kept.
    fn keep(&self, request: &Request, answer: &Answer, asked: Instant) -> Option<Duration>;

    /// Ids worth asking for by the way, in a call that leaves at `now` for `asked` and has room for `most` more: those that were asked for
    /// often of late, and whose rows will be stale at `until`, when the next call may be answered. The most useful first.
    fn worth_prefetching(&self, asked: &Request, most: usize, now: Instant, until: Instant) -> Vec<Box<str>> {
        let _ = (asked, most, now, until);
        Vec::new()
    }

    /// Keeps the rows of the ids of a call that was made for several; for those of `prefetched` nobody waited.
    fn keep_rows(&self, request: &Request, prefetched: Option<&Request>, answer: &Answer, asked: Instant) {
        let _ = (request, prefetched, answer, asked);
    }
}
