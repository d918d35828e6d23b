//! The documented error codes of sign-in, and a rejected token request.

use std::fmt;

use http::StatusCode;
use serde_json::json;

use super::endpoint::JSON;
use crate::sim_state::State;
use crate::wire::Reply;

/// An error number, `AADSTS` followed by digits; only documented ones can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AadstsCode {
    number: u32,
    status: u16,
    /// The `error` member, on which programs may depend.
    pub(crate) error: &'static str,
    /// The text for people.
    text: &'static str,
}

impl AadstsCode {
    /// `None` for a number that is not documented.
    pub fn new(number: u32) -> Option<Self> {
        Self::all().find(|code| code.number == number)
    }

    /// All documented codes.
    pub fn all() -> impl Iterator<Item = Self> {
        ALL.iter().copied()
    }

    /// The number.
    pub fn number(self) -> u32 {
        self.number
    }

    /// The HTTP status that goes with it.
    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::BAD_REQUEST)
    }
}

impl fmt::Display for AadstsCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AADSTS{}", self.number)
    }
}

/// Number, status, `error` and text of each code; those that the simulator itself answers with have
/// a name. The texts say the documented meaning in our words.
macro_rules! codes {
    ($($($name:ident =)? $number:literal, $status:literal, $error:literal, $text:literal;)+) => {
        impl AadstsCode {
            $($(
                pub const $name: Self = Self {
                    number: $number,
                    status: $status,
                    error: $error,
                    text: $text,
                };
            )?)+
        }

        const ALL: &[AadstsCode] = &[$(
            AadstsCode {
                number: $number,
                status: $status,
                error: $error,
                text: $text,
            },
        )+];
    };
}

#[rustfmt::skip]
codes! {
    INVALID_SECRET = 7_000_215, 401, "invalid_client", "Invalid client secret provided. Send the secret's value, not the secret's id.";
    EXPIRED_SECRET = 7_000_222, 401, "invalid_client", "The provided client secret keys are expired.";
    NO_CREDENTIAL = 7_000_218, 401, "invalid_client", "The request body must contain the parameter 'client_assertion' or 'client_secret'.";
    BAD_SIGNATURE = 700_027, 401, "invalid_client", "The signature of the client assertion could not be verified with a registered certificate.";
    BAD_TIME = 700_024, 401, "invalid_client", "The client assertion is not within its valid time range.";
    50_012, 401, "invalid_client", "Authentication failed.";
    BAD_AUDIENCE = 50_013, 401, "invalid_client", "The assertion is not valid: its audience, issuer or form is wrong.";
    500_133, 401, "invalid_client", "The assertion is not within its valid time range.";
    BAD_ASSERTION = 50_027, 401, "invalid_client", "The JWT is invalid or malformed.";
    7_000_112, 401, "unauthorized_client", "The application is disabled.";
    70_001, 400, "unauthorized_client", "The application is disabled in the tenant.";
    UNKNOWN_APP = 700_016, 400, "unauthorized_client", "The application was not found in the directory.";
    700_011, 400, "unauthorized_client", "The application was not found in the directory, or has no consent there.";
    7_000_114, 400, "unauthorized_client", "The application is not allowed to make on-behalf-of calls.";
    UNKNOWN_TENANT = 90_002, 400, "invalid_request", "The tenant was not found. Check the tenant id, and that it is in this cloud.";
    900_382, 400, "invalid_request", "Confidential clients cannot sign in to another cloud.";
    900_432, 400, "invalid_request", "Confidential clients are not supported across clouds.";
    90_038, 400, "invalid_request", "The tenant belongs to another national cloud.";
    UNKNOWN_INSTANCE = 50_049, 400, "invalid_instance", "The instance is unknown or invalid.";
    NOT_MULTI_TENANT = 50_194, 400, "invalid_request", "The application is not configured for several tenants; use an endpoint of its tenant.";
    MISSING_FIELD = 900_144, 400, "invalid_request", "The request body must contain a parameter that is missing.";
    DUPLICATED_FIELD = 9_000_411, 400, "invalid_request", "The request is not properly formatted: a parameter is duplicated.";
    ONLY_POST = 900_561, 400, "invalid_request", "The endpoint only accepts POST requests.";
    RESOURCE_NOT_SUPPORTED = 901_002, 400, "invalid_request", "The 'resource' request parameter is not supported.";
    NO_FEDERATION = 70_021, 400, "invalid_request", "No matching federated identity record was found for the presented assertion.";
    90_061, 400, "invalid_request", "The issuer's metadata could not be read.";
    50_166, 400, "invalid_request", "The request to the external OpenID Connect endpoint failed.";
    501_661, 400, "invalid_request", "The request to the external OpenID Connect endpoint failed.";
    UNSUPPORTED_GRANT = 70_003, 400, "unsupported_grant_type", "The app requested a grant type that is not supported.";
    70_011, 400, "invalid_scope", "The scope is not valid.";
    SCOPE_WITHOUT_DEFAULT = 1_002_012, 400, "invalid_scope", "Client credential flows need a scope that is the resource with /.default behind it.";
    TWO_RESOURCES = 700_022, 400, "invalid_scope", "The scope names more than one resource.";
    28_002, 400, "invalid_scope", "The scope has an invalid value.";
    UNKNOWN_RESOURCE = 500_011, 400, "invalid_resource", "The resource principal was not found in the tenant.";
    50_001, 400, "invalid_resource", "The resource is disabled or does not exist.";
    650_057, 400, "invalid_resource", "The resource is not among the permissions that the app registration asks for.";
    50_196, 400, "invalid_grant", "The server ended the operation: it met a request loop.";
    90_055, 429, "temporarily_unavailable", "The tenant is throttled: too many requests.";
    90_033, 503, "temporarily_unavailable", "A transient error has occurred.";
    90_006, 503, "temporarily_unavailable", "The external server could not be reached, for now.";
    90_024, 503, "temporarily_unavailable", "The request budget is exceeded, for now.";
    90_012, 503, "temporarily_unavailable", "The request has timed out.";
    50_033, 503, "temporarily_unavailable", "A transient error has occurred in the service.";
}

