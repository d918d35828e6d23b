//! The call to Defender itself, and the decision to make it again.
//!
//! ```text
//! Retry ─ Try ─► (queue, quota, region, token) ─ Signed ─► Client ─► Defender
//! ```
//!
//! The path is fixed here and never taken from a caller: a sibling of the operation, `BatchDelete`, takes the same body.
//! A redirect is never followed, because it would take the token to another host.

mod call;
mod client;
mod error;
mod header;
mod host_calls;
mod metrics;
mod recent;
mod retry;

#[cfg(test)]
mod tests;

pub use client::{Client, Config, Secrets};
pub use error::{Error, Reason};
pub use metrics::{Metrics, Region};
pub use recent::{RecentCalls, RecentSnapshot};
pub use retry::{Retry, RetryLayer};
