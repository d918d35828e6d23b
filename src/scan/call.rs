//! The values of the middle of the stack: a request with its caller, and an answer with how it was
//! found.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::caller::Caller;
use crate::scan::{Request, UpstreamResponse};
use crate::telemetry::named_enum;

/// A request of a caller.
#[derive(Clone, Debug)]
pub struct Call {
    /// The request.
    pub request: Arc<Request>,
    /// The caller and its directives.
    pub caller: Arc<Caller>,
}

impl Call {
    /// The same call, whose caller has something else (`has_fallback`) if it is refused.
    pub fn with_fallback(self, has_fallback: bool) -> Self {
        if !has_fallback {
            return self;
        }
        let caller = Caller {
            has_fallback: true,
            ..Caller::clone(&self.caller)
        };
        Self {
            caller: Arc::new(caller),
            ..self
        }
    }
}

/// An answer, and how it was found.
#[derive(Clone, Debug)]
pub struct ServedResponse {
    /// The answer.
    pub answer: UpstreamResponse,
    /// Whether its body may contain a link to a next page. `false` saves the search for links.
    pub may_link: bool,
    /// The outcome, for metrics and logs.
    pub outcome: Outcome,
    /// For `Cache-Status`.
    pub status: Status,
    /// For `Age`: how long ago the upstream made this answer; `None` for one that has just arrived.
    pub age: Option<Duration>,
}

named_enum! {
    /// The outcome of a request that was answered. (The others in the metrics are errors.)
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub enum Outcome, as_str {
        /// Answered by a fresh entry of the cache.
        Hit = "hit",
        /// Answered by a stale entry of the cache.
        Stale = "stale",
        /// Answered by a call that an equal request had started.
        Collapsed = "collapsed",
        /// Answered by a batch: a call for several requests.
        Merged = "merged",
        /// Answered by a call of its own.
        Forwarded = "forwarded",
    }
}

/// The facts behind a `Cache-Status` member (RFC 9211 §2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Why the request was forwarded; `None` for a hit.
    pub forward: Option<ForwardReason>,
    /// The upstream's status, if it differs from the response's or is worth telling.
    pub forward_status: Option<u16>,
    /// Remaining freshness in seconds; negative when stale.
    pub ttl: Option<i64>,
    /// The answer was stored.
    pub stored: bool,
    /// The request joined another request's call.
    pub collapsed: bool,
    /// A detail for people: `stale-if-error`, `swr`, `merged`.
    pub detail: Option<&'static str>,
}

named_enum! {
    /// Why a request was forwarded and not answered from the cache (RFC 9211 §2.2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum ForwardReason, as_str {
        /// Nothing was stored.
        Miss = "miss",
        /// The stored answer was too old.
        Stale = "stale",
        /// The caller's `Cache-Control` did not allow the stored answer.
        Request = "request",
        /// Some of the ids were stored.
        Partial = "partial",
        /// The cache is not used for such requests.
        Bypass = "bypass",
    }
}

/// Stores answers for later requests.
///
/// It is called by the flight and not by its waiters, so that an answer that was paid for is stored
/// even when all waiters have gone.
pub trait CacheSink: Send + Sync + fmt::Debug {
    /// Stores the answer to a call that left at `asked`. Returns how long it is fresh; `None` when
    /// it was not stored.
    fn keep(&self, request: &Request, answer: &UpstreamResponse, asked: Instant) -> Option<Duration>;

    /// Who has to hear of a call for `request` whose answer may be stored. The call keeps it until it
    /// ends.
    fn observer(&self, request: &Request) -> Option<Box<dyn CallObserver>> {
        let _ = request;
        None
    }

    /// Ids worth prefetching by a call that leaves at `now` for `asked` and has room for `most`
    /// more: those that were often asked for recently, and whose rows will be stale at `until`,
    /// when the next call may be answered. The most useful come first.
    fn worth_prefetching(&self, asked: &Request, most: usize, now: Instant, until: Instant) -> Vec<Box<str>> {
        let _ = (asked, most, now, until);
        Vec::new()
    }

    /// The rows of some ids of `request` that have come since that moment; `None` when none have,
    /// or when answers are not stored by id.
    fn rows_since(&self, request: &Arc<Request>, since: Instant) -> Option<Box<dyn StoredRows>> {
        let _ = (request, since);
        None
    }

    /// Stores the rows of a batch by id; no flight waited for those of `prefetched`.
    fn keep_rows(&self, request: &Request, prefetched: Option<&Request>, answer: &UpstreamResponse, asked: Instant) {
        let _ = (request, prefetched, answer, asked);
    }
}

/// Hears where a call is, and by its end that it has ended.
pub trait CallObserver: Send + Sync + fmt::Debug {
    /// The call has left, or waits for a slot again that does not come soon.
    fn has_left(&self, has_left: bool);
}

/// The rows of some ids of a request, which came with other calls while the request waited.
pub trait StoredRows: Send + Sync + fmt::Debug {
    /// A request for the other ids; `None` when the rows of all have come.
    fn missing(&self) -> Option<&Request>;

    /// The answer to the whole request, and when the oldest of its rows were asked for; `rest` is
    /// the answer to [`StoredRows::missing`]. `None` when it is not certain that the upstream would
    /// give the same answer.
    fn complete(&self, rest: Option<&UpstreamResponse>) -> Option<(UpstreamResponse, Instant)>;
}
