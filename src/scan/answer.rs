//! An answer of the upstream.

use std::sync::LazyLock;

use bytes::Bytes;
use http::StatusCode;
use memchr::memmem::Finder;

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

static NEXT_LINK: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("@odata.nextLink\""));

/// Where in `body` the name of a link to a further page ends, its quote included. The value is another matter.
pub fn next_links(body: &[u8]) -> impl Iterator<Item = usize> {
    let finder = &*NEXT_LINK;
    finder.find_iter(body).map(|at| at + finder.needle().len())
}
