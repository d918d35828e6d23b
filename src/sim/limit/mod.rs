//! The upstream's call limits: how it may count, and a judge who counts without knowing how.
//!
//! Pure. Time comes in as a [`Duration`](std::time::Duration) since an epoch that the user picks (the start of the simulator, the
//! start of a test), so the same limiter serves real sockets and virtual time.
//!
//! The window shape of the real service is not documented; [`Shape`] holds the four candidates. A client that stays within `calls`
//! arrivals in every window of `window`, at every alignment, is never refused by any of them. [`QuotaVerifier`] checks exactly that.

mod allowance;
mod judge;
mod limiter;
#[cfg(test)]
mod tests;
mod window;

pub use allowance::{Limit, ParseLimitError};
pub use judge::{Finding, QuotaVerifier};
pub use limiter::{Limiter, Rejected, Rejection, Scope};
pub use window::Shape;
