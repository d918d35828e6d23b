//! Memory for the heads of one connection's requests, beyond what every connection has.
//!
//! HTTP/1.1 collects a head until it is complete, in a buffer that grows with it and stays as large as it has become. So what was taken
//! for it is kept for as long as the connection lives. With none left the connection is not read from: it waits until others, who do
//! nothing with theirs, have made way, or until its head's time is over.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::connection_limit::{Address, ConnectionLimiter};
use super::connection_state::ConnectionState;
use crate::memory::Reservation;

/// As large as a buffer may become before memory is taken for it: every connection has as much.
const FREE: usize = 16 * 1024;

/// So much is taken at a time, so that most heads take it once.
const STEP: usize = 16 * 1024;

/// See the module.
pub(super) struct HeadMemory {
    limiter: Arc<ConnectionLimiter>,
    address: Address,
    /// Bytes of the head that is being read.
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

    /// Ready when there is memory for a buffer that has `offered` bytes free behind what is read.
    pub(super) fn poll_room(
        &mut self,
        context: &mut Context<'_>,
        activity: &ConnectionState,
        offered: usize,
    ) -> Poll<()> {
        if activity.is_http2() {
            // It collects frames, which are short, and the heads in them are bounded by themselves.
            return Poll::Ready(());
        }
        if !activity.expects_head() {
            self.read = 0;
        }
        let bytes = self.read + offered;
        if bytes <= FREE {
            return Poll::Ready(());
        }
        self.poll_more(context, activity, bytes - FREE)
    }

    /// Bytes were read.
    pub(super) fn add(&mut self, bytes: usize) {
        self.read += bytes;
    }

    fn poll_more(&mut self, context: &mut Context<'_>, activity: &ConnectionState, bytes: usize) -> Poll<()> {
        let has = self.taken.as_ref().map_or(0, Reservation::bytes);
        if bytes <= has {
            return Poll::Ready(());
        }
        let waiting = self.waiting.get_or_insert_with(|| {
            let (limiter, address) = (Arc::clone(&self.limiter), self.address);
            // All of it anew: to wait for more while holding some could make two wait for each other.
            let bytes = bytes.next_multiple_of(STEP);
            Box::pin(async move { limiter.reserve_head(bytes, address).await })
        });
        let more = ready!(waiting.as_mut().poll(context));
        self.waiting = None;
        activity.set_head_memory(more.bytes());
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
