//! Outgoing connections: names, TCP, proxies, TLS, and the pooled client that upstream and sign-in
//! share.
//!
//! ```text
//! Client ─► pool ─► Connector: Resolver (last good answer kept) ─► dial (all addresses) ─► [CONNECT] ─► TLS
//! ```
//!
//! Nothing here makes a request twice, follows a redirect or knows a token. The one invariant: an
//! error is right about whether the host may have processed any of the request
//! ([`Error::is_unprocessed`]), because the quota is refunded for it. Only what provably was not
//! processed is sent again here.

mod client;
mod collect;
mod connection;
mod connector;
mod dial;
mod dns;
mod error;
mod network;
mod pool;
mod proxy;
pub mod retry_after;
mod tls;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use tower::util::BoxCloneSyncService;

use crate::BoxError;

pub use client::{Client, Limits};
pub use collect::MEMORY_WAIT;
pub use connector::Connector;
pub use dns::Resolver;
pub use error::{ConnectError, Error, Kind, SetupError, Step};
pub use network::Network;
pub use proxy::Proxy;

/// One HTTP exchange with complete, bounded bodies: what sign-in needs, and what its tests replace.
pub type Exchange = BoxCloneSyncService<http::Request<Bytes>, http::Response<Bytes>, BoxError>;

/// Settings of a [`Client`] and its connections.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// A PEM file with additional CA certificates, trusted besides the built-in Mozilla roots. It
    /// is read once.
    pub ca_file: Option<PathBuf>,
    /// The forward proxy for `https` addresses; plain `http` (loopback, IMDS) never goes through
    /// it.
    pub proxy: Option<Proxy>,
    /// The longest time to set up one connection: name lookup, TCP to any of its addresses, proxy
    /// and TLS together.
    ///
    /// 3 s leave room for one lost SYN (repeated after 1 s) and a distant host, and are short
    /// enough to try another region.
    pub connect_timeout: Duration,
    /// A connection older than this takes no new request, so that a change in DNS is followed even
    /// while the old address answers.
    pub max_age: Duration,
    /// The kernel's receive buffer of a connection in bytes, before the kernel doubles it for its
    /// own needs; `None` for the kernel's default of up to megabytes, which a distant host may
    /// need.
    pub receive_buffer: Option<u32>,
    /// HTTP/2 connections are pinged when nothing has arrived for this long, also while idle ...
    pub ping_every: Duration,
    /// ... and are given up when the reply takes longer than this.
    pub ping_answer: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ca_file: None,
            proxy: None,
            connect_timeout: Duration::from_secs(3),
            max_age: Duration::from_mins(10),
            receive_buffer: None,
            ping_every: Duration::from_secs(15),
            ping_answer: Duration::from_secs(10),
        }
    }
}
