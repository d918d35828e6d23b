//! The table from errors to responses, and the errors of the HTTP layer itself, found before any
//! other part has seen the request.
//!
//! Those are defined here and not in `server`, which is a floor above, because the table must be
//! able to name them.

use std::error::Error;
use std::time::Duration;

use super::{ErrorCode, Problem};
use crate::memory::Exhausted;
use crate::operation::Input;
use crate::scan::{Operation, ParseError};
use crate::telemetry::log;
use crate::{BoxError, cache, queue, quota, region, token, upstream};

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
    #[error("the content type must be application/json, in UTF-8")]
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
    #[error("the header fields are too many or too large, or the query is longer than 8 KiB")]
    Fields,
}

/// The handling of one request panicked. Only this request is lost.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the handling of the request panicked")]
pub struct Panicked;

/// The response to `error`: the first cause in its chain that the table knows decides. An unknown
/// error is a failure of the gateway.
pub fn problem(error: &BoxError) -> Problem {
    log::causes(error.as_ref()).find_map(known).unwrap_or_else(panicked)
}

/// One cause. Each part has its own table below; a new part adds a line here.
fn known(cause: &(dyn Error + 'static)) -> Option<Problem> {
    None.or_else(|| cause.downcast_ref().map(refusal))
        .or_else(|| cause.downcast_ref::<Panicked>().map(|_| panicked()))
        .or_else(|| cause.downcast_ref().map(invalid))
        .or_else(|| cause.downcast_ref().map(queue))
        .or_else(|| cause.downcast_ref().copied().map(not_cached))
        .or_else(|| cause.downcast_ref().map(token))
        .or_else(|| cause.downcast_ref().map(upstream))
        .or_else(|| cause.downcast_ref().map(no_answer))
        .or_else(|| {
            cause
                .downcast_ref::<Exhausted>()
                .map(|error| exhausted(error.to_string()))
        })
        .or_else(|| cause.downcast_ref().map(slot_ended))
}

fn queue(refused: &queue::Refused) -> Problem {
    // In whole seconds, so that the sentence and the header field agree.
    let wait_s = refused.retry_after_s();
    let wait = Duration::from_secs(wait_s);
    let advice = refused.wait.map_or_else(String::new, |wait| {
        let (needed_s, allowed_s) = (wait.needed_s(), wait.allowed_s());
        let allows = if needed_s > allowed_s {
            format!(", this request allows {allowed_s} s")
        } else {
            // It has waited for a part of that.
            String::new()
        };
        format!(
            "your turn would come in {needed_s} s{allows}: send `Prefer: wait={needed_s}`, or the same request again: "
        )
    });
    let detail = format!("{}; {advice}come back in {wait_s} s", refused.reason.as_str());
    match refused.reason {
        queue::Reason::ShuttingDown => {
            Problem::reduced_capacity(ErrorCode::ShuttingDown, refused.reason.as_str(), MOMENT)
        }
        queue::Reason::StoreLost => {
            Problem::reduced_capacity(ErrorCode::QuotaUnavailable, refused.reason.as_str(), wait)
        }
        // The quota of the caller's own token may have calls left.
        queue::Reason::Tokens => Problem::reduced_capacity(ErrorCode::ServiceUnavailable, detail, wait),
        // The caller's own limit, independent of the upstream's quota.
        queue::Reason::CallerLimiter => Problem::quota_exceeded(detail, wait),
        _ => Problem {
            wait_needed: refused.wait.map(queue::Wait::needed_s),
            blames_quota: true,
            ..Problem::quota_exceeded(detail, wait)
        },
    }
}

fn not_cached(error: cache::NotCached) -> Problem {
    Problem::new(ErrorCode::NotCached, error.to_string())
}

fn token(error: &token::Error) -> Problem {
    let kind = match error {
        token::Error::Refused { .. } => ErrorCode::SignInRefused,
        token::Error::Unavailable { .. } => ErrorCode::SignInUnavailable,
    };
    Problem {
        retry_after: Some(error.retry_after().unwrap_or(MOMENT)),
        ..Problem::new(kind, error.to_string())
    }
}

fn upstream(error: &upstream::Error) -> Problem {
    if error.is_exhausted() {
        return exhausted(log::chain(error));
    }
    if error.is_timeout() {
        return Problem::new(ErrorCode::UpstreamTimeout, log::chain(error));
    }
    // Callers of an internal gateway may know the reason.
    let detail = log::chain(error);
    let problem = if error.is_too_large() {
        let detail = format!("{detail}; ask for fewer ids at a time, or for fewer rows with $top");
        Problem::new(ErrorCode::AnswerTooLarge, detail)
    } else {
        Problem::new(ErrorCode::UpstreamUnreachable, detail)
    };
    Problem {
        proxy_status: error.proxy_status(),
        ..problem
    }
}

/// There is no memory for the request while others use it.
fn exhausted(detail: String) -> Problem {
    Problem {
        for_memory: true,
        ..Problem::reduced_capacity(ErrorCode::ServiceUnavailable, detail, Exhausted::RETRY_AFTER)
    }
}

fn slot_ended(error: &quota::SlotEnded) -> Problem {
    Problem::reduced_capacity(ErrorCode::ServiceUnavailable, error.to_string(), MOMENT)
}

fn no_answer(error: &region::Error) -> Problem {
    Problem::new(ErrorCode::UpstreamUnreachable, log::chain(error))
}

fn invalid(invalid: &ParseError) -> Problem {
    let kind = if invalid.is_about_options() {
        ErrorCode::ODataError
    } else {
        ErrorCode::InvalidRequestBody
    };
    Problem {
        target: invalid.target().map(|target| target.to_owned().into()),
        ..Problem::new(kind, invalid.to_string())
    }
}

fn panicked() -> Problem {
    Problem::new(
        ErrorCode::InternalServerError,
        "the gateway failed to handle the request; its log says more under the request's id",
    )
}

/// Whether the table has an answer to exactly this cause.
pub(super) fn is_known(cause: &(dyn Error + 'static)) -> bool {
    known(cause).is_some()
}

type Headers = &'static [(&'static str, &'static str)];

const ALLOW_ALL: Headers = &[("allow", "GET, OPTIONS, POST, QUERY")];
const ALLOW_GET: Headers = &[("allow", "GET, OPTIONS")];
const ALLOW_POST: Headers = &[("allow", "OPTIONS, POST, QUERY")];
const ACCEPT_QUERY: Headers = &[("accept-query", "\"application/json\"")];
const ACCEPT_ENCODING: Headers = &[("accept-encoding", "identity")];

/// The methods of an operation, for `Allow`.
fn allow(operation: Operation) -> Headers {
    match operation.declaration().input {
        Input::Path => ALLOW_GET,
        Input::Ids { .. } => ALLOW_POST,
    }
}

/// The header fields of the response to `OPTIONS` about an operation, or about the whole server.
pub(super) fn options(operation: Option<Operation>) -> [Headers; 2] {
    match operation {
        Some(operation) if operation.declaration().input == Input::Path => [allow(operation), &[]],
        Some(operation) => [allow(operation), ACCEPT_QUERY],
        None => [ALLOW_ALL, ACCEPT_QUERY],
    }
}

/// How long a caller should stay away while the gateway is overloaded for a moment.
const MOMENT: Duration = Duration::from_secs(1);

fn refusal(refusal: &RequestError) -> Problem {
    let make = |kind| Problem::new(kind, refusal.to_string());
    match refusal {
        RequestError::Host | RequestError::BodyBroken | RequestError::Authorization => make(ErrorCode::BadRequest),
        RequestError::ForeignHost { .. } => make(ErrorCode::Misdirected),
        RequestError::CrossSite => make(ErrorCode::CrossSite),
        RequestError::Path => make(ErrorCode::NotFound),
        RequestError::Method(operation) => make(ErrorCode::MethodNotAllowed).with_fields(allow(*operation)),
        RequestError::ContentType => make(ErrorCode::UnsupportedMediaType).with_fields(ACCEPT_QUERY),
        // RFC 9110 §12.5.3: the codings that would have been accepted.
        RequestError::ContentEncoding => make(ErrorCode::UnsupportedMediaType).with_fields(ACCEPT_ENCODING),
        RequestError::TransferEncoding => make(ErrorCode::NotImplemented),
        RequestError::BodySize { .. } => make(ErrorCode::RequestEntityTooLarge),
        RequestError::BodyTimeout { .. } => make(ErrorCode::RequestTimeout),
        RequestError::Busy => exhausted(refusal.to_string()),
        RequestError::Fields => make(ErrorCode::RequestHeaderFieldsTooLarge),
    }
}
