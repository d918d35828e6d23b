//! The documented error codes of sign-in.

use std::fmt;

use http::StatusCode;

/// An error number, `AADSTS` followed by digits; only documented ones can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AadstsCode(u32);

impl AadstsCode {
    /// The secret is wrong.
    pub const INVALID_SECRET: Self = Self(7_000_215);
    /// The secret was valid once.
    pub const EXPIRED_SECRET: Self = Self(7_000_222);
    /// No such app in the tenant.
    pub const UNKNOWN_APP: Self = Self(700_016);
    /// No such tenant.
    pub const UNKNOWN_TENANT: Self = Self(90_002);
    /// `resource` was sent to the v2 endpoint.
    pub const RESOURCE_NOT_SUPPORTED: Self = Self(901_002);
    /// Neither secret nor assertion was sent.
    pub const NO_CREDENTIAL: Self = Self(7_000_218);
    /// A required field is missing.
    pub const MISSING_FIELD: Self = Self(900_144);
    /// A field came twice.
    pub const DUPLICATED_FIELD: Self = Self(9_000_411);
    /// The method is not POST.
    pub const ONLY_POST: Self = Self(900_561);
    /// The grant type is not one for apps.
    pub const UNSUPPORTED_GRANT: Self = Self(70_003);
    /// The scope does not end in `/.default`.
    pub const SCOPE_WITHOUT_DEFAULT: Self = Self(1_002_012);
    /// Scopes of two resources.
    pub const TWO_RESOURCES: Self = Self(700_022);
    /// The scope's resource has no service principal in the tenant.
    pub const UNKNOWN_RESOURCE: Self = Self(500_011);
    /// No such host of the service.
    pub const UNKNOWN_INSTANCE: Self = Self(50_049);
    /// `common` or `organizations` in place of a tenant.
    pub const NOT_MULTI_TENANT: Self = Self(50_194);
    /// The assertion's signature or certificate is unknown.
    pub const BAD_SIGNATURE: Self = Self(700_027);
    /// The assertion is no JWT, or lacks something.
    pub const BAD_ASSERTION: Self = Self(50_027);
    /// The assertion's audience is another.
    pub const BAD_AUDIENCE: Self = Self(50_013);
    /// The assertion is outside its time.
    pub const BAD_TIME: Self = Self(700_024);
    /// No federated identity matches the assertion.
    pub const NO_FEDERATION: Self = Self(70_021);
    /// The service is busy for a moment.
    pub const TRANSIENT: Self = Self(90_033);
    /// The tenant is throttled.
    pub const TENANT_THROTTLED: Self = Self(90_055);

    /// `None` for a number that is not documented.
    pub fn new(number: u32) -> Option<Self> {
        TABLE.iter().any(|row| row.0 == number).then_some(Self(number))
    }

    /// All documented codes.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|row| Self(row.0))
    }

    /// The number.
    pub fn number(self) -> u32 {
        self.0
    }

    /// The HTTP status that goes with it.
    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.row().1).unwrap_or(StatusCode::BAD_REQUEST)
    }

    /// The `error` member, on which programs may depend.
    pub fn error(self) -> &'static str {
        self.row().2
    }

    /// The text for people.
    pub fn text(self) -> &'static str {
        self.row().3
    }

    fn row(self) -> (u32, u16, &'static str, &'static str) {
        let unlisted = (self.0, 400, "invalid_request", "the request was refused");
        TABLE.iter().find(|row| row.0 == self.0).copied().unwrap_or(unlisted)
    }
}

impl fmt::Display for AadstsCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AADSTS{}", self.0)
    }
}

