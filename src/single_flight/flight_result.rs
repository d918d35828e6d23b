//! What waiters are told.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::scan::Answer;
use crate::single_flight::Shared;

/// What a waiter gets.
pub(super) type FlightResult = Result<WaiterResponse, Shared>;

/// Where a waiter gets it.
pub(super) type ResultReceiver = oneshot::Receiver<FlightResult>;

/// An answer, as one waiter sees it.
#[derive(Clone, Debug)]
pub(super) struct WaiterResponse {
    pub(super) landing: Arc<FlightResponse>,
    pub(super) role: WaiterRole,
}

/// An answer for all.
#[derive(Debug)]
pub(super) struct FlightResponse {
    pub(super) answer: Answer,
    /// For how long it is kept, if it is.
    pub(super) kept: Option<Duration>,
    /// Whether the call asked for other questions too.
    pub(super) company: BatchKind,
}

/// Whether a flight's call asked for other questions too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BatchKind {
    /// Only for its own.
    None,
    /// It was this flight's call, for others too.
    Carrier,
    /// It was another flight's call.
    BatchMember,
}

/// Whose call it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaiterRole {
    /// The waiter's own.
    Lead,
    /// Somebody else's.
    Joined,
}
