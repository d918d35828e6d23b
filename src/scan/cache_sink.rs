//! The sink for answers that are to be cached.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::scan::{Answer, Request};

/// Stores answers for later requests.
///
/// It is called by the flight and not by its waiters, so that an answer that was paid for is stored
/// even when all waiters have gone.
pub trait CacheSink: Send + Sync + fmt::Debug {
    /// Stores the answer to a call that left at `asked`. Returns how long it is fresh; `None` when
    /// it was not stored.
    fn keep(&self, request: &Request, answer: &Answer, asked: Instant) -> Option<Duration>;

    /// Ids worth prefetching by a call that leaves at `now` for `asked` and has room for `most`
    /// more: those that were often asked for recently, and whose rows will be stale at `until`,
    /// when the next call may be answered. The most useful come first.
    fn worth_prefetching(&self, asked: &Request, most: usize, now: Instant, until: Instant) -> Vec<Box<str>> {
        let _ = (asked, most, now, until);
        Vec::new()
    }

    /// Stores the rows of a batch by id; no flight waited for those of `prefetched`.
    fn keep_rows(&self, request: &Request, prefetched: Option<&Request>, answer: &Answer, asked: Instant) {
        let _ = (request, prefetched, answer, asked);
    }
}
