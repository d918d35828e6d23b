//! The call to Defender itself, and the decision to repeat it.
//!
//! ```text
//! Retry ─ Attempt ─► (queue, quota, region, token) ─ Authorized ─► Client ─► Defender
//! ```
//!
//! The path is fixed here and never taken from a caller, because `BatchDelete` beside the operation
//! takes the same body. A redirect is never followed, because it would send the token to another
//! host.

mod answer;
mod client;
mod metrics;
mod retry;

#[cfg(test)]
mod tests;

pub use answer::{Error, Reason};
pub use client::{Client, Config, Secrets};
pub use metrics::{Metrics, RecentSnapshot};
pub use retry::Retry;
