//! The memory that this process may use, and for which purposes.
//!
//! One total, taken from the container's limit or from `server.memory`, is divided into [`Shares`].
//! A part whose memory grows with what callers or the upstream send first takes a [`Reservation`]
//! from the [`MemoryBudget`] of its share, and releases it on drop. Not here: what happens when a
//! share is used up, which each part decides. Invariant: the shares never add up to more than the
//! total.

mod shares;

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use shares::{
    ALLOCATED_PER_BYTE, AnswerMemory, BASE, CONNECTION, DEFAULT_TOTAL, LARGE_ANSWER, LEAST_TOTAL, REQUEST, STREAM,
    Shares,
};

/// A budget is used up. That passes when others release their memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the gateway has no memory left for {of}")]
pub struct Exhausted {
    /// The purpose of the budget.
    pub of: &'static str,
}

impl Exhausted {
    /// How long a caller should stay away: about as long as it takes others to finish.
    pub const RETRY_AFTER: Duration = Duration::from_secs(1);
}

/// A number of bytes shared by all users of memory for one purpose. Waiting users are served in the
/// order in which they came.
#[derive(Debug)]
pub struct MemoryBudget {
    left: Arc<Semaphore>,
    bytes: usize,
    waiting: AtomicUsize,
    /// The addresses of the large bodies that have a reservation.
    held: Mutex<HashSet<usize>>,
}

impl MemoryBudget {
    /// A budget of this many bytes, at most 4 GiB.
    pub fn new(bytes: usize) -> Arc<Self> {
        let bytes = bytes.min(u32::MAX as usize);
        Arc::new(Self {
            left: Arc::new(Semaphore::new(bytes)),
            bytes,
            waiting: AtomicUsize::new(0),
            held: Mutex::default(),
        })
    }

    /// The whole budget.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The bytes that are not reserved.
    pub fn left(&self) -> usize {
        self.left.available_permits()
    }

    /// Whether exactly these bytes, which are more than [`LARGE_ANSWER`], have a reservation here.
    pub fn holds(&self, bytes: &Bytes) -> bool {
        self.held().contains(&(bytes.as_ptr() as usize))
    }

    fn held(&self) -> MutexGuard<'_, HashSet<usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a user waits for memory that others hold.
    pub fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Reserves `bytes` if they are left.
    pub fn try_reserve(self: &Arc<Self>, bytes: usize) -> Option<Reservation> {
        let mut reservation = Reservation::none(Arc::clone(self));
        reservation.grow(bytes).then_some(reservation)
    }

    /// Waits for `bytes`, but never for more than the whole budget.
    ///
    /// # Cancel safety
    ///
    /// Safe; the place in the queue is lost.
    pub async fn reserve(self: &Arc<Self>, bytes: usize) -> Reservation {
        if let Some(reservation) = self.try_reserve(bytes) {
            return reservation;
        }
        let _wanted = Wanted::new(self);
        let permits = Arc::clone(&self.left).acquire_many_owned(permits(bytes)).await;
        Reservation {
            // The semaphore is never closed.
            permit: permits.ok(),
            budget: Arc::clone(self),
        }
    }
}

/// Counts as waiting until it is dropped.
struct Wanted<'a>(&'a AtomicUsize);

impl<'a> Wanted<'a> {
    fn new(budget: &'a MemoryBudget) -> Self {
        budget.waiting.fetch_add(1, Ordering::Relaxed);
        Self(&budget.waiting)
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn permits(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// A reserved part of a budget, which is released on drop.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<MemoryBudget>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Reservation {
    /// An empty reservation.
    pub fn none(budget: Arc<MemoryBudget>) -> Self {
        Self { budget, permit: None }
    }

    /// The reserved bytes.
    pub fn bytes(&self) -> usize {
        self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// Reserves `bytes` more; `false`, and nothing more reserved, when they are not left.
    pub fn grow(&mut self, bytes: usize) -> bool {
        if bytes > self.budget.bytes {
            return false;
        }
        let Ok(more) = Arc::clone(&self.budget.left).try_acquire_many_owned(permits(bytes)) else {
            return false;
        };
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            None => self.permit = Some(more),
        }
        true
    }

    /// Releases what is above `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let surplus = self.bytes().saturating_sub(bytes);
        drop(self.permit.as_mut().and_then(|permit| permit.split(surplus)));
    }

    /// Attaches the reservation to `bytes` until their last copy is dropped.
    pub fn hold(self, bytes: Bytes) -> Bytes {
        if bytes.len() > LARGE_ANSWER {
            self.budget.held().insert(bytes.as_ptr() as usize);
        }
        Bytes::from_owner(Held {
            bytes,
            reservation: self,
        })
    }
}

/// Bytes with their reservation.
struct Held {
    bytes: Bytes,
    reservation: Reservation,
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.bytes.len() > LARGE_ANSWER {
            self.reservation.budget.held().remove(&(self.bytes.as_ptr() as usize));
        }
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn reservations_are_released() {
        let budget = MemoryBudget::new(10);
        let mut one = budget.try_reserve(6).unwrap();
        assert!(!one.grow(5) && one.grow(4));
        assert!((one.bytes(), budget.left()) == (10, 0) && budget.try_reserve(1).is_none());
        one.shrink_to(3);
        assert_eq!((one.bytes(), budget.left()), (3, 7));
        drop(one);
        assert_eq!(budget.left(), 10);
        assert!(budget.try_reserve(11).is_none(), "more than there are");
    }

    #[tokio::test]
    async fn waiting_reservations_are_served_in_order() {
        let budget = MemoryBudget::new(10);
        let first = budget.reserve(8).await;
        let mut second = Box::pin(budget.reserve(9));
        assert!((&mut second).now_or_never().is_none() && budget.is_wanted());
        assert!(budget.try_reserve(3).is_none(), "what is left is kept for who waits");
        drop(first);
        assert_eq!(second.await.bytes(), 9);
        assert!(!budget.is_wanted());
    }

    #[test]
    fn bytes_keep_their_reservation_until_the_last_copy_is_gone() {
        let budget = MemoryBudget::new(10);
        let bytes = budget.try_reserve(4).unwrap().hold(Bytes::from_static(b"abcd"));
        let part = bytes.slice(3..);
        drop(bytes);
        assert_eq!((budget.left(), &part[..]), (6, &b"d"[..]));
        drop(part);
        assert_eq!(budget.left(), 10);
    }

    #[test]
    fn large_bytes_that_are_paid_for_are_known() {
        let budget = MemoryBudget::new(1 << 20);
        let bytes = Bytes::from(vec![7; LARGE_ANSWER + 1]);
        assert!(!budget.holds(&bytes));
        let held = budget.try_reserve(bytes.len()).unwrap().hold(bytes.clone());
        assert!(budget.holds(&held.clone()) && !budget.holds(&held.slice(1..)));
        drop(held);
        assert!(!budget.holds(&bytes));
    }
}
