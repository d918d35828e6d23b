//! The caller's own token, if it brought one.

use http::{HeaderMap, header};

use crate::response::RequestError;
use crate::scan::CallerToken;

/// What happens to the `Authorization` of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authorization {
    /// It is ignored, whatever it contains: calls use the gateway's token.
    Dropped,
    /// Its bearer token is used upstream instead of the gateway's.
    CallerToken,
}

impl Authorization {
    /// The caller's token; `None` to use the gateway's.
    pub(super) fn read(self, fields: &HeaderMap) -> Result<Option<CallerToken>, RequestError> {
        match self {
            Self::Dropped => Ok(None),
            Self::CallerToken => caller_token(fields),
        }
    }
}

/// Everything but one valid bearer token is rejected: using the gateway's token instead would give
/// the caller rights that it did not ask for.
fn caller_token(fields: &HeaderMap) -> Result<Option<CallerToken>, RequestError> {
    let mut values = fields.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let single = values.next().is_none().then_some(value);
    let (scheme, token) = single
        .and_then(|value| value.to_str().ok()?.split_once(' '))
        .ok_or(RequestError::Authorization)?;
    // RFC 9110 §11.1: the scheme's case does not matter, and one or more spaces follow.
    let bearer = scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_matches(' '));
    let caller_token = bearer.and_then(CallerToken::new);
    caller_token.map(Some).ok_or(RequestError::Authorization)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(authorization: Authorization, values: &[&str]) -> Result<Option<String>, RequestError> {
        let mut fields = HeaderMap::new();
        for value in values {
            fields.append(header::AUTHORIZATION, value.parse().unwrap());
        }
        let read = authorization.read(&fields)?;
        Ok(read.map(|caller_token| caller_token.secret().expose().to_owned()))
    }

    #[test]
    fn unless_it_is_asked_for_nothing_is_read() {
        for value in ["Bearer abc", "Basic abc", ""] {
            assert_eq!(read(Authorization::Dropped, &[value]), Ok(None));
        }
    }

    #[test]
    fn a_bearer_token_is_taken_as_it_is() {
        for value in ["Bearer abc.DEF-1==", "bearer abc.DEF-1==", "BEARER  abc.DEF-1== "] {
            assert_eq!(
                read(Authorization::CallerToken, &[value]),
                Ok(Some("abc.DEF-1==".into())),
                "{value}"
            );
        }
        assert_eq!(read(Authorization::CallerToken, &[]), Ok(None));
    }

    #[test]
    fn anything_else_is_refused_and_never_replaced_by_the_gateways_token() {
        let long = format!("Bearer {}", "a".repeat(CallerToken::MAX_BYTES + 1));
        for value in [
            "",
            "Bearer",
            "Bearer ",
            "Basic YTpi",
            "abc",
            "Bearer a b",
            "Bearer a,b",
            "Bearer\tabc",
            &long,
        ] {
            assert_eq!(
                read(Authorization::CallerToken, &[value]),
                Err(RequestError::Authorization),
                "{value:.20}"
            );
        }
        let twice = read(Authorization::CallerToken, &["Bearer a", "Bearer a"]);
        assert_eq!(twice, Err(RequestError::Authorization));
    }
}