/// Number, status, `error`, text. The texts say the documented meaning in our words.
#[rustfmt::skip]
const TABLE: &[(u32, u16, &str, &str)] = &[
    (7_000_215, 401, "invalid_client", "Invalid client secret provided. Send the secret's value, not the secret's id."),
    (7_000_222, 401, "invalid_client", "The provided client secret keys are expired."),
    (7_000_218, 401, "invalid_client", "The request body must contain the parameter 'client_assertion' or 'client_secret'."),
    (700_027, 401, "invalid_client", "The signature of the client assertion could not be verified with a registered certificate."),
    (700_024, 401, "invalid_client", "The client assertion is not within its valid time range."),
    (50_012, 401, "invalid_client", "Authentication failed."),
    (50_013, 401, "invalid_client", "The assertion is not valid: its audience, issuer or form is wrong."),
    (500_133, 401, "invalid_client", "The assertion is not within its valid time range."),
    (50_027, 401, "invalid_client", "The JWT is invalid or malformed."),
    (7_000_112, 401, "unauthorized_client", "The application is disabled."),
    (70_001, 400, "unauthorized_client", "The application is disabled in the tenant."),
    (700_016, 400, "unauthorized_client", "The application was not found in the directory."),
    (700_011, 400, "unauthorized_client", "The application was not found in the directory, or has no consent there."),
    (7_000_114, 400, "unauthorized_client", "The application is not allowed to make on-behalf-of calls."),
    (90_002, 400, "invalid_request", "The tenant was not found. Check the tenant id, and that it is in this cloud."),
    (900_382, 400, "invalid_request", "Confidential clients cannot sign in to another cloud."),
    (900_432, 400, "invalid_request", "Confidential clients are not supported across clouds."),
    (90_038, 400, "invalid_request", "The tenant belongs to another national cloud."),
    (50_049, 400, "invalid_instance", "The instance is unknown or invalid."),
    (50_194, 400, "invalid_request", "The application is not configured for several tenants; use an endpoint of its tenant."),
    (900_144, 400, "invalid_request", "The request body must contain a parameter that is missing."),
    (9_000_411, 400, "invalid_request", "The request is not properly formatted: a parameter is duplicated."),
    (900_561, 400, "invalid_request", "The endpoint only accepts POST requests."),
    (901_002, 400, "invalid_request", "The 'resource' request parameter is not supported."),
    (70_021, 400, "invalid_request", "No matching federated identity record was found for the presented assertion."),
    (90_061, 400, "invalid_request", "The issuer's metadata could not be read."),
    (70_003, 400, "unsupported_grant_type", "The app requested a grant type that is not supported."),
    (70_011, 400, "invalid_scope", "The scope is not valid."),
    (1_002_012, 400, "invalid_scope", "Client credential flows need a scope that is the resource with /.default behind it."),
    (700_022, 400, "invalid_scope", "The scope names more than one resource."),
    (28_002, 400, "invalid_scope", "The scope has an invalid value."),
    (500_011, 400, "invalid_resource", "The resource principal was not found in the tenant."),
    (50_001, 400, "invalid_resource", "The resource is disabled or does not exist."),
    (650_057, 400, "invalid_resource", "The resource is not among the permissions that the app registration asks for."),
    (50_196, 400, "invalid_grant", "The server ended the operation: it met a request loop."),
    (90_055, 429, "temporarily_unavailable", "The tenant is throttled: too many requests."),
    (90_033, 503, "temporarily_unavailable", "A transient error has occurred."),
    (90_006, 503, "temporarily_unavailable", "The external server could not be reached, for now."),
    (90_024, 503, "temporarily_unavailable", "The request budget is exceeded, for now."),
    (90_012, 503, "temporarily_unavailable", "The request has timed out."),
    (50_033, 503, "temporarily_unavailable", "A transient error has occurred in the service."),
];

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
    fn every_named_code_is_listed() {
        use AadstsCode as C;
        for code in [
            C::INVALID_SECRET,
            C::EXPIRED_SECRET,
            C::UNKNOWN_APP,
            C::UNKNOWN_TENANT,
            C::UNKNOWN_INSTANCE,
            C::RESOURCE_NOT_SUPPORTED,
            C::NO_CREDENTIAL,
            C::MISSING_FIELD,
            C::DUPLICATED_FIELD,
            C::ONLY_POST,
            C::UNSUPPORTED_GRANT,
            C::SCOPE_WITHOUT_DEFAULT,
            C::TWO_RESOURCES,
            C::UNKNOWN_RESOURCE,
            C::NOT_MULTI_TENANT,
            C::BAD_SIGNATURE,
            C::BAD_ASSERTION,
            C::BAD_AUDIENCE,
            C::BAD_TIME,
            C::NO_FEDERATION,
            C::TRANSIENT,
            C::TENANT_THROTTLED,
        ] {
            assert_eq!(AadstsCode::new(code.number()), Some(code));
        }
    }

    #[test]
    fn a_wrong_secret_is_an_invalid_client() {
        let code = AadstsCode::INVALID_SECRET;
        assert_eq!(
            (code.status(), code.error()),
            (StatusCode::UNAUTHORIZED, "invalid_client")
        );
        assert_eq!(code.to_string(), "AADSTS7000215");
    }
}
