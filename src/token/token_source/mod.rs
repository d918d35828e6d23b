//! Keeps one token for everybody, and renews it before anybody misses it.

mod handle;
mod schedule;
mod state;
mod upkeep;

pub use handle::TokenSource;
pub use state::Verdict;

#[cfg(test)]
mod tests;
