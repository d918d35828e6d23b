//! Counts and logs every request once, when it has ended: by outcome, by caller, and as recent
//! errors for the status page.
//!
//! Not here: what an outcome is (`response`), and calls to the upstream (`upstream`). Invariant:
//! memory is bounded, whatever names and paths callers send.

mod callers;
mod layer;
mod metrics;
mod open_request;
mod recent_errors;
mod subject;

pub use layer::{Config, Layer};
pub use metrics::Metrics;
pub(super) use open_request::unanswered;
pub use recent_errors::{ErrorRecord, RecentErrors};

/// The status that is counted when the caller went away before its response. It is never sent.
const CLIENT_CLOSED_REQUEST: u16 = 499;
