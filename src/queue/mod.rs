//! Whose turn it is: a bounded queue in front of the quota, fair, and honest about time.
//!
//! A waiting request holds a ticket, not a slot; a slot is bound to a ticket when it is there. Three rules decide:
//!
//! 1. **Order** ([`Order`]): urgency classes with a guaranteed share each, callers taking turns inside a class, and within one
//!    caller the earliest deadline first.
//! 2. **Promise** ([`Promises`]): a ticket is taken only if its slot comes in time in that order, and if everybody already waiting is still
//!    served in time. Otherwise the caller is refused at once and told when to come back. Where the fair order would break a
//!    promise, the earliest deadline goes first.
//! 3. **Room for others**: a caller who already waits must leave a slot free for each other caller seen lately (at least one, at most half of
//!    the slots before its deadline). So a greedy caller cannot fill the queue against modest ones, and nobody is refused who would have been
//!    served if the deadline had been so many slots later: that is the bound on wrong refusals.
//!
//! Not here: when slots come; the queue asks its [`Slots`].

mod config;
mod fair_use;
mod layer;
mod line;
mod metrics;
mod order;
mod promise;
mod refused;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;
mod visitor;

pub use config::{Config, Weights};
pub use fair_use::{FairUse, Layer as FairUseLayer, Service as FairUseService};
pub use layer::{Layer, Service};
pub use line::{Queue, Slots, Waiting};
pub use metrics::Metrics;
pub use order::{Order, Ticket};
pub use promise::Promises;
pub use refused::{Reason, Refused};
pub use snapshot::{CallerShare, Outlook, Snapshot};
