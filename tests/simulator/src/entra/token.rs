//! Access tokens: JWTs that only this simulator can issue.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde::{Deserialize, Serialize};

use crate::rng::Rng;

/// The claims of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    pub(crate) aud: String,
    pub(crate) iss: String,
    pub(crate) iat: i64,
    pub(crate) nbf: i64,
    pub(crate) exp: i64,
    pub(crate) appid: String,
    pub(crate) tid: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) roles: Vec<String>,
    /// The token's id in records, which must not contain the token itself.
    pub(crate) uti: String,
    pub(crate) ver: String,
    /// The number of revocations, so that tokens from before the last one are recognised.
    pub(crate) xms_era: u32,
}

/// Why a token is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadToken {
    #[error("the token is malformed")]
    Malformed,
    #[error("the token's signature is invalid")]
    Forged,
    #[error("the token is not valid yet")]
    Early,
    #[error("the token is expired")]
    Expired,
    #[error("the token is revoked")]
    Revoked,
}

/// Issues and verifies tokens.
#[derive(Debug)]
pub(crate) struct Mint {
    key: hmac::Key,
    /// That new tokens belong to.
    pub(super) era: u32,
}

impl Mint {
    pub(crate) fn new(seed: u64) -> Self {
        let key = Rng::for_text(seed, "token signing key").hex(64);
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()),
            era: 0,
        }
    }

    /// Makes all existing tokens invalid.
    pub(crate) fn revoke_all(&mut self) {
        self.era += 1;
    }

    /// A token with `claims`.
    pub(crate) fn issue(&self, claims: &Claims) -> String {
        let header = URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT","alg":"HS256"}"#);
        let payload = URL_SAFE_NO_PAD.encode(serde_json::json!(claims).to_string());
        let signed = format!("{header}.{payload}");
        let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&self.key, signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    /// The claims of `token`, verified at `now` in Unix seconds.
    pub(crate) fn read(&self, token: &str, now: i64) -> Result<Claims, BadToken> {
        let (signed, signature) = token.rsplit_once('.').ok_or(BadToken::Malformed)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| BadToken::Malformed)?;
        hmac::verify(&self.key, signed.as_bytes(), &signature).map_err(|_| BadToken::Forged)?;
        let (_, payload) = signed.split_once('.').ok_or(BadToken::Malformed)?;
        let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| BadToken::Malformed)?;
        let claims: Claims = serde_json::from_slice(&payload).map_err(|_| BadToken::Malformed)?;
        match &claims {
            claims if claims.xms_era < self.era => Err(BadToken::Revoked),
            claims if now < claims.nbf => Err(BadToken::Early),
            claims if now >= claims.exp => Err(BadToken::Expired),
            _ => Ok(claims),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        Claims {
            aud: "https://api.securitycenter.microsoft.com".into(),
            iss: "https://sts.windows.net/t/".into(),
            iat: 1_000,
            nbf: 1_000,
            exp: 1_100,
            appid: "a".into(),
            tid: "t".into(),
            roles: vec!["Machine.Read.All".into()],
            uti: "u".into(),
            ver: "1.0".into(),
            xms_era: 0,
        }
    }

    #[test]
    fn a_token_is_good_for_its_time_only() {
        let mint = Mint::new(1);
        let token = mint.issue(&claims());
        assert_eq!(token.split('.').count(), 3);
        assert_eq!(mint.read(&token, 999), Err(BadToken::Early));
        assert_eq!(mint.read(&token, 1_099), Ok(claims()));
        assert_eq!(mint.read(&token, 1_100), Err(BadToken::Expired));
    }

    #[test]
    fn only_tokens_of_this_mint_are_good() {
        let mint = Mint::new(1);
        assert_eq!(mint.read(&Mint::new(2).issue(&claims()), 1_050), Err(BadToken::Forged));
        let token = mint.issue(&claims());
        for (bad, why) in [
            (token.replace('.', ""), BadToken::Malformed),
            (format!("{token}!"), BadToken::Malformed),
            (format!("x{token}"), BadToken::Forged),
            (String::new(), BadToken::Malformed),
        ] {
            assert_eq!(mint.read(&bad, 1_050), Err(why), "{bad}");
        }
    }

    #[test]
    fn revoked_tokens_are_bad_and_later_ones_good() {
        let mut mint = Mint::new(1);
        let token = mint.issue(&claims());
        mint.revoke_all();
        assert_eq!(mint.read(&token, 1_050), Err(BadToken::Revoked));
        let later = Claims {
            xms_era: mint.era,
            ..claims()
        };
        assert!(mint.read(&mint.issue(&later), 1_050).is_ok());
    }
}
