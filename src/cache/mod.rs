//! Answers kept in memory and served again while they are fresh, or stale where the configuration and the caller allow it.
//!
//! It never asks the upstream by itself: what it cannot answer goes to the service below. Memory is bounded by bytes (moka), freshness is
//! judged by tokio's clock on the entry, because moka's own clock ignores paused time.
//!
//! Answers to plain requests are kept by id as well; a request for other ids, of which some are there, is answered from what is there and
//! asks only for the rest.
//!
//! [`Cache`] holds the entries and is what the flights below give their answers to, through [`scan::Keep`](crate::scan::Keep);
//! [`Layer`] puts it in front of a service.

mod assembly;
mod by_id;
mod config;
mod entry;
mod error;
mod judge;
mod layer;
mod metrics;
mod parts;
mod piece;
mod popularity;
mod shelf;
#[cfg(test)]
mod tests;
mod wanted;
mod weight;

pub use config::{Config, Prefetch};
pub use error::NotCached;
pub use layer::{Front, Layer, Surplus};
pub use metrics::Metrics;
pub use shelf::{Cache, Snapshot};
