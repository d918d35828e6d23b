//! Collects a body within the available memory.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::timeout;

use crate::memory::{ALLOCATED_PER_BYTE, Exhausted, LARGE_ANSWER, MemoryBudget, Reservation};
use crate::net::Kind;

/// How long a large body waits for memory. Callers that do not read their responses have lost them
/// by then.
pub const MEMORY_WAIT: Duration = Duration::from_secs(15);

/// The most memory that is allocated because a head announces a long body.
const MOST_AHEAD: usize = 4 * 1024 * 1024;

/// The part of a body that has arrived. One that arrives in one piece, as short ones do, is not
/// copied.
#[derive(Debug)]
pub(super) struct Collector {
    limit_bytes: usize,
    large: Option<Arc<MemoryBudget>>,
    reservation: Option<Reservation>,
    first: Bytes,
    all: BytesMut,
}

impl Collector {
    /// An empty collector for up to `limit_bytes`. What is above [`LARGE_ANSWER`] is reserved from
    /// `large`, if that is given.
    pub(super) fn new(limit_bytes: usize, large: Option<Arc<MemoryBudget>>) -> Self {
        Self {
            limit_bytes,
            large,
            reservation: None,
            first: Bytes::new(),
            all: BytesMut::new(),
        }
    }

    /// Adds a piece, which is followed by at least `expected` bytes, and by no others if
    /// `is_exact`. Returns whether it reserved memory first, for which it may have waited.
    ///
    /// # Errors
    ///
    /// The body is too large, or there is no memory for it.
    pub(super) async fn add(&mut self, piece: Bytes, (expected, is_exact): (u64, bool)) -> Result<bool, Kind> {
        let limit_bytes = self.limit_bytes;
        let expected = usize::try_from(expected).unwrap_or(usize::MAX);
        let known = self.first.len().max(self.all.len()) + piece.len();
        if known.saturating_add(expected) > limit_bytes {
            return Err(Kind::BodyTooLarge { limit_bytes });
        }
        let takes_memory = known + expected > LARGE_ANSWER && self.reservation.is_none();
        if takes_memory {
            self.reserve(if is_exact { known + expected } else { limit_bytes })
                .await?;
        }
        if self.first.is_empty() && self.all.is_empty() {
            self.first = piece;
            return Ok(takes_memory);
        }
        if self.all.is_empty() {
            self.all.reserve(known + expected.min(MOST_AHEAD));
            self.all.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.all.extend_from_slice(&piece);
        Ok(takes_memory)
    }

    /// Reserved all at once: with a part of it, two bodies could wait for each other.
    async fn reserve(&mut self, bytes: usize) -> Result<(), Kind> {
        let Some(large) = &self.large else { return Ok(()) };
        let reserved = timeout(MEMORY_WAIT, large.reserve(bytes * ALLOCATED_PER_BYTE)).await;
        self.reservation = Some(reserved.map_err(|_| Kind::NoMemory(Exhausted { of: "large answers" }))?);
        Ok(())
    }

    /// The whole body. Its reservation is released with its last copy.
    pub(super) fn finish(self) -> Bytes {
        let body = if self.all.is_empty() {
            self.first
        } else {
            self.all.freeze()
        };
        let Some(mut reservation) = self.reservation else {
            return body;
        };
        // The buffer that it grew in is released.
        reservation.shrink_to(body.len());
        reservation.hold(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    const UNKNOWN: (u64, bool) = (0, false);

    fn piece(bytes: usize) -> Bytes {
        vec![7; bytes].into()
    }

    #[tokio::test]
    async fn large_bodies_take_their_memory_and_keep_it_until_the_last_copy_is_gone() {
        let memory = MemoryBudget::new(2 << 20);
        let mut body = Collector::new(1 << 20, Some(Arc::clone(&memory)));
        body.add(piece(LARGE_ANSWER), UNKNOWN).await.unwrap();
        assert_eq!(memory.left(), 2 << 20, "not yet a large one");
        body.add(piece(10), UNKNOWN).await.unwrap();
        assert_eq!(memory.left(), 0, "as long as the longest may be");
        let body = body.finish();
        assert_eq!(
            (body.len(), memory.left()),
            (LARGE_ANSWER + 10, (2 << 20) - (LARGE_ANSWER + 10))
        );
        drop(body);
        assert_eq!(memory.left(), 2 << 20);
    }

    #[tokio::test]
    async fn an_announced_length_is_all_that_is_taken() {
        let memory = MemoryBudget::new(2 << 20);
        let mut body = Collector::new(1 << 20, Some(Arc::clone(&memory)));
        body.add(piece(10), (100_000, true)).await.unwrap();
        assert_eq!(memory.left(), (2 << 20) - 2 * 100_010);
        let error = Collector::new(1000, None)
            .add(piece(1), (1000, true))
            .await
            .unwrap_err();
        assert!(matches!(error, Kind::BodyTooLarge { limit_bytes: 1000 }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_without_memory_waits_for_a_bounded_time() {
        let memory = MemoryBudget::new(2 << 20);
        let held = memory.try_reserve(1).unwrap();
        let mut body = Collector::new(1 << 20, Some(Arc::clone(&memory)));
        let mut waiting = Box::pin(body.add(piece(LARGE_ANSWER + 1), UNKNOWN));
        assert!((&mut waiting).now_or_never().is_none());
        drop(held);
        waiting.await.unwrap();
        let mut other = Collector::new(1 << 20, Some(Arc::clone(&memory)));
        let error = other.add(piece(LARGE_ANSWER + 1), UNKNOWN).await.unwrap_err();
        assert!(matches!(error, Kind::NoMemory(_)), "{error}");
    }
}
