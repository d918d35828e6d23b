//! The error codes of the gateway's own error responses. No other error response can be made, so
//! the documented errors are those that are sent.

use http::StatusCode;

/// A status with Defender's `error.code`, by which clients can tell errors apart. The codes are
/// stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorCode {
    /// The request violates HTTP.
    BadRequest,
    /// The body is no valid request.
    InvalidRequestBody,
    /// A query option is wrong.
    ODataError,
    /// A browser's request from another site.
    CrossSite,
    /// No such path.
    NotFound,
    /// The path exists, the method does not.
    MethodNotAllowed,
    /// The body was too slow.
    RequestTimeout,
    /// The body is too large.
    RequestEntityTooLarge,
    /// Not JSON, or compressed.
    UnsupportedMediaType,
    /// The request was meant for another host.
    Misdirected,
    /// No slot in time, or too many requests.
    TooManyRequests,
    /// Too many or too large header fields.
    RequestHeaderFieldsTooLarge,
    /// A defect of the gateway.
    InternalServerError,
    /// A feature of HTTP that the gateway does not implement.
    NotImplemented,
    /// The gateway's credentials are rejected.
    SignInRefused,
    /// The exchange with the upstream failed.
    UpstreamUnreachable,
    /// The sign-in service cannot be reached.
    SignInUnavailable,
    /// The gateway is shutting down.
    ShuttingDown,
    /// The shared quota cannot be reached.
    QuotaUnavailable,
    /// Overloaded for a moment.
    ServiceUnavailable,
    /// The upstream did not answer in time.
    UpstreamTimeout,
    /// `only-if-cached`, and no stored answer may be served.
    NotCached,
}

impl ErrorCode {
    /// All codes, by status.
    pub const ALL: [Self; 22] = [
        Self::BadRequest,
        Self::InvalidRequestBody,
        Self::ODataError,
        Self::CrossSite,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::RequestEntityTooLarge,
        Self::UnsupportedMediaType,
        Self::Misdirected,
        Self::TooManyRequests,
        Self::RequestHeaderFieldsTooLarge,
        Self::InternalServerError,
        Self::NotImplemented,
        Self::SignInRefused,
        Self::UpstreamUnreachable,
        Self::SignInUnavailable,
        Self::ShuttingDown,
        Self::QuotaUnavailable,
        Self::ServiceUnavailable,
        Self::UpstreamTimeout,
        Self::NotCached,
    ];

    /// The HTTP status.
    #[must_use]
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

    /// `error.code`.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::BadRequest => "BadRequest",
            Self::InvalidRequestBody => "InvalidRequestBody",
            Self::ODataError => "ODataError",
            Self::CrossSite | Self::Misdirected => "Forbidden",
            Self::NotFound => "NotFound",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::RequestTimeout => "RequestTimeout",
            Self::RequestEntityTooLarge => "RequestEntityTooLarge",
            Self::UnsupportedMediaType => "UnsupportedMediaType",
            Self::TooManyRequests => "TooManyRequests",
            Self::RequestHeaderFieldsTooLarge => "RequestHeaderFieldsTooLarge",
            Self::InternalServerError => "InternalServerError",
            Self::NotImplemented => "NotImplemented",
            Self::SignInRefused => "SignInRefused",
            Self::UpstreamUnreachable => "UpstreamUnreachable",
            Self::SignInUnavailable => "SignInUnavailable",
            Self::ShuttingDown => "ShuttingDown",
            Self::QuotaUnavailable => "QuotaUnavailable",
            Self::ServiceUnavailable => "ServiceUnavailable",
            Self::UpstreamTimeout => "UpstreamTimeout",
            Self::NotCached => "NotCached",
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
}
