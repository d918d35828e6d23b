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
mod entry_size;
mod error;
mod fragment;
mod freshness;
mod layer;
mod memory_store;
mod metrics;
mod partial_hit;
mod popularity;
mod refresh_queue;
#[cfg(test)]
mod tests;

pub use config::{Config, Prefetch};
pub use error::NotCached;
pub use layer::{Front, HasSpareQuota, Layer};
pub use memory_store::{Cache, Snapshot};
pub use metrics::Metrics;
