//! The outcome of a request, in one word, and the codes of the gateway's own error responses, each
//! with its status and its outcome.
//!
//! Metrics, history, the status page, alerts and logs all use the outcome's word. No other error
//! response can be made than those with a code here, so the documented errors are those that are
//! sent.

use http::StatusCode;

use crate::scan::{self, ForwardReason, TokenOwner};
use crate::telemetry::named_enum;

/// How a request ended, for metrics and logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The outcome in one word.
    pub outcome: Outcome,
    /// Why the request was not answered from the cache; `None` when it was, or when there was no
    /// upstream answer.
    pub forward: Option<ForwardReason>,
    /// What went wrong, with its causes, for the log; `None` when nothing did.
    pub cause: Option<String>,
}

/// The outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// An answer that the caller can use, from the cache or the upstream.
    Served(scan::Outcome),
    /// Refused by design: no slot in time, over the caller's limit, shutting down, or overloaded.
    Refused,
    /// The upstream, the sign-in or the gateway failed.
    Failed,
    /// A mistake of the caller.
    Invalid,
    /// The caller hung up before its answer.
    Gone,
}

impl Outcome {
    /// The number of outcomes.
    pub const COUNT: usize = scan::Outcome::ALL.len() + 4;

    /// All outcomes, in the order of [`Outcome::index`].
    pub const ALL: [Self; Self::COUNT] = [
        Self::Served(scan::Outcome::Hit),
        Self::Served(scan::Outcome::Stale),
        Self::Served(scan::Outcome::Collapsed),
        Self::Served(scan::Outcome::Merged),
        Self::Served(scan::Outcome::Forwarded),
        Self::Refused,
        Self::Failed,
        Self::Invalid,
        Self::Gone,
    ];

    /// Its index in [`Outcome::ALL`].
    pub fn index(self) -> usize {
        let others = scan::Outcome::ALL.len();
        match self {
            Self::Served(outcome) => outcome as usize,
            Self::Refused => others,
            Self::Failed => others + 1,
            Self::Invalid => others + 2,
            Self::Gone => others + 3,
        }
    }

    /// The name in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Served(outcome) => outcome.as_str(),
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Invalid => "invalid",
            Self::Gone => "gone",
        }
    }

    /// The outcome of an upstream answer with this status, which was found as `how` says.
    pub fn of_answer(how: scan::Outcome, status: StatusCode, owner: TokenOwner) -> Self {
        match (status.as_u16(), owner) {
            (200..=299, _) => Self::Served(how),
            (429, _) => Self::Refused,
            (401 | 403, TokenOwner::Caller) => Self::Invalid,
            // The licence, the token or the permission of the gateway is missing, or the upstream
            // did not take the request.
            (401..=403 | 407 | 408 | 421 | 425, _) => Self::Failed,
            (400..=499, _) => Self::Invalid,
            _ => Self::Failed,
        }
    }
}

named_enum! {
    /// A status with Defender's `error.code`, by which clients can tell errors apart. The codes are
    /// stable.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub enum ErrorCode, code {
        /// The request violates HTTP.
        BadRequest = "BadRequest",
        /// The body is no valid request.
        InvalidRequestBody = "InvalidRequestBody",
        /// A query option is wrong.
        ODataError = "ODataError",
        /// A browser's request from another site.
        CrossSite = "Forbidden",
        /// No such path.
        NotFound = "NotFound",
        /// The path exists, the method does not.
        MethodNotAllowed = "MethodNotAllowed",
        /// The body was too slow.
        RequestTimeout = "RequestTimeout",
        /// The body is too large.
        RequestEntityTooLarge = "RequestEntityTooLarge",
        /// Not JSON, or compressed.
        UnsupportedMediaType = "UnsupportedMediaType",
        /// The request was meant for another host.
        Misdirected = "Forbidden",
        /// No slot in time, or too many requests.
        TooManyRequests = "TooManyRequests",
        /// Too many or too large header fields.
        RequestHeaderFieldsTooLarge = "RequestHeaderFieldsTooLarge",
        /// A defect of the gateway.
        InternalServerError = "InternalServerError",
        /// A feature of HTTP that the gateway does not implement.
        NotImplemented = "NotImplemented",
        /// The gateway's credentials are rejected.
        SignInRefused = "SignInRefused",
        /// The exchange with the upstream failed.
        UpstreamUnreachable = "UpstreamUnreachable",
        /// The upstream's answer is longer than the gateway reads.
        AnswerTooLarge = "AnswerTooLarge",
        /// The sign-in service cannot be reached.
        SignInUnavailable = "SignInUnavailable",
        /// The gateway is shutting down.
        ShuttingDown = "ShuttingDown",
        /// The shared quota cannot be reached.
        QuotaUnavailable = "QuotaUnavailable",
        /// Overloaded for a moment.
        ServiceUnavailable = "ServiceUnavailable",
        /// The upstream did not answer in time.
        UpstreamTimeout = "UpstreamTimeout",
        /// `only-if-cached`, and no stored answer may be served.
        NotCached = "NotCached",
    }
}

