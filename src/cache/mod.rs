//! The first-level cache: answers in memory, served while they are fresh, or stale where the
//! configuration and the caller allow it.
//!
//! It never calls the upstream by itself: what it cannot answer goes to the service below. Memory
//! is bounded in bytes by moka. Freshness is computed from the entry with tokio's clock, because
//! moka's own clock ignores paused time.
//!
//! Answers to whole requests ([`Request::is_whole`](crate::scan::Request::is_whole)) are also
//! stored by id, as *fragments*. A request for other ids, some of which are stored, is answered
//! from the fragments, and only the missing ids are fetched.
//!
//! [`Cache`] holds the entries and receives the answers of the flights below, through
//! [`scan::CacheSink`](crate::scan::CacheSink); [`Layer`] puts it in front of a service.

mod entity;
mod entry;
mod fragment;
mod freshness;
mod layer;
mod lifetime;
mod memory_store;
mod metrics;
mod partial_hit;
mod popularity;
mod refresh;
mod refresh_queue;
mod suspends;
#[cfg(test)]
mod tests;

pub use freshness::Config;
pub use layer::{Layer, NotCached};
pub use memory_store::Cache;
pub use metrics::Metrics;
