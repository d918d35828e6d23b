//! The data listener's HTTP: connections, and the layers between a connection and the typed stack.
//!
//! ```text
//! Bound::serve ─► trace ─► access log ─► response ─► guard ─► route ─► read ─► (scan::Call)
//! ```
//!
//! [`Bound`] knows HTTP and nothing else; it serves the admin listener as well. Not here: what a
//! request means, and which status an error becomes. Invariants: connections, streams, bytes in
//! memory and every wait are bounded; requests in flight when the drain begins are finished, or cut
//! off at its limit; a malformed request never reaches a layer below [`read`].
//!
//! hyper answers by itself, with an empty body, what is not HTTP: 400 for a request line or field
//! that cannot be parsed, and 431 for heads that are too long, also when the target is too long
//! (hyper's own limit, with 414, is above that of the whole head). A request with both
//! `Content-Length` and `Transfer-Encoding` is read by the latter, and its connection is closed
//! after the response (RFC 9112 §6.1).

pub mod access_log;
pub mod guard;
pub mod read;
pub mod route;
pub mod trace;

mod accept;
mod bind;
mod config;
mod connection;
mod connection_limit;
mod connection_metrics;
mod connection_state;
mod half_close;
mod head_memory;
mod inbound_request;
mod peer;
mod pending_responses;
mod poll_when_woken;
mod serve;
mod socket;
mod stream_memory;

pub use access_log::ErrorRecord;
pub use bind::Bound;
pub use config::{Address, Config};
pub use connection_metrics::Connections;
pub use inbound_request::{InboundRequest, RequestMeta, is_usual};
pub use peer::Peer;

/// The `OpenAPI` 3.1 document of the data listener, as `defender-gateway openapi` prints it and the
/// admin listener serves it. It is the same for every configuration; a test makes it from the
/// paths, limits and error codes that the program uses, and compares.
pub const OPENAPI: &str = include_str!("openapi.json");

#[cfg(test)]
mod tests;
