//! The memory of the streams of all HTTP/2 connections.
//!
//! A stream reserves memory when its task starts and releases it when its response was read.
//! Without memory a request is refused. The refusal takes a stream as well until its caller has
//! read it, so there is a limit for those too, beyond which the connection is cut off.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::InboundRequest;
use super::connection_state::ConnectionState;
use crate::memory::{MemoryBudget, Reservation, STREAM};
use crate::response::RequestError;

/// The part of the budget that refusals may take in addition.
const OVERDRAFT: usize = 8;

/// Clones share the budget.
#[derive(Clone, Debug)]
pub(super) struct StreamMemory {
    budget: Arc<MemoryBudget>,
    /// The streams without a reservation.
    overdrawn: Arc<AtomicUsize>,
}

/// The memory of one stream, which is released on drop.
#[derive(Debug)]
pub(super) enum StreamReservation {
    Reserved { _reservation: Reservation },
    Overdrawn(Arc<AtomicUsize>),
}

impl StreamMemory {
    pub(super) fn new(budget: Arc<MemoryBudget>) -> Self {
        Self {
            budget,
            overdrawn: Arc::default(),
        }
    }

    /// Admits a request or refuses it. A connection whose requests cannot even be refused is cut
    /// off.
    pub(super) fn admit<B>(&self, request: &mut InboundRequest<B>, state: &ConnectionState) {
        if self.budget.left() >= STREAM {
            return;
        }
        request.refuse(RequestError::Busy);
        if self.overdrawn.load(Ordering::Relaxed) * STREAM >= self.budget.bytes() / OVERDRAFT {
            state.cut();
        }
    }

    /// Takes the memory of a stream that was admitted or refused.
    pub(super) fn take(&self) -> StreamReservation {
        if let Some(reservation) = self.budget.try_reserve(STREAM) {
            return StreamReservation::Reserved {
                _reservation: reservation,
            };
        }
        self.overdrawn.fetch_add(1, Ordering::Relaxed);
        StreamReservation::Overdrawn(Arc::clone(&self.overdrawn))
    }
}

impl Drop for StreamReservation {
    fn drop(&mut self) {
        if let Self::Overdrawn(overdrawn) = self {
            overdrawn.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use tokio::time::Instant;

    use super::super::Peer;
    use super::super::connection_state::{Action, Draining, Limits};
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn without_memory_requests_are_refused_and_then_their_connection_is_cut() {
        let streams = StreamMemory::new(MemoryBudget::new(16 * STREAM));
        let state = ConnectionState::new();
        let action = || {
            let limits = Limits {
                header: Duration::from_secs(1),
                idle: Duration::from_secs(1),
                memory_is_wanted: false,
            };
            state.action(limits, None, Draining::No)
        };
        let mut taken = Vec::new();
        let mut ask = || {
            let mut request = InboundRequest::new(Request::new(()), Peer::unix());
            streams.admit(&mut request, &state);
            taken.push(streams.take());
            request.meta().refused.is_some()
        };
        assert!((0..16).all(|_| !ask()));
        assert!((0..2).all(|_| ask()));
        assert_eq!(action(), Action::Wait(Instant::now() + Duration::from_secs(1)));
        assert!(ask());
        assert_eq!(action(), Action::Cut);
        drop(taken);
        assert_eq!(
            (streams.budget.left(), streams.overdrawn.load(Ordering::Relaxed)),
            (16 * STREAM, 0)
        );
    }
}
