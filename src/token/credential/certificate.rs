//! A certificate with its private key.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::rand::SystemRandom;
use ring::signature::{KeyPair as _, RSA_PSS_SHA256, RsaKeyPair};
use rustls_pki_types::pem::{PemObject as _, SectionKind};
use secrecy::zeroize::Zeroizing;
use x509_cert::Certificate as X509;
use x509_cert::der::Decode as _;

use crate::secret::Secret;
use crate::token::credential::file::Content;
use crate::token::{App, CertificateFiles, Error, Problem};

/// An RSA certificate that can sign.
pub(super) struct Certificate {
    key: RsaKeyPair,
    /// SHA-256 over the DER form, by which Entra finds the certificate among those of the app.
    pub(super) thumbprint: [u8; 32],
    /// Entra rejects it after this moment.
    pub(super) expires: Timestamp,
}

impl Certificate {
    /// Reads certificate and key from `files`, in any order, and checks that they belong together.
    pub(super) fn from_pem(files: &[Content]) -> Result<Self, Error> {
        let mut certificates = Vec::new();
        let mut key = None;
        for file in files {
            for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(&file.pem()?) {
                let (kind, der) = section
                    .map_err(|_| Error::unusable(Problem::FileUnusable, file.note("its PEM form is damaged")))?;
                match kind {
                    SectionKind::Certificate => certificates.push(der),
                    SectionKind::PrivateKey => key = Some(rsa(file, RsaKeyPair::from_pkcs8(&Zeroizing::new(der)))?),
                    SectionKind::RsaPrivateKey => key = Some(rsa(file, RsaKeyPair::from_der(&Zeroizing::new(der)))?),
                    SectionKind::EcPrivateKey => {
                        drop(Zeroizing::new(der));
                        return Err(Error::unusable(
                            Problem::KeyNotRsa,
                            file.note("it holds an elliptic-curve key"),
                        ));
                    }
                    _ => {}
                }
            }
        }
        if certificates.is_empty() {
            return Err(Error::unusable(Problem::NoCertificate, names(files)));
        }
        let Some(key) = key else {
            return Err(Error::unusable(without_key(files), names(files)));
        };
        Self::matching(key, &certificates).ok_or_else(|| Error::unusable(Problem::KeyMismatch, names(files)))
    }

    /// The certificate of the key, among those of a chain.
    fn matching(key: RsaKeyPair, certificates: &[Vec<u8>]) -> Option<Self> {
        let own = certificates.iter().find_map(|der| {
            let parsed = X509::from_der(der).ok()?;
            let certificate = parsed.tbs_certificate();
            let public = certificate.subject_public_key_info().subject_public_key.raw_bytes();
            (public == key.public_key().as_ref()).then(|| {
                let seconds = certificate.validity().not_after.to_unix_duration().as_secs();
                (der, i64::try_from(seconds).unwrap_or(i64::MAX))
            })
        });
        let (der, expires) = own?;
        let mut thumbprint = [0; 32];
        thumbprint.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, der).as_ref());
        Some(Self {
            key,
            thumbprint,
            expires: Timestamp::from_second(expires).unwrap_or(Timestamp::MAX),
        })
    }
}

impl CertificateFiles {
    /// Reads certificate and key as sign-in does, and returns until when the certificate is valid.
    ///
    /// # Errors
    ///
    /// The error that sign-in would have.
    pub fn expiry(&self) -> Result<Timestamp, Error> {
        let files: Vec<_> = self.paths().map(Content::of).collect();
        Ok(Certificate::from_pem(&files)?.expires)
    }

    /// The last one has the key.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(&*self.certificate).chain(self.private_key.as_deref())
    }
}

fn rsa(file: &Content, key: Result<RsaKeyPair, ring::error::KeyRejected>) -> Result<RsaKeyPair, Error> {
    // The reason is a word such as `WrongAlgorithm` or `TooSmall`, never part of the key.
    key.map_err(|reason| Error::unusable(Problem::KeyNotRsa, file.note(reason)))
}

fn names(files: &[Content]) -> String {
    let names: Vec<_> = files.iter().map(|file| file.path().display().to_string()).collect();
    names.join(", ")
}

/// Why no key was found: a key with a passphrase has a PEM label of its own.
fn without_key(files: &[Content]) -> Problem {
    let label = b"ENCRYPTED PRIVATE KEY";
    let encrypted = files
        .iter()
        .filter_map(|file| file.bytes().ok())
        .any(|bytes| bytes.windows(label.len()).any(|window| window == label));
    if encrypted {
        Problem::KeyEncrypted
    } else {
        Problem::NoPrivateKey
    }
}

/// Entra recommends 5 to 10 minutes. The longer it is, the more a wrong clock is tolerated.
const LIFE: Duration = Duration::from_mins(10);

/// An assertion that is valid from `now` on, signed with RSASSA-PSS over SHA-256 (`PS256`, RFC 7518
/// §3.5). `None` if the operating system yields no randomness.
pub(super) fn signed_assertion(certificate: &Certificate, app: &App, now: Timestamp) -> Option<Secret> {
    let header = serde_json::json!({
        "alg": "PS256",
        "typ": "JWT",
        "x5t#S256": URL_SAFE_NO_PAD.encode(certificate.thumbprint),
    });
    let seconds = now.as_second();
    let claims = serde_json::json!({
        "aud": app.endpoint.as_str(),
        "iss": app.client_id,
        "sub": app.client_id,
        // Unique, so that an assertion cannot be replayed.
        "jti": URL_SAFE_NO_PAD.encode(rand::random::<[u8; 16]>()),
        "iat": seconds,
        "nbf": seconds,
        "exp": seconds.saturating_add_unsigned(LIFE.as_secs()),
    });
    let mut token = format!("{}.{}", encoded(&header), encoded(&claims));
    let mut signature = vec![0; certificate.key.public().modulus_len()];
    let random = SystemRandom::new();
    let signed = certificate
        .key
        .sign(&RSA_PSS_SHA256, &random, token.as_bytes(), &mut signature);
    signed.ok()?;
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut token);
    Some(Secret::new(token))
}

fn encoded(value: &serde_json::Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}
