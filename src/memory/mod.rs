//! How much memory this process may use, and what for.
//!
//! One total, taken from the container's limit or from `server.memory`, is divided into [`Shares`]. What grows with what callers or the
//! upstream send takes a [`Reservation`] from the [`MemoryBudget`] of its share first, and gives it back when dropped. Not here: what
//! happens when a share is used up, which is each part's own business. Invariant: the shares never add up to more than the total.

mod budget;
mod shares;

pub use budget::{Exhausted, MemoryBudget, Reservation};
pub use shares::{
    ALLOCATED_PER_BYTE, AnswerMemory, BASE, CONNECTION, DEFAULT_TOTAL, LARGE_ANSWER, LEAST_TOTAL, REQUEST, STREAM,
    Shares,
};
