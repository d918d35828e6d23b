//! The upstream's call limits: the ways in which it may count, and a verifier that does not know
//! which one it uses.
//!
//! Pure. Time comes in as a [`Duration`](std::time::Duration) since an epoch that the user picks
//! (the start of the simulator, the start of a test), so the same limiter works with real sockets
//! and with virtual time.
//!
//! The window shape of the real service is not documented; [`Shape`] has the four candidates. A
//! client that stays within `calls` arrivals in every window of `window`, at every alignment, is
//! never refused by any of them. [`QuotaVerifier`] checks exactly that.

mod allowance;
mod limiter;
mod quota_verifier;
#[cfg(test)]
mod tests;
mod window;

pub use allowance::{Limit, ParseLimitError};
pub use limiter::{Limiter, Rejected, Rejection, Scope};
pub use quota_verifier::QuotaVerifier;
pub use window::Shape;
