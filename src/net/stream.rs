//! A connection of any kind.

use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// Bytes in both directions: TCP, TLS over TCP, or TLS over a tunnel.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// The protocol to be spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// A connection that is ready for HTTP.
pub(super) struct Stream {
    pub(super) io: TokioIo<Box<dyn Duplex>>,
    pub(super) protocol: Protocol,
    /// How long it took from the known address to here.
    pub(super) setup: Duration,
}
