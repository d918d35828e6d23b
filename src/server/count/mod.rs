//! Counts and logs every question, once, when it has ended: by outcome, by caller, and for people who look.
//!
//! Not here: what an outcome is (`response`), and what calls to the upstream are (`upstream`). Invariant: what is kept is bounded, whatever
//! names and paths callers make up.

mod callers;
mod layer;
mod metrics;
mod recent_errors;
mod subject;

pub use callers::Callers;
pub use layer::{AccessLog, Config, Count, Layer};
pub use metrics::Metrics;
pub use recent_errors::{ErrorRecord, RecentErrors};

/// The status that is counted when the caller went away before its answer. It is never sent.
pub const CLIENT_CLOSED_REQUEST: u16 = 499;
