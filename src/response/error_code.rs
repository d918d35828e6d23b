//! The error codes of the gateway's own error responses. No other error response can be made, so
//! the documented errors are those that are sent.

use crate::telemetry::named_enum;
use http::StatusCode;

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
        match self {
            Self::BadRequest | Self::InvalidRequestBody | Self::ODataError => StatusCode::BAD_REQUEST,
            Self::CrossSite => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::RequestEntityTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::RequestHeaderFieldsTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::InternalServerError => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NotImplemented => StatusCode::NOT_IMPLEMENTED,
            Self::SignInRefused | Self::UpstreamUnreachable => StatusCode::BAD_GATEWAY,
            Self::SignInUnavailable | Self::ShuttingDown | Self::QuotaUnavailable | Self::ServiceUnavailable => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::UpstreamTimeout | Self::NotCached => StatusCode::GATEWAY_TIMEOUT,
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
}
