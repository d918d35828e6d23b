//! The memory that this process may use, and for which purposes.
//!
//! One total, taken from the container's limit or from `server.memory`, is divided into [`Shares`].
//! A part whose memory grows with what callers or the upstream send first takes a [`Reservation`]
//! from the [`MemoryBudget`] of its share, and releases it on drop. Not here: what happens when a
//! share is used up, which each part decides. Invariant: the shares never add up to more than the
//! total.

mod budget;
mod shares;

pub use budget::{Exhausted, MemoryBudget, Reservation};
pub use shares::{
    ALLOCATED_PER_BYTE, AnswerMemory, BASE, CONNECTION, DEFAULT_TOTAL, LARGE_ANSWER, LEAST_TOTAL, REQUEST, STREAM,
    Shares,
};
