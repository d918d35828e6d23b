//! An answer of the upstream.

use bytes::Bytes;
use http::StatusCode;

use crate::scan::Fields;

/// An answer of the upstream, read whole. Cloning shares all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The upstream's status.
    pub status: StatusCode,
    /// `Content-Type` and the few other fields that callers may see; nothing hop-by-hop.
    pub headers: Fields,
    /// The body, byte for byte.
    pub body: Bytes,
}
