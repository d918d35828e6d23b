//! The access token in use, and its permissions.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use tokio::time::Instant;

use crate::clock;
use crate::secret::Secret;
use crate::token::sign_in::Issued;

/// A token and its generation. Clones share its text.
#[derive(Clone, Debug)]
pub struct Bearer {
    generation: u64,
    secret: Secret,
    expires: Instant,
    usable_until: Instant,
    /// How long the machine had been suspended when it was asked for.
    suspended: Duration,
}

impl Bearer {
    /// A token is no longer used from this long before its expiry, because it has to arrive and
    /// clocks differ.
    const MARGIN: Duration = Duration::from_secs(10);

    /// A token that sign-in has issued; its life began when it was asked for.
    pub(super) fn new(generation: u64, issued: &Issued) -> Self {
        let expires = issued.asked + issued.life;
        Self {
            generation,
            secret: issued.secret.clone(),
            expires,
            // A twentieth, so that tokens of seconds (the simulator's) can be used at all.
            usable_until: expires - Self::MARGIN.min(issued.life / 20),
            suspended: issued.suspended,
        }
    }

    /// The number of the token, counted from 1; a later token has a larger number.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The token itself.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// When the token expires.
    pub fn expires(&self) -> Instant {
        clock::earlier(self.expires, self.slept())
    }

    /// Whether the token may be sent at `now`: true until shortly before it expires.
    pub fn is_usable(&self, now: Instant) -> bool {
        now + self.slept() < self.usable_until
    }

    /// Time that has passed for the token and not for our stopwatch.
    fn slept(&self) -> Duration {
        clock::suspended().saturating_sub(self.suspended)
    }
}

/// The permission to grant: the least that the scan history needs.
pub(super) const REQUIRED_ROLE: &str = "Machine.Read.All";

/// A permission that includes it. Defender accepts either.
const WIDER_ROLE: &str = "Machine.ReadWrite.All";

/// What a token says about its permissions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Roles {
    /// There is no token, or it cannot be read; tokens need not be readable.
    #[default]
    Unknown,
    /// It has `Machine.Read.All` or `Machine.ReadWrite.All`.
    Sufficient,
    /// It has neither.
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
        let segments: Vec<_> = token.expose().split('.').collect();
        let [_, payload, _] = segments[..] else {
            return Self::Unknown;
        };
        let json = URL_SAFE_NO_PAD.decode(payload).unwrap_or_default();
        let Ok(Claims { roles }) = serde_json::from_slice(&json) else {
            return Self::Unknown;
        };
        if roles.iter().any(|role| [REQUIRED_ROLE, WIDER_ROLE].contains(&&**role)) {
            Self::Sufficient
        } else {
            Self::Missing
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
        assert_eq!(of(r#"{"roles":["Machine.ReadWrite.All"]}"#), Roles::Sufficient);
        assert_eq!(of(r#"{"roles":["Alert.Read.All"]}"#), Roles::Missing);
        assert_eq!(of(r#"{"roles":["Machine.Read"]}"#), Roles::Missing);
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
