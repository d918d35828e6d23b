//! Memory for the streams of all HTTP/2 connections.
//!
//! A stream takes its part when its task starts, and gives it back when its answer is taken. Without any left a request is refused, which
//! takes a stream as well until its caller has read the refusal: so there is a bound on those, too, and whoever asks beyond it is cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::InboundRequest;
use super::connection_state::ConnectionState;
use crate::memory::{MemoryBudget, Reservation, STREAM};
use crate::response::Refusal;

/// The part of the budget that refusals may take besides it.
const OVERDRAFT: usize = 8;

/// Clones share it.
#[derive(Clone, Debug)]
pub(super) struct StreamMemory {
    budget: Arc<MemoryBudget>,
    /// Streams that found nothing left.
    overdrawn: Arc<AtomicUsize>,
}

/// The memory of one stream; it goes back on drop.
#[derive(Debug)]
pub(super) enum Taken {
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

    /// Lets a request go on, or has it refused; a connection whose requests cannot even be refused is cut.
    pub(super) fn admit<B>(&self, arrival: &mut InboundRequest<B>, activity: &ConnectionState) {
        if self.budget.left() >= STREAM {
            return;
        }
        arrival.refuse(Refusal::Busy);
        if self.overdrawn.load(Ordering::Relaxed) * STREAM >= self.budget.bytes() / OVERDRAFT {
            activity.cut();
        }
    }

    /// Takes the memory of a stream that was admitted or refused.
    pub(super) fn take(&self) -> Taken {
        if let Some(reservation) = self.budget.try_reserve(STREAM) {
            return Taken::Reserved {
                _reservation: reservation,
            };
        }
        self.overdrawn.fetch_add(1, Ordering::Relaxed);
        Taken::Overdrawn(Arc::clone(&self.overdrawn))
    }
}

impl Drop for Taken {
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
    use super::super::connection_state::{Draining, Limits, Verdict};
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn without_memory_requests_are_refused_and_then_their_connection_is_cut() {
        let streams = StreamMemory::new(MemoryBudget::new(16 * STREAM));
        let activity = ConnectionState::new();
        let verdict = || {
            let limits = Limits {
                header: Duration::from_secs(1),
                idle: Duration::from_secs(1),
                memory_is_wanted: false,
            };
            activity.verdict(limits, None, Draining::No)
        };
        let mut taken = Vec::new();
        let mut ask = || {
            let mut arrival = InboundRequest::new(Request::new(()), Peer::unix());
            streams.admit(&mut arrival, &activity);
            taken.push(streams.take());
            arrival.known().refused.is_some()
        };
        assert!((0..16).all(|_| !ask()));
        assert!((0..2).all(|_| ask()));
        assert_eq!(verdict(), Verdict::Wait(Instant::now() + Duration::from_secs(1)));
        assert!(ask());
        assert_eq!(verdict(), Verdict::Cut);
        drop(taken);
        assert_eq!(
            (streams.budget.left(), streams.overdrawn.load(Ordering::Relaxed)),
            (16 * STREAM, 0)
        );
    }
}
