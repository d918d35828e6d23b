//! Turns an HTTP request into a [`Call`](crate::scan::Call): reads the body within its limits and
//! the preferences in the header fields.
//!
//! Not here: what a valid body looks like (`scan`). Invariants: no body is read beyond its limit or
//! its deadline; incomplete bodies share one budget of memory; a field that cannot be parsed counts
//! as absent.

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
pub use layer::Layer;
