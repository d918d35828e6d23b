//! The call to Defender itself, and the decision to repeat it.
//!
//! ```text
//! Retry ─ Attempt ─► (queue, quota, region, token) ─ Authorized ─► Client ─► Defender
//! ```
//!
//! The path is fixed here and never taken from a caller, because `BatchDelete` beside the operation
//! takes the same body. A redirect is never followed, because it would send the token to another
//! host.

mod client;
mod error;
mod metrics;
mod recent;
mod response_headers;
mod retry;

#[cfg(test)]
mod tests;

pub use client::{Client, Config, Secrets};
pub use error::{Error, Reason};
pub use metrics::Metrics;
pub use recent::{RecentCalls, RecentSnapshot};
pub use retry::Retry;
