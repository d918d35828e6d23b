//! Client assertions: certificates' and federated ones.

use std::collections::VecDeque;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use secrecy::ExposeSecret as _;
use serde_json::Value;
use x509_cert::der::Decode as _;

use super::refusal::{AadstsCode, Refusal};
use crate::config::{Assertions, Config};
use crate::record::push;

/// The most remembered values of `jti`; an assertion lives ten minutes at most, and tests make
/// fewer requests in that time.
const REMEMBERED: usize = 10_000;

/// The longest an assertion may be valid, in seconds: the documented upper end of "5 to 10
/// minutes".
const LONGEST: i64 = 600;

/// How far apart the two clocks may be, in seconds.
const SKEW: i64 = 300;

/// A certificate registered with the app.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// SHA-256, as `x5t#S256` names it.
    thumbprint: String,
    /// SHA-1, as `x5t` names it.
    old_thumbprint: String,
    public_key: Vec<u8>,
}

/// The bytes are no X.509 certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an X.509 certificate")]
pub struct NotACertificate;

impl Certificate {
    /// The certificates of a file: PEM, with any other sections, or a single one in DER.
    pub fn from_file(bytes: &[u8]) -> Result<Vec<Self>, NotACertificate> {
        // ASN.1 begins with a sequence.
        if bytes.first() == Some(&0x30) {
            return Ok(vec![Self::from_der(bytes)?]);
        }
        // A byte order mark, as Windows PowerShell writes it, is never meant.
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let found = CertificateDer::pem_slice_iter(text).map(|der| Self::from_der(&der.map_err(|_| NotACertificate)?));
        let found: Vec<_> = found.collect::<Result<_, _>>()?;
        if found.is_empty() {
            Err(NotACertificate)
        } else {
            Ok(found)
        }
    }

    /// A certificate from its DER bytes.
    pub fn from_der(der: &[u8]) -> Result<Self, NotACertificate> {
        let parsed = x509_cert::Certificate::from_der(der).map_err(|_| NotACertificate)?;
        let key = parsed.tbs_certificate().subject_public_key_info();
        let thumbprint = |algorithm| URL_SAFE_NO_PAD.encode(ring::digest::digest(algorithm, der));
        Ok(Self {
            thumbprint: thumbprint(&ring::digest::SHA256),
            old_thumbprint: thumbprint(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY),
            public_key: key.subject_public_key.as_bytes().ok_or(NotACertificate)?.to_vec(),
        })
    }
}

/// The `jti` of assertions that may be used once, the oldest first.
#[derive(Debug, Default)]
pub(super) struct UsedAssertions(VecDeque<String>);

/// Whether the assertion's header contains a certificate's thumbprint.
pub(super) fn is_self_signed(assertion: &str) -> bool {
    assertion
        .split('.')
        .next()
        .and_then(json)
        .is_some_and(|header| header.get("x5t#S256").is_some() || header.get("x5t").is_some())
}

/// Checks that the assertion was made by the app for `endpoint`.
pub(super) fn check(
    assertion: &str,
    endpoint: &str,
    config: &Config,
    used: &mut UsedAssertions,
) -> Result<(), Refusal> {
    if config
        .federated_token
        .as_ref()
        .is_some_and(|token| token.expose_secret() == assertion)
    {
        return Ok(());
    }
    if !is_self_signed(assertion) {
        return Err(AadstsCode::NO_FEDERATION.into());
    }
    let malformed = |what: &str| Refusal::about(AadstsCode::BAD_ASSERTION, what);
    let (signed, signature) = assertion.rsplit_once('.').ok_or_else(|| malformed("signature"))?;
    let (header, claims) = signed.split_once('.').ok_or_else(|| malformed("payload"))?;
    let header = json(header).ok_or_else(|| malformed("header"))?;
    let claims = json(claims).ok_or_else(|| malformed("payload"))?;
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| malformed("signature"))?;
    check_signature(&config.certificates, &header, signed.as_bytes(), &signature)?;
    check_claims(&claims, endpoint, config)?;
    match config.sign_in.assertions {
        Assertions::Once => used.use_once(claims["jti"].as_str().unwrap_or_default()),
        Assertions::UntilExpiry => Ok(()),
    }
}

