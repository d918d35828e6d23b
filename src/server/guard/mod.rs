//! Rejects misrouted requests, DNS rebinding and the browsers of other sites.
//!
//! Not here: authentication. Every program that reaches the listener may send requests; the guard
//! only makes sure that a web page does not reach it. Invariant: below it, every request names
//! exactly one host, and that host is this gateway.

mod host;
mod layer;
mod origin;

pub use host::{Host, Hosts};
pub use layer::Layer;

pub(crate) use origin::refuse_cross_site;
