//! Where to listen, and how much to take from one peer.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::memory::MemoryBudget;

/// Where to listen.
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
    /// Where to listen; all share the limits below.
    pub listen: Vec<Address>,
    /// Most connections at a time, at least 1. When all are taken, one that does nothing makes way for the next; while none can, the next
    /// waits, and those after it in the kernel's own bounded list.
    pub max_connections: u32,
    /// How long a connection must have done nothing before it makes way.
    pub idle_min: Duration,
    /// Memory for heads of requests that are long, and for requests that share a connection, over all connections:
    /// half for each.
    pub head_bytes: usize,
    /// What the kernel may keep for each direction of a connection, in bytes, before it doubles that for its own needs. Left to itself it
    /// would let a caller that reads nothing grow to megabytes.
    pub socket_buffer: u32,
    /// The memory of large answers: while somebody waits for some, callers that do not take theirs are cut early.
    pub large_answers: Option<Arc<MemoryBudget>>,
    /// Most requests at a time on one HTTP/2 connection.
    pub max_streams: u32,
    /// Longest time from a request's first byte to its last header field, and from connecting to the first request.
    pub header_timeout: Duration,
    /// Longest time that a connection may do nothing: no request, and no byte of an answer taken.
    pub idle_timeout: Duration,
    /// How long to go on accepting after the stop, while every answer already asks its connection to close. For a service behind a
    /// load balancer that needs a moment to look elsewhere.
    pub linger: Duration,
    /// Longest wait for what is in flight after that; then it is cut off.
    pub drain: Duration,
}

impl Config {
    /// Largest request head, in bytes. Tokens and tracing fields of a service mesh fit many times over.
    pub const MAX_HEADER_BYTES: u32 = 64 * 1024;
    /// Most header fields of a request.
    pub const MAX_HEADERS: usize = 100;
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 8080)))],
            max_connections: 2048,
            // A second is enough for what is on its way.
            idle_min: Duration::from_secs(1),
            head_bytes: 64 << 20,
            socket_buffer: 64 << 10,
            large_answers: None,
            // What RFC 9113 §6.5.2 recommends at least.
            max_streams: 100,
            // Local callers need milliseconds; a slow one on a bad link, a few seconds.
            header_timeout: Duration::from_secs(10),
            // Longer than most clients keep connections in their pools, so that rather they close them than we.
            idle_timeout: Duration::from_mins(2),
            linger: Duration::ZERO,
            // Below the 30 s that Kubernetes grants by default.
            drain: Duration::from_secs(25),
        }
    }
}
