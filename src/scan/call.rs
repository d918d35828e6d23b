//! What travels through the middle of the stack: a question with its caller, and an answer with how it came about.

use std::sync::Arc;
use std::time::Duration;

use crate::caller::Caller;
use crate::scan::{Answer, Request};

/// A question on a caller's behalf.
#[derive(Clone, Debug)]
pub struct Call {
    /// The question.
    pub request: Arc<Request>,
    /// Who asks, and what they accept.
    pub caller: Arc<Caller>,
}

/// An answer, and how it came about.
#[derive(Clone, Debug)]
pub struct Served {
    /// The answer.
    pub answer: Answer,
    /// Whether its body may hold a link to a further page. `false` spares whoever rewrites links the search.
    pub may_link: bool,
    /// In one word, for metrics and logs.
    pub outcome: Outcome,
    /// For `Cache-Status`.
    pub status: Status,
    /// For `Age`: how long ago the upstream gave this answer; `None` for one that has just arrived.
    pub age: Option<Duration>,
}

/// How a request ended well. (`refused` and `failed`, the other two of the metrics, are errors.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Answered from the cache, fresh.
    Hit,
    /// Answered from the cache, past its freshness.
    Stale,
    /// Answered by a call that another request had started for the same key.
    Collapsed,
    /// Answered by a call that asked for several requests at once.
    Merged,
    /// Answered by a call of its own.
    Forwarded,
}

impl Outcome {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 5] = [Self::Hit, Self::Stale, Self::Collapsed, Self::Merged, Self::Forwarded];

    /// The name in metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Stale => "stale",
            Self::Collapsed => "collapsed",
            Self::Merged => "merged",
            Self::Forwarded => "forwarded",
        }
    }
}

/// The facts behind a `Cache-Status` member (RFC 9211 §2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Why the request went forward; `None` means that it was a hit.
    pub forward: Option<Forward>,
    /// The status that the upstream answered, if it differs from what the caller gets or is worth telling.
    pub forward_status: Option<u16>,
    /// Remaining freshness in seconds; negative when stale.
    pub ttl: Option<i64>,
    /// The answer was stored.
    pub stored: bool,
    /// The request joined another's call.
    pub collapsed: bool,
    /// A word for people: `stale-if-error`, `swr`, `merged`.
    pub detail: Option<&'static str>,
}

/// Why a request was not answered from the cache (RFC 9211 §2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// Nothing was stored.
    Miss,
    /// What was stored was too old.
    Stale,
    /// The caller's `Cache-Control` did not allow what was stored.
    Request,
    /// Some of the ids were stored.
    Partial,
    /// The cache is not used for such requests.
    Bypass,
}

impl Forward {
    /// The token of RFC 9211.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Miss => "miss",
            Self::Stale => "stale",
            Self::Request => "request",
            Self::Partial => "partial",
            Self::Bypass => "bypass",
        }
    }
}
