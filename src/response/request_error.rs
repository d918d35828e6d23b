//! The errors of the HTTP layer itself, found before any other part has seen the request.
//!
//! They are defined here and not in `server`, which is a floor above, because the table must be
//! able to name them.

use std::time::Duration;

use crate::scan::Operation;

/// The request cannot be accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// RFC 9112 §3.2: exactly one valid `Host`.
    #[error("the request needs exactly one valid Host")]
    Host,
    /// The name is valid but not one of this gateway's: a misrouted request, or DNS rebinding.
    #[error(
        "this gateway is not reachable under the name {host:?}: use the address that you connect to, or have the name added to \
         server.hosts"
    )]
    ForeignHost {
        /// The name in the request.
        host: String,
    },
    /// A browser sent it on behalf of another site.
    #[error("requests from other sites are not accepted")]
    CrossSite,
    /// No such path.
    #[error(
        "there is nothing at this path: the operations are listed in deploy/api.md, all of them under /api/, and /livez, /readyz, /metrics and /status are at the admin address"
    )]
    Path,
    /// The path exists, the method does not.
    #[error("the method is not allowed here")]
    Method(Operation),
    /// The content type is not `application/json`. A browser could send other types across sites
    /// without a preflight request.
    #[error("the content type must be application/json")]
    ContentType,
    /// A compressed body.
    #[error("the body must not have a content encoding")]
    ContentEncoding,
    /// The field is not one bearer token that could be sent upstream (RFC 6750 §2.1). The gateway's
    /// own token is never used instead.
    #[error("Authorization must be one bearer token of at most {max} bytes", max = crate::scan::CallerToken::MAX_BYTES)]
    Authorization,
    /// The body is larger than allowed.
    #[error("the body is larger than {limit} bytes")]
    BodySize {
        /// The largest accepted size in bytes.
        limit: usize,
    },
    /// The body did not arrive in time.
    #[error("the body did not arrive within {limit:?}")]
    BodyTimeout {
        /// How long the gateway waited.
        limit: Duration,
    },
    /// The body ended early or broke the protocol.
    #[error("the body could not be read")]
    BodyBroken,
    /// A transfer coding other than `chunked`.
    #[error("the only transfer coding that is understood is chunked")]
    TransferEncoding,
    /// There is no memory left for the request, because other requests use it.
    #[error("more is being received at once than there is memory for")]
    Busy,
    /// Too many or too large header fields.
    #[error("the header fields are too many or too large")]
    Fields,
}

/// The handling of one request panicked. Only this request is lost.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the handling of the request panicked")]
pub struct Panicked;
