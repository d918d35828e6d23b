//! The outcome of a request, in one word. Metrics, history, the status page, alerts and logs all
//! use this word.

use http::StatusCode;

use crate::scan::{self, ForwardReason, TokenOwner};

/// How a request ended, for metrics and logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The outcome in one word.
    pub outcome: Outcome,
    /// Why the request was not answered from the cache; `None` when it was, or when there was no
    /// upstream answer.
    pub forward: Option<ForwardReason>,
    /// What went wrong, with its causes, for the log; `None` when nothing did.
    pub cause: Option<String>,
}

/// The outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// An answer that the caller can use, from the cache or the upstream.
    Served(scan::Outcome),
    /// Refused by design: no slot in time, over the caller's limit, shutting down, or overloaded.
    Refused,
    /// The upstream, the sign-in or the gateway failed.
    Failed,
    /// A mistake of the caller.
    Invalid,
    /// The caller hung up before its answer.
    Gone,
}

impl Outcome {
    /// The number of outcomes.
    pub const COUNT: usize = scan::Outcome::ALL.len() + 4;

    /// All outcomes, in the order of [`Outcome::index`].
    pub const ALL: [Self; Self::COUNT] = [
        Self::Served(scan::Outcome::Hit),
        Self::Served(scan::Outcome::Stale),
        Self::Served(scan::Outcome::Collapsed),
        Self::Served(scan::Outcome::Merged),
        Self::Served(scan::Outcome::Forwarded),
        Self::Refused,
        Self::Failed,
        Self::Invalid,
        Self::Gone,
    ];

    /// Its index in [`Outcome::ALL`].
    pub fn index(self) -> usize {
        let others = scan::Outcome::ALL.len();
        match self {
            Self::Served(outcome) => outcome as usize,
            Self::Refused => others,
            Self::Failed => others + 1,
            Self::Invalid => others + 2,
            Self::Gone => others + 3,
        }
    }

    /// The name in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Served(outcome) => outcome.as_str(),
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Invalid => "invalid",
            Self::Gone => "gone",
        }
    }

    /// The outcome of an upstream answer with this status, which was found as `how` says.
    pub fn of_answer(how: scan::Outcome, status: StatusCode, owner: TokenOwner) -> Self {
        match (status.as_u16(), owner) {
            (200..=299, _) => Self::Served(how),
            (429, _) => Self::Refused,
            (401 | 403, TokenOwner::Caller) => Self::Invalid,
            // The licence, the token or the permission of the gateway is missing, or the upstream
            // did not take the request.
            (401..=403 | 407 | 408 | 421 | 425, _) => Self::Failed,
            (400..=499, _) => Self::Invalid,
            _ => Self::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_has_its_place() {
        for (place, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome.index(), place, "{}", outcome.as_str());
        }
    }

    #[test]
    fn an_answer_that_the_caller_cannot_use_is_not_forwarded() {
        let of = |status: u16, owner| {
            let status = StatusCode::from_u16(status).unwrap();
            Outcome::of_answer(scan::Outcome::Forwarded, status, owner).as_str()
        };
        for (status, gateway, caller) in [
            (200, "forwarded", "forwarded"),
            (302, "failed", "failed"),
            (400, "invalid", "invalid"),
            (401, "failed", "invalid"),
            (403, "failed", "invalid"),
            (404, "invalid", "invalid"),
            (408, "failed", "failed"),
            (429, "refused", "refused"),
            (500, "failed", "failed"),
            (503, "failed", "failed"),
        ] {
            assert_eq!(of(status, TokenOwner::Gateway), gateway, "{status}");
            assert_eq!(of(status, TokenOwner::Caller), caller, "{status}");
        }
    }
}
