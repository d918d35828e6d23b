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
mod config;
mod connection;
mod connector;
mod dial;
mod dns;
mod error;
mod network;
mod pool;
mod proxy;
mod tls;
mod tunnel;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use tower::util::BoxCloneSyncService;

pub use client::{Client, Limits};
pub use collect::MEMORY_WAIT;
pub use config::Config;
pub use connector::Connector;
pub use dns::Resolver;
pub use error::{ConnectError, Error, Kind, SetupError, Step};
pub use network::Network;
pub use proxy::Proxy;

use crate::BoxError;

/// One HTTP exchange with complete, bounded bodies: what sign-in needs, and what its tests replace.
pub type Exchange = BoxCloneSyncService<http::Request<Bytes>, http::Response<Bytes>, BoxError>;