fn check_signature(
    certificates: &[Certificate],
    header: &Value,
    signed: &[u8],
    signature: &[u8],
) -> Result<(), Refusal> {
    let algorithm: &'static dyn VerificationAlgorithm = match header["alg"].as_str() {
        Some("PS256") => &RSA_PSS_2048_8192_SHA256,
        Some("RS256") => &RSA_PKCS1_2048_8192_SHA256,
        _ => return Err(Refusal::about(AadstsCode::BAD_ASSERTION, "alg")),
    };
    if header.get("typ").is_some_and(|typ| typ != "JWT") {
        return Err(Refusal::about(AadstsCode::BAD_ASSERTION, "typ"));
    }
    let named = |certificate: &&Certificate| {
        let thumbprints = [
            ("x5t#S256", &certificate.thumbprint),
            ("x5t", &certificate.old_thumbprint),
        ];
        // The header has a thumbprint, as was checked before, and each in it has to be the
        // certificate's.
        thumbprints.iter().all(|(name, own)| {
            header
                .get(*name)
                .is_none_or(|value| thumbprint(value).as_ref() == Some(*own))
        })
    };
    let unknown = || Refusal::about(AadstsCode::BAD_SIGNATURE, "x5t#S256, x5t");
    let certificate = certificates.iter().find(named).ok_or_else(unknown)?;
    UnparsedPublicKey::new(algorithm, &certificate.public_key)
        .verify(signed, signature)
        .map_err(|_| AadstsCode::BAD_SIGNATURE.into())
}

impl UsedAssertions {
    fn use_once(&mut self, jti: &str) -> Result<(), Refusal> {
        if self.0.iter().any(|used| used == jti) {
            return Err(Refusal::about(AadstsCode::BAD_ASSERTION, "jti was used before"));
        }
        push(&mut self.0, jti.into(), REMEMBERED);
        Ok(())
    }
}

fn check_claims(claims: &Value, endpoint: &str, config: &Config) -> Result<(), Refusal> {
    if claims["aud"] != endpoint {
        return Err(Refusal::about(AadstsCode::BAD_AUDIENCE, "aud"));
    }
    for name in ["iss", "sub"] {
        if claims[name] != config.client_id {
            return Err(Refusal::about(AadstsCode::BAD_AUDIENCE, name));
        }
    }
    if claims["jti"].as_str().is_none_or(str::is_empty) {
        return Err(Refusal::about(AadstsCode::BAD_ASSERTION, "jti"));
    }
    // RFC 7519 §2 allows fractions, and MSAL for Python sends them.
    let second = |name: &str| {
        #[expect(clippy::cast_possible_truncation, reason = "a cast of a float saturates")]
        let whole = claims[name].as_f64().map(|second| second.floor() as i64);
        whole.ok_or_else(|| Refusal::about(AadstsCode::BAD_TIME, name))
    };
    // One of Microsoft's own libraries sends the time of issue only.
    let from = if claims.get("nbf").is_some() { "nbf" } else { "iat" };
    let (from, until, now) = (second(from)?, second("exp")?, jiff::Timestamp::now().as_second());
    if from > now.saturating_add(SKEW) {
        return Err(Refusal::about(AadstsCode::BAD_TIME, "nbf"));
    }
    if until <= now.saturating_sub(SKEW) || until.saturating_sub(from) > LONGEST {
        return Err(Refusal::about(AadstsCode::BAD_TIME, "exp"));
    }
    Ok(())
}

/// A thumbprint in URL-safe Base64. One of Microsoft's own libraries sends the standard alphabet,
/// so both are accepted.
fn thumbprint(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    let bytes = STANDARD
        .decode(text)
        .or_else(|_| URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')));
    bytes.ok().map(|bytes| URL_SAFE_NO_PAD.encode(bytes))
}

fn json(segment: &str) -> Option<Value> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(segment).ok()?).ok()
}
