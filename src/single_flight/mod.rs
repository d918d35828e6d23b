//! Single flight (request collapsing): one upstream call for all equal requests at the same time.
//!
//! The first request starts a flight; an equal request that comes before the flight ends joins it,
//! unless it is more urgent and the call still waits: then it starts a flight of its own, and the
//! first answer serves both.
//! The flight is a task of its own, so that the other waiters are not affected when the first caller
//! hangs up. Different requests that wait at the same time can be united into one
//! call, which is called batching (see `batcher.rs`). This module never answers from memory, which
//! is the task of the cache above it, and never decides when a call may leave, which is the task of
//! the queue below it.
//!
//! Invariant: a waiter with `no-cache` is answered by a call that left after the waiter asked, and
//! no waiter gets an error that concerns another waiter only, as long as it does not concern all of
//! them.

mod batch_role;
mod batch_size;
mod batch_split;
mod batcher;
mod comparison;
mod driver;
mod flight;
mod flight_table;
mod layer;
mod pending;
#[cfg(test)]
mod tests;
mod waiter;

pub use batcher::BatchConfig;
pub use layer::{Config, DeadlineExceeded, Metrics, PredictedWait, Shared, SingleFlight};
