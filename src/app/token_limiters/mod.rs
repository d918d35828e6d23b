//! A queue and a quota for each token: the gateway's own, and those that callers brought along.
//!
//! The upstream counts by tenant and application. Whose a caller's token is cannot be known without
//! trusting it, so each has a limiter of its own, with the same limits; what it would share with
//! another token of the same application, the upstream's 429s teach.
//!
//! Invariants: there are never more than [`TokenLimiters::MAX`] limiters besides the gateway's own;
//! a limiter is forgotten only when nothing that it counted counts any more, so that forgetting
//! gives no call away.

mod table;

#[cfg(test)]
mod tests;

pub use table::TokenLimiters;
pub(super) use table::{Config, SharedMetrics};
