//! The token source: keeps one token for all requests, and renews it before it is needed.

mod handle;
mod refresher;
mod schedule;
mod state;

pub use handle::TokenSource;
pub use state::RejectionOutcome;

#[cfg(test)]
mod tests;
