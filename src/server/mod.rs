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

mod bind;
mod connection;
mod connection_limit;
mod connection_memory;
mod connection_state;
mod inbound_request;
mod pending_responses;
mod serve;
mod socket;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::memory::MemoryBudget;

pub use access_log::ErrorRecord;
pub use bind::{Bound, Connections};
pub use inbound_request::{InboundRequest, Peer, RequestMeta, is_usual};

/// The `OpenAPI` 3.1 document of the data listener, as `defender-gateway openapi` prints it and the
/// admin listener serves it. It is the same for every configuration; a test makes it from the
/// paths, limits and error codes that the program uses, and compares.
pub const OPENAPI: &str = include_str!("openapi.json");

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An IP address and a port; port 0 takes any free one.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "http://{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The limits of a listener's connections.
#[derive(Clone, Debug)]
pub struct Config {
    /// The addresses to listen on; all of them share the limits below.
    pub listen: Vec<Address>,
    /// The most connections at a time, at least 1. When all slots are taken, an idle connection is
    /// evicted for the next one. If none is idle, the next connection waits, and those after it
    /// wait in the kernel's own bounded queue.
    pub max_connections: u32,
    /// How long a connection must have been idle before it may be evicted.
    pub idle_min: Duration,
    /// The memory for long request heads, and for requests that share a connection, over all
    /// connections: half for each.
    pub head_bytes: usize,
    /// The kernel's buffer for each direction of a connection, in bytes, before the kernel doubles
    /// it for its own needs. By default it would let a caller that reads nothing grow to megabytes.
    pub socket_buffer: u32,
    /// The memory budget of large responses. While a request waits for it, callers that do not read
    /// their responses are cut off early.
    pub large_answers: Option<Arc<MemoryBudget>>,
    /// The most requests at a time on one HTTP/2 connection.
    pub max_streams: u32,
    /// The longest time from a request's first byte to its last header field, and from connecting
    /// to the first request.
    pub header_timeout: Duration,
    /// The longest time that a connection may be idle: no request, and no byte of a response read.
    pub idle_timeout: Duration,
    /// How long to go on accepting after the stop, while every response already asks for its
    /// connection to be closed. It is meant for services behind a load balancer that needs a moment
    /// to stop sending requests.
    pub linger: Duration,
    /// The longest wait for requests in flight after that; then they are cut off.
    pub drain: Duration,
}

impl Config {
    /// The largest request head in bytes. Tokens and tracing fields of a service mesh fit many
    /// times over.
    pub const MAX_HEADER_BYTES: u32 = 64 * 1024;
    /// The most header fields of a request.
    pub const MAX_HEADERS: usize = 100;
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 8080)))],
            max_connections: 2048,
            // A second is enough for bytes that are on their way.
            idle_min: Duration::from_secs(1),
            head_bytes: 64 << 20,
            socket_buffer: 64 << 10,
            large_answers: None,
            // The least that RFC 9113 §6.5.2 recommends.
            max_streams: 100,
            // Local callers need milliseconds; a slow one on a bad link needs a few seconds.
            header_timeout: Duration::from_secs(10),
            // Longer than most clients keep connections in their pools, so that the clients close
            // them first.
            idle_timeout: Duration::from_mins(2),
            linger: Duration::ZERO,
            // Below the 30 s that Kubernetes grants by default.
            drain: Duration::from_secs(25),
        }
    }
}

#[cfg(test)]
mod tests;
