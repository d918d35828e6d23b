//! What waiters are told.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::coalesce::Shared;
use crate::scan::Answer;

/// What a waiter gets.
pub(super) type News = Result<Arrival, Shared>;

/// Where a waiter gets it.
pub(super) type Inbox = oneshot::Receiver<News>;

/// An answer, as one waiter sees it.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    pub(super) landing: Arc<Landing>,
    pub(super) role: Role,
}

/// An answer for all.
#[derive(Debug)]
pub(super) struct Landing {
    pub(super) answer: Answer,
    /// For how long it is kept, if it is.
    pub(super) kept: Option<Duration>,
    /// Whether the call asked for other questions too.
    pub(super) company: Company,
}

/// Whether a flight's call asked for other questions too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Company {
    /// Only for its own.
    None,
    /// It was this flight's call, for others too.
    Carrier,
    /// It was another flight's call.
    Passenger,
}

/// Whose call it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The waiter's own.
    Lead,
    /// Somebody else's.
    Joined,
}
