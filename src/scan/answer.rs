//! An answer of the upstream.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

/// An answer of the upstream, read whole. Cloning shares the body.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The upstream's status.
    pub status: StatusCode,
    /// `Content-Type` and the few other fields that callers may see; nothing hop-by-hop.
    pub headers: HeaderMap,
    /// The body, byte for byte.
    pub body: Bytes,
}