impl ErrorCode {
    /// The HTTP status.
    pub fn status(self) -> StatusCode {
        self.row().0
    }

    /// The outcome of a request that is answered with it.
    pub fn outcome(self) -> Outcome {
        self.row().1
    }

    /// Why the gateway made the response itself: an error type of RFC 9209 §2.3.
    pub(super) fn proxy_status(self) -> &'static str {
        self.row().2
    }

    fn row(self) -> (StatusCode, Outcome, &'static str) {
        use Outcome::{Failed, Invalid, Refused};
        // The request is wrong, or there are too many.
        const REQUEST: &str = "http_request_error";
        // The gateway's policy forbids the request.
        const DENIED: &str = "http_request_denied";
        // The gateway made the response on purpose.
        const LOCAL: &str = "proxy_internal_response";
        match self {
            Self::BadRequest | Self::InvalidRequestBody | Self::ODataError => {
                (StatusCode::BAD_REQUEST, Invalid, REQUEST)
            }
            Self::CrossSite => (StatusCode::FORBIDDEN, Invalid, DENIED),
            Self::NotFound => (StatusCode::NOT_FOUND, Invalid, REQUEST),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, Invalid, REQUEST),
            Self::RequestTimeout => (StatusCode::REQUEST_TIMEOUT, Invalid, REQUEST),
            Self::RequestEntityTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, Invalid, REQUEST),
            Self::UnsupportedMediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, Invalid, REQUEST),
            Self::Misdirected => (StatusCode::MISDIRECTED_REQUEST, Invalid, DENIED),
            Self::TooManyRequests => (StatusCode::TOO_MANY_REQUESTS, Refused, REQUEST),
            Self::RequestHeaderFieldsTooLarge => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, Invalid, REQUEST),
            Self::InternalServerError => (StatusCode::INTERNAL_SERVER_ERROR, Failed, "proxy_internal_error"),
            Self::NotImplemented => (StatusCode::NOT_IMPLEMENTED, Invalid, REQUEST),
            Self::SignInRefused => (StatusCode::BAD_GATEWAY, Failed, "proxy_configuration_error"),
            Self::UpstreamUnreachable => (StatusCode::BAD_GATEWAY, Failed, "http_protocol_error"),
            Self::AnswerTooLarge => (StatusCode::BAD_GATEWAY, Failed, "http_response_body_size"),
            Self::SignInUnavailable => (StatusCode::SERVICE_UNAVAILABLE, Failed, "destination_unavailable"),
            Self::QuotaUnavailable => (StatusCode::SERVICE_UNAVAILABLE, Failed, LOCAL),
            Self::ShuttingDown | Self::ServiceUnavailable => (StatusCode::SERVICE_UNAVAILABLE, Refused, LOCAL),
            Self::UpstreamTimeout => (StatusCode::GATEWAY_TIMEOUT, Failed, "http_response_timeout"),
            Self::NotCached => (StatusCode::GATEWAY_TIMEOUT, Refused, LOCAL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_has_its_place() {
        for (place, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome.index(), place, "{}", outcome.as_str());
        }
    }

    #[test]
    fn an_answer_that_the_caller_cannot_use_is_not_forwarded() {
        let of = |status: u16, owner| {
            let status = StatusCode::from_u16(status).unwrap();
            Outcome::of_answer(scan::Outcome::Forwarded, status, owner).as_str()
        };
        for (status, gateway, caller) in [
            (200, "forwarded", "forwarded"),
            (302, "failed", "failed"),
            (400, "invalid", "invalid"),
            (401, "failed", "invalid"),
            (403, "failed", "invalid"),
            (404, "invalid", "invalid"),
            (408, "failed", "failed"),
            (429, "refused", "refused"),
            (500, "failed", "failed"),
            (503, "failed", "failed"),
        ] {
            assert_eq!(of(status, TokenOwner::Gateway), gateway, "{status}");
            assert_eq!(of(status, TokenOwner::Caller), caller, "{status}");
        }
    }

    #[test]
    fn all_are_listed_once_and_in_order() {
        assert!(ErrorCode::ALL.is_sorted_by(|a, b| a < b));
        assert_eq!(ErrorCode::ALL.len(), ErrorCode::NotCached as usize + 1);
        assert!(ErrorCode::ALL.is_sorted_by_key(|kind| kind.status()));
    }

    #[test]
    fn statuses_of_the_gateway_agree_with_their_outcomes() {
        for kind in ErrorCode::ALL {
            let (outcome, status) = (kind.outcome(), kind.status());
            if outcome == Outcome::Failed {
                assert!(status.is_server_error(), "{kind:?}");
            }
            // A 501 answers a transfer coding that the caller chose.
            if outcome == Outcome::Invalid {
                assert!(
                    status.is_client_error() || kind == ErrorCode::NotImplemented,
                    "{kind:?}"
                );
            }
        }
    }
}
