//! What the waiters of a flight get.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::scan::UpstreamResponse;
use crate::single_flight::Shared;

/// What a waiter gets.
pub(super) type FlightResult = Result<WaiterResponse, Shared>;

/// Where a waiter gets it.
pub(super) type ResultReceiver = oneshot::Receiver<FlightResult>;

/// The answer with what differs between waiters.
#[derive(Clone, Debug)]
pub(super) struct WaiterResponse {
    pub(super) shared: Arc<FlightResponse>,
    pub(super) role: WaiterRole,
}

/// What all waiters of a flight share.
#[derive(Debug)]
pub(super) struct FlightResponse {
    pub(super) answer: UpstreamResponse,
    /// How long the answer is cached, if it is.
    pub(super) kept: Option<Duration>,
    /// Whether the call was a batch.
    pub(super) batch_kind: BatchKind,
}

/// Whether a flight's call also asked for other flights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BatchKind {
    /// The call asked for this flight only.
    None,
    /// The call was this flight's, and asked for others too.
    Carrier,
    /// The call was another flight's.
    Member,
}

/// How a waiter came to the flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaiterRole {
    /// The call was made under its name.
    Leader,
    /// It joined a call that was made under another waiter's name.
    Joined,
}
