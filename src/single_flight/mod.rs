//! One call for everybody who asks the same question at the same time.
//!
//! The first to ask starts a flight; whoever asks the same before it lands joins it. When the first hangs up, the flight goes on as a
//! task of its own, so that a caller who hangs up harms nobody else. It never answers from memory (that is the cache above) and never decides
//! when a call may leave (that is the queue below).
//!
//! Invariant: a waiter is answered by a call that left after the waiter asked, if it insists (`no-cache`); and no waiter is refused for a
//! reason that was another's, as long as there is somebody among the waiters to whom the reason does not apply.

mod batch_role;
mod batch_size;
mod batcher;
mod driver;
mod error;
mod flight;
mod flight_result;
mod flight_table;
mod layer;
mod lead;
mod lift;
mod metrics;
mod pending;
mod rejected_ids;
mod single_request;
#[cfg(test)]
mod tests;
mod waiter;

pub use batcher::BatchConfig;
pub use error::{DeadlineExceeded, FlightDropped, Shared};
pub use layer::{Config, Layer, PredictedWait, SingleFlight};
pub use metrics::Metrics;
pub use single_request::SingleRequest;
