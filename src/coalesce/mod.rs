//! One call for everybody who asks the same question at the same time.
//!
//! The first to ask starts a flight; whoever asks the same before it lands joins it. When the first hangs up, the flight goes on as a
//! task of its own, so that a caller who hangs up harms nobody else. It never answers from memory (that is the cache above) and never decides
//! when a call may leave (that is the queue below).
//!
//! Invariant: a waiter is answered by a call that left after the waiter asked, if it insists (`no-cache`); and no waiter is refused for a
//! reason that was another's, as long as there is somebody among the waiters to whom the reason does not apply.

mod board;
mod company;
mod error;
mod flight;
mod growth;
mod journey;
mod layer;
mod lead;
mod lift;
mod load;
mod merge;
mod metrics;
mod news;
mod room;
mod suspect;
#[cfg(test)]
mod tests;
mod waiter;

pub use error::{Lost, Overdue, Shared};
pub use layer::{Config, Flights, Layer, Outlook};
pub use load::Alone;
pub use merge::Merge;
pub use metrics::Metrics;
