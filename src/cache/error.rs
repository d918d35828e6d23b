//! The cache's own error.

/// The caller wanted a stored answer or none (`only-if-cached`), and no stored answer may be
/// served. RFC 9111 §5.2.1.7 asks for status 504.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no stored answer may be served, and only a stored one was wanted")]
pub struct NotCached;
