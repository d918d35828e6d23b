//! Reads the permissions in a token, without trusting it: apps may get tokens without the
//! permission they need, and Defender says so only at the first call.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use crate::secret::Secret;

/// The permission that the scan history needs.
pub(super) const REQUIRED_ROLE: &str = "Machine.Read.All";

/// What a token says about its permissions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Roles {
    /// There is no token, or it cannot be read; tokens need not be readable.
    #[default]
    Unknown,
    /// It has `Machine.Read.All`.
    Sufficient,
    /// It lacks `Machine.Read.All`.
    Missing,
}

impl Roles {
    /// Reads `token`. Nothing is verified, and only a warning may depend on it.
    pub(super) fn of(token: &Secret) -> Self {
        #[derive(Deserialize)]
        struct Claims {
            #[serde(default)]
            roles: Vec<String>,
        }
        let mut segments = token.expose().split('.');
        let (Some(_), Some(payload), Some(_), None) =
            (segments.next(), segments.next(), segments.next(), segments.next())
        else {
            return Self::Unknown;
        };
        let claims = URL_SAFE_NO_PAD
            .decode(payload)
            .ok()
            .and_then(|json| serde_json::from_slice::<Claims>(&json).ok());
        match claims {
            None => Self::Unknown,
            Some(claims) if claims.roles.iter().any(|role| role == REQUIRED_ROLE) => Self::Sufficient,
            Some(_) => Self::Missing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(claims: &str) -> Secret {
        Secret::new(format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims)))
    }

    #[test]
    fn roles_are_read_from_the_payload() {
        let of = |claims: &str| Roles::of(&token(claims));
        assert_eq!(
            of(r#"{"roles":["Alert.Read.All","Machine.Read.All"]}"#),
            Roles::Sufficient
        );
        assert_eq!(of(r#"{"roles":["Alert.Read.All"]}"#), Roles::Missing);
        assert_eq!(of(r#"{"aud":"x"}"#), Roles::Missing);
    }

    #[test]
    fn the_roles_of_an_unreadable_token_are_unknown() {
        for opaque in ["opaque", "a.b", "a.!!.c", "a.e30.c.d", "..", "e30.bm90IGpzb24.c"] {
            assert_eq!(Roles::of(&Secret::new(opaque.into())), Roles::Unknown, "{opaque}");
        }
        assert_eq!(Roles::of(&token(r#"{"roles":"Machine.Read.All"}"#)), Roles::Unknown);
    }
}