/// A documented error, with its details.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: AadstsCode,
    about: Option<String>,
}

impl Refusal {
    pub(super) fn about(code: AadstsCode, about: &str) -> Self {
        Self {
            code,
            about: Some(about.into()),
        }
    }

    /// The response with the error document, as the real service writes it.
    pub(super) fn reply(&self, state: &mut State) -> Reply {
        let (trace, correlation) = (state.rng.guid(), state.rng.guid());
        let now = jiff::Timestamp::now();
        let timestamp = now.strftime("%Y-%m-%d %H:%M:%SZ").to_string();
        let about = self
            .about
            .as_ref()
            .map(|about| format!(" ('{about}')"))
            .unwrap_or_default();
        let document = json!({
            "error": self.code.error,
            "error_description": format!(
                "{}: {}{about} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {timestamp}",
                self.code, self.code.text,
            ),
            "error_codes": [self.code.number()],
            "timestamp": timestamp,
            "trace_id": trace,
            "correlation_id": correlation,
            "error_uri": format!("https://login.microsoftonline.com/error?code={}", self.code.number()),
        });
        Reply::new(self.code.status(), JSON, document.to_string())
    }
}

impl From<AadstsCode> for Refusal {
    fn from(code: AadstsCode) -> Self {
        Self { code, about: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_documented_numbers_are_codes_and_none_is_listed_twice() {
        let mut all: Vec<u32> = AadstsCode::all().map(AadstsCode::number).collect();
        let listed = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), listed);
        assert_eq!(AadstsCode::new(7_000_215), Some(AadstsCode::INVALID_SECRET));
        assert_eq!(AadstsCode::new(1), None);
    }

    #[test]
    fn a_wrong_secret_is_an_invalid_client() {
        let code = AadstsCode::INVALID_SECRET;
        assert_eq!(
            (code.status(), code.error),
            (StatusCode::UNAUTHORIZED, "invalid_client")
        );
        assert_eq!(code.to_string(), "AADSTS7000215");
    }
}
