//! The memory for the request heads of one connection, beyond what every connection has.
//!
//! HTTP/1.1 collects a head until it is complete, in a buffer that grows with it and does not
//! shrink. So a reservation lasts as long as its connection. Without memory the connection is not
//! read from: it waits until idle connections that hold some have been evicted, or until the header
//! timeout.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::connection_limit::{Address, ConnectionLimiter};
use super::connection_state::ConnectionState;
use crate::memory::Reservation;

/// The size up to which a buffer needs no reservation: every connection has as much.
const FREE: usize = 16 * 1024;

/// The size of a reservation, so that most heads need only one.
const STEP: usize = 16 * 1024;

/// The reservation of one connection.
pub(super) struct HeadMemory {
    limiter: Arc<ConnectionLimiter>,
    address: Address,
    /// The bytes of the head that is being read.
    read: usize,
    taken: Option<Reservation>,
    waiting: Option<Pin<Box<dyn Future<Output = Reservation> + Send>>>,
}

impl HeadMemory {
    pub(super) fn new(limiter: Arc<ConnectionLimiter>, address: Address) -> Self {
        Self {
            limiter,
            address,
            read: 0,
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
        if !state.expects_head() {
            self.read = 0;
        }
        let bytes = self.read + offered;
        if bytes <= FREE {
            return Poll::Ready(());
        }
        self.poll_more(context, state, bytes - FREE)
    }

    /// Records that bytes were read.
    pub(super) fn add(&mut self, bytes: usize) {
        self.read += bytes;
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

impl fmt::Debug for HeadMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeadMemory")
            .field("taken", &self.taken)
            .finish_non_exhaustive()
    }
}
