//! Whose turn it is: a bounded queue in front of the quota, fair, and honest about time.
//!
//! A waiting request holds a ticket, not a slot; a slot is bound to a ticket when it is there.
//! Three rules decide:
//!
//! 1. **Order** ([`FairScheduler`]): urgency classes with a share each, callers by weight inside a
//!    class, and a caller's own requests by deadline. Deadlines do not bend it: what a request may
//!    wait decides whether it is let in, not when it is served.
//! 2. **Admission**: a request is let in when its slot comes before its deadline, with that order
//!    played forward over those who wait now and those who are about to ask (`expectation`):
//!    callers that ask again whenever they are answered, and requests that were refused and told
//!    when to come back, each from the moment on at which it is due (`turn_forecast`). Otherwise it
//!    is refused at once, and told how long a wait would have been enough and when to come back;
//!    until then its place in the order is kept. A caller claims as many slots for those as its
//!    returns have earned, so one that does not come back costs others little.
//! 3. **Taking back**: a place on slots that somebody comes to claim with a better right was
//!    borrowed. The order is played forward again when somebody came who goes before others; whose
//!    turn then comes after the deadline is told at once. So nobody is served late, and within its
//!    own class and share nobody is taken back. This is load shedding by priority.
//!
//! Not here: when slots come; the queue asks its [`PermitSource`].

mod caller_limit;
mod config;
mod expectation;
mod fair_queue;
mod fair_scheduler;
mod layer;
mod metrics;
mod recent_callers;
mod refuse;
mod refused;
mod slot_forecast;
mod snapshot;
mod state;
mod take_back;
#[cfg(test)]
mod tests;
mod turn_forecast;
mod untold;

pub use caller_limit::{CallerLimit, CallerLimitLayer, CallerLimiter};
pub use config::{Config, Weights};
pub use fair_queue::{PermitSource, Queue};
pub use fair_scheduler::{FairScheduler, Ticket};
pub use metrics::Metrics;
pub use refused::{Reason, Refused, Wait};
