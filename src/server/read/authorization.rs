//! The caller's own token, if it brought one.

use http::{HeaderMap, header};

use crate::response::Refusal;
use crate::scan::Delegated;

/// What becomes of the `Authorization` of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Authorization {
    /// It is dropped unread, whatever it holds: calls are made with the gateway's token.
    #[default]
    Dropped,
    /// A bearer token in it is used upstream in place of the gateway's.
    Delegated,
}

impl Authorization {
    /// The token to ask with; `None`: the gateway's.
    pub(super) fn read(self, fields: &HeaderMap) -> Result<Option<Delegated>, Refusal> {
        match self {
            Self::Dropped => Ok(None),
            Self::Delegated => delegated(fields),
        }
    }
}

/// Anything but one good bearer token is refused: to fall back on the gateway's token would give the caller rights it did not ask for.
fn delegated(fields: &HeaderMap) -> Result<Option<Delegated>, Refusal> {
    let mut values = fields.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let single = values.next().is_none().then_some(value);
    let (scheme, token) = single
        .and_then(|value| value.to_str().ok()?.split_once(' '))
        .ok_or(Refusal::Authorization)?;
    // RFC 9110 §11.1: the scheme's case does not matter; one or more spaces follow.
    let bearer = scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_matches(' '));
    let delegated = bearer.and_then(Delegated::new);
    delegated.map(Some).ok_or(Refusal::Authorization)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(authorization: Authorization, values: &[&str]) -> Result<Option<String>, Refusal> {
        let mut fields = HeaderMap::new();
        for value in values {
            fields.append(header::AUTHORIZATION, value.parse().unwrap());
        }
        let read = authorization.read(&fields)?;
        Ok(read.map(|delegated| delegated.secret().expose().to_owned()))
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
                read(Authorization::Delegated, &[value]),
                Ok(Some("abc.DEF-1==".into())),
                "{value}"
            );
        }
        assert_eq!(read(Authorization::Delegated, &[]), Ok(None));
    }

    #[test]
    fn anything_else_is_refused_and_never_replaced_by_the_gateways_token() {
        let long = format!("Bearer {}", "a".repeat(Delegated::MAX_BYTES + 1));
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
                read(Authorization::Delegated, &[value]),
                Err(Refusal::Authorization),
                "{value:.20}"
            );
        }
        let twice = read(Authorization::Delegated, &["Bearer a", "Bearer a"]);
        assert_eq!(twice, Err(Refusal::Authorization));
    }
}
