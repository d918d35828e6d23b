//! The signed assertion that replaces a secret (RFC 7523, in the form that Entra requires).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;

use super::certificate::Certificate;
use crate::secret::Secret;
use crate::token::App;

/// Entra recommends 5 to 10 minutes. The longer it is, the more a wrong clock is tolerated.
const LIFE: Duration = Duration::from_mins(10);

/// Signs an assertion that is valid from `now` on. `None` if the operating system yields no
/// randomness.
pub(super) fn sign(certificate: &Certificate, app: &App, now: Timestamp) -> Option<Secret> {
    let header = serde_json::json!({
        "alg": "PS256",
        "typ": "JWT",
        "x5t#S256": URL_SAFE_NO_PAD.encode(certificate.thumbprint),
    });
    let seconds = now.as_second();
    let claims = serde_json::json!({
        "aud": app.endpoint().as_str(),
        "iss": app.client_id(),
        "sub": app.client_id(),
        // Unique, so that an assertion cannot be replayed.
        "jti": URL_SAFE_NO_PAD.encode(rand::random::<[u8; 16]>()),
        "iat": seconds,
        "nbf": seconds,
        "exp": seconds.saturating_add_unsigned(LIFE.as_secs()),
    });
    let mut token = format!("{}.{}", encoded(&header), encoded(&claims));
    let signature = certificate.sign(token.as_bytes())?;
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut token);
    Some(Secret::new(token))
}

fn encoded(value: &serde_json::Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}
