//! The error codes of the gateway's own error responses. No other error response can be made, so
//! the documented errors are those that are sent.

use http::StatusCode;

use super::Outcome;
use crate::telemetry::named_enum;

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

    fn row(self) -> (StatusCode, Outcome) {
        use Outcome::{Failed, Invalid, Refused};
        match self {
            Self::BadRequest | Self::InvalidRequestBody | Self::ODataError => (StatusCode::BAD_REQUEST, Invalid),
            Self::CrossSite => (StatusCode::FORBIDDEN, Invalid),
            Self::NotFound => (StatusCode::NOT_FOUND, Invalid),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, Invalid),
            Self::RequestTimeout => (StatusCode::REQUEST_TIMEOUT, Invalid),
            Self::RequestEntityTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, Invalid),
            Self::UnsupportedMediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, Invalid),
            Self::Misdirected => (StatusCode::MISDIRECTED_REQUEST, Invalid),
            Self::TooManyRequests => (StatusCode::TOO_MANY_REQUESTS, Refused),
            Self::RequestHeaderFieldsTooLarge => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, Invalid),
            Self::InternalServerError => (StatusCode::INTERNAL_SERVER_ERROR, Failed),
            Self::NotImplemented => (StatusCode::NOT_IMPLEMENTED, Invalid),
            Self::SignInRefused | Self::UpstreamUnreachable => (StatusCode::BAD_GATEWAY, Failed),
            Self::SignInUnavailable | Self::QuotaUnavailable => (StatusCode::SERVICE_UNAVAILABLE, Failed),
            Self::ShuttingDown | Self::ServiceUnavailable => (StatusCode::SERVICE_UNAVAILABLE, Refused),
            Self::UpstreamTimeout => (StatusCode::GATEWAY_TIMEOUT, Failed),
            Self::NotCached => (StatusCode::GATEWAY_TIMEOUT, Refused),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_listed_once_and_in_order() {
        assert!(ErrorCode::ALL.is_sorted_by(|a, b| a < b));
        assert_eq!(ErrorCode::ALL.len(), ErrorCode::NotCached as usize + 1);
        assert!(ErrorCode::ALL.is_sorted_by_key(|kind| kind.status()));
    }

    #[test]
    fn tool_authors_find_every_code() {
        let page = include_str!("../../deploy/api.md");
        for code in ErrorCode::ALL {
            assert!(
                page.contains(&format!("`{}`", code.code())),
                "{code:?} is not in deploy/api.md"
            );
        }
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
