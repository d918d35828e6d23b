//! From an HTTP request to a [`Call`](crate::scan::Call): the body, within its limits, and what the fields ask for.
//!
//! Not here: what a question looks like (`scan`). Invariants: no body is read beyond its limit or its deadline; bodies whose
//! rest has yet to come share one budget of memory; a field that cannot be understood is as good as absent.

mod authorization;
mod body;
mod cache_control;
mod config;
mod connection_context;
mod last_request;
mod layer;
mod prefer;
mod priority;

pub use authorization::Authorization;
pub use config::Config;
pub use layer::{Layer, Read};
