//! The memory of what connections hold before a request is served: the head of an HTTP/1.1 request
//! beyond what every connection has, and the streams of all HTTP/2 connections.
//!
//! HTTP/1.1 collects a head until it is complete, in a buffer that grows with it and does not
//! shrink. So a reservation lasts as long as its connection. Without memory the connection is not
//! read from: it waits until idle connections that hold some have been evicted, or until the header
//! timeout.
//!
//! A stream reserves memory when its task starts and releases it when its response was read.
//! Without memory a request is refused. The refusal takes a stream as well until its caller has
//! read it, so there is a limit for those too, beyond which the connection is cut off.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use super::InboundRequest;
use super::connection_limit::{Address, ConnectionLimiter};
use super::connection_state::ConnectionState;
use crate::memory::{MemoryBudget, Reservation, STREAM};
use crate::response::RequestError;

/// The size up to which a buffer needs no reservation: every connection has as much.
const FREE: usize = 16 * 1024;

/// The size of a reservation, so that most heads need only one.
const STEP: usize = 16 * 1024;

/// The reservation of one connection.
pub(super) struct HeadMemory {
    limiter: Arc<ConnectionLimiter>,
    address: Address,
    /// The bytes of the head that is being read, at most.
    read: usize,
    /// How many of them came last.
    latest: usize,
    /// How many requests there were by then.
    requests: u64,
    taken: Option<Reservation>,
    waiting: Option<Pin<Box<dyn Future<Output = Reservation> + Send>>>,
}

impl HeadMemory {
    pub(super) fn new(limiter: Arc<ConnectionLimiter>, address: Address) -> Self {
        Self {
            limiter,
            address,
            read: 0,
            latest: 0,
            requests: 0,
            taken: None,
            waiting: None,
        }
    }

    /// Ready when there is memory for a buffer with `offered` free bytes after those already read.
    pub(super) fn poll_room(&mut self, context: &mut Context<'_>, state: &ConnectionState, offered: usize) -> Poll<()> {
        if state.is_http2() {
            // HTTP/2 collects frames, which are short, and the heads in them are bounded
            // separately.
            return Poll::Ready(());
        }
        let requests = state.requests();
        if !state.expects_head() {
            self.read = 0;
        } else if requests != self.requests {
            // A request that is answered at once is never seen in flight here. Of its head nothing
            // is left in the buffer; of the next one, at most what came with its end.
            self.read = self.latest;
        }
        self.requests = requests;
        let bytes = self.read + offered;
        if bytes <= FREE {
            return Poll::Ready(());
        }
        self.poll_more(context, state, bytes - FREE)
    }

    /// Records that bytes were read.
    pub(super) fn add(&mut self, bytes: usize) {
        self.read += bytes;
        self.latest = bytes;
    }

    fn poll_more(&mut self, context: &mut Context<'_>, state: &ConnectionState, bytes: usize) -> Poll<()> {
        let has = self.taken.as_ref().map_or(0, Reservation::bytes);
        if bytes <= has {
            return Poll::Ready(());
        }
        let waiting = self.waiting.get_or_insert_with(|| {
            let (limiter, address) = (Arc::clone(&self.limiter), self.address);
            // Reserved anew as a whole: waiting for more while holding some could make two
            // connections wait for each other.
            let bytes = bytes.next_multiple_of(STEP);
            Box::pin(async move { limiter.reserve_head(bytes, address).await })
        });
        let more = ready!(waiting.as_mut().poll(context));
        self.waiting = None;
        state.set_head_memory(more.bytes());
        self.taken = Some(more);
        Poll::Ready(())
    }
}

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
        request.meta_mut().refused = Some(RequestError::Busy);
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
    use std::task::Waker;
    use std::time::Duration;

    use http::{Request, Version};
    use tokio::time::Instant;

    use super::*;
    use crate::server::connection_state::{Action, Draining, Limits};
    use crate::server::{Config, Peer};

    /// The size of a buffer at first.
    const OFFERED: usize = 8 * 1024;

    fn head() -> (HeadMemory, Arc<ConnectionState>) {
        let limiter = ConnectionLimiter::new(&Config {
            head_bytes: 8 * STEP,
            ..Config::default()
        });
        let peer = Peer::tcp(([10, 0, 0, 2], 9).into(), ([10, 0, 0, 1], 80).into());
        (HeadMemory::new(limiter, peer.address()), ConnectionState::new())
    }

    fn has_room(head: &mut HeadMemory, state: &ConnectionState) -> bool {
        head.poll_room(&mut Context::from_waker(Waker::noop()), state, OFFERED)
            .is_ready()
    }

    #[tokio::test]
    async fn any_number_of_requests_that_are_answered_at_once_takes_no_memory() {
        let (mut head, state) = head();
        for _ in 0..10_000 {
            assert!(has_room(&mut head, &state));
            head.add(400);
            drop(state.request(Version::HTTP_11));
        }
        assert!(head.taken.is_none());
    }

    #[tokio::test]
    async fn a_head_that_goes_on_takes_memory_whatever_came_with_its_beginning() {
        let (mut head, state) = head();
        assert!(has_room(&mut head, &state));
        // The end of one head, and the beginning of the next.
        head.add(OFFERED);
        drop(state.request(Version::HTTP_11));
        let mut read = 0;
        while has_room(&mut head, &state) {
            head.add(1000);
            read += 1000;
            let taken = head.taken.as_ref().map_or(0, Reservation::bytes);
            assert!(OFFERED + read <= FREE + taken, "{read} bytes with {taken} reserved");
            assert!(read <= FREE + 8 * STEP, "there is no more memory");
        }
        assert!(read > 2 * STEP, "{read}");
    }

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
