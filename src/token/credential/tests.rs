//! Certificates, keys and the assertions that they sign.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jiff::Timestamp;
use ring::signature::{RSA_PSS_2048_8192_SHA256, UnparsedPublicKey};
use rustls_pki_types::pem::{PemObject as _, SectionKind};
use serde_json::Value;
use tokio::time::timeout;
use x509_cert::der::Decode as _;

use super::{ClientAuth, CredentialProvider};
use crate::token::{CertificateFiles, Credential, Error, SecretSource, testing};

const RSA_1: &str = include_str!("testdata/rsa-1.pem");
const RSA_2: &str = include_str!("testdata/rsa-2.pem");

/// A certificate for `key`, in PEM form.
fn certificate(key: &str) -> String {
    let algorithm = &rcgen::PKCS_RSA_SHA256;
    let key = rcgen::KeyPair::from_pkcs8_pem_and_sign_algo(key, algorithm).unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["gateway.example".into()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2027, 1, 15);
    params.self_signed(&key).unwrap().pem()
}

fn elliptic() -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["gateway.example".into()]).unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// The PKCS#1 form is contained in the PKCS#8 form: an octet string at a fixed position for keys of
/// this size.
fn pkcs1(key: &str) -> String {
    let (_, der) = <(SectionKind, Vec<u8>)>::from_pem_slice(key.as_bytes()).unwrap();
    let text = STANDARD.encode(&der[26..]);
    format!("-----BEGIN RSA PRIVATE KEY-----\n{text}\n-----END RSA PRIVATE KEY-----\n")
}

fn of_files(files: CertificateFiles) -> CredentialProvider {
    CredentialProvider::new(Credential::Certificate {
        app: testing::app(),
        files,
    })
}

async fn proof_of(folder: &Path, certificate: &str, key: Option<&str>) -> Result<ClientAuth, Error> {
    let certificate_file = folder.join("tls.crt");
    std::fs::write(&certificate_file, certificate).unwrap();
    let key_file = key.map(|key| {
        let path = folder.join("tls.key");
        std::fs::write(&path, key).unwrap();
        path
    });
    let mut provider = of_files(CertificateFiles {
        certificate: certificate_file,
        private_key: key_file,
    });
    provider.proof(Timestamp::from_second(1_800_000_000).unwrap()).await
}

async fn problem_of(certificate: &str, key: Option<&str>) -> String {
    let folder = tempfile::tempdir().unwrap();
    proof_of(folder.path(), certificate, key).await.unwrap_err().code()
}

/// Checks the signature with the certificate's public key, and returns header and claims.
fn verified(assertion: &str, certificate: &str) -> (Value, Value) {
    let segments: Vec<_> = assertion.split('.').collect();
    let [header, claims, signature] = segments[..] else {
        panic!("not a JWT: {assertion}")
    };
    let (_, der) = <(SectionKind, Vec<u8>)>::from_pem_slice(certificate.as_bytes()).unwrap();
    let parsed = x509_cert::Certificate::from_der(&der).unwrap();
    let public = parsed
        .tbs_certificate()
        .subject_public_key_info()
        .subject_public_key
        .raw_bytes();
    UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, public)
        .verify(
            format!("{header}.{claims}").as_bytes(),
            &URL_SAFE_NO_PAD.decode(signature).unwrap(),
        )
        .expect("the signature must verify");
    let json = |segment: &str| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(segment).unwrap()).unwrap();
    (json(header), json(claims))
}

#[tokio::test]
async fn an_assertion_verifies_and_has_the_claims_that_entra_requires() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = certificate(RSA_1);
    let proof = proof_of(folder.path(), &certificate, Some(RSA_1)).await.unwrap();
    let (header, claims) = verified(proof.secret().expose(), &certificate);

    let (_, der) = <(SectionKind, Vec<u8>)>::from_pem_slice(certificate.as_bytes()).unwrap();
    let thumbprint = URL_SAFE_NO_PAD.encode(ring::digest::digest(&ring::digest::SHA256, &der));
    assert_eq!(
        header,
        serde_json::json!({"alg": "PS256", "typ": "JWT", "x5t#S256": thumbprint})
    );
    assert_eq!(claims["aud"], "https://login.example/contoso.example/oauth2/v2.0/token");
    assert_eq!(claims["iss"], "app-1");
    assert_eq!(claims["sub"], "app-1");
    assert_eq!(claims["nbf"], 1_800_000_000);
    assert_eq!(claims["iat"], 1_800_000_000);
    assert_eq!(claims["exp"], 1_800_000_600);
    assert_eq!(claims["jti"].as_str().unwrap().len(), 22);

    let again = proof_of(folder.path(), &certificate, Some(RSA_1)).await.unwrap();
    let (_, other) = verified(again.secret().expose(), &certificate);
    assert_ne!(claims["jti"], other["jti"], "an assertion is used once");
}

#[tokio::test]
async fn keys_come_in_one_file_or_two_in_either_form_beside_a_chain() {
    let folder = tempfile::tempdir().unwrap();
    let own = certificate(RSA_1);
    let chain = format!("{}{own}", certificate(RSA_2));
    for (certificate_file, key_file) in [
        (format!("{RSA_1}{own}"), None),
        (format!("{own}{}", pkcs1(RSA_1)), None),
        (own.clone(), Some(pkcs1(RSA_1))),
        (chain, Some(RSA_1.to_owned())),
    ] {
        let proof = proof_of(folder.path(), &certificate_file, key_file.as_deref())
            .await
            .unwrap();
        verified(proof.secret().expose(), &own);
    }
}

#[tokio::test]
async fn byte_order_marks_are_dropped_from_certificates_and_keys() {
    let folder = tempfile::tempdir().unwrap();
    let own = certificate(RSA_1);
    let mark = '\u{feff}';
    for (certificate_file, key_file) in [
        (format!("{mark}{own}"), Some(format!("{mark}{RSA_1}"))),
        (format!("{mark}{own}{mark}{}", pkcs1(RSA_1)), None),
        (
            format!("{mark}{}", own.replace('\n', "\r\n")),
            Some(RSA_1.replace('\n', " \r\n")),
        ),
    ] {
        let proof = proof_of(folder.path(), &certificate_file, key_file.as_deref())
            .await
            .unwrap();
        verified(proof.secret().expose(), &own);
    }
    let utf16: Vec<u8> = own.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let path = folder.path().join("utf16.pem");
    std::fs::write(&path, utf16).unwrap();
    let mut provider = of_files(CertificateFiles {
        certificate: path,
        private_key: None,
    });
    let error = provider.proof(Timestamp::UNIX_EPOCH).await.unwrap_err();
    assert_eq!(error.code(), "CredentialFileUnusable");
    assert!(
        error
            .message()
            .ends_with("it is not UTF-8 but UTF-16 text, as Windows PowerShell writes it; save it as UTF-8")
    );
}

#[tokio::test]
async fn unusable_credentials_are_explained() {
    let own = certificate(RSA_1);
    let (elliptic_certificate, elliptic_key) = elliptic();
    let sec1 = elliptic_key.replace("PRIVATE KEY", "EC PRIVATE KEY");
    let encrypted = RSA_1.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    assert_eq!(
        problem_of(&elliptic_certificate, Some(&elliptic_key)).await,
        "PrivateKeyNotRsa"
    );
    assert_eq!(problem_of(&elliptic_certificate, Some(&sec1)).await, "PrivateKeyNotRsa");
    assert_eq!(problem_of(&own, Some(&encrypted)).await, "PrivateKeyEncrypted");
    assert_eq!(problem_of(&own, None).await, "PrivateKeyMissing");
    assert_eq!(problem_of("", Some(RSA_1)).await, "CertificateMissing");
    assert_eq!(problem_of(&own, Some(RSA_2)).await, "PrivateKeyMismatch");
    let cut = &RSA_1[..RSA_1.len() / 2];
    assert_eq!(problem_of(&own, Some(cut)).await, "CredentialFileUnusable");
}

#[tokio::test]
async fn a_files_new_content_is_noticed_through_a_swapped_link() {
    let folder = tempfile::tempdir().unwrap();
    for (version, text) in [("v1", "first\n"), ("v2", "second\n")] {
        std::fs::create_dir(folder.path().join(version)).unwrap();
        std::fs::write(folder.path().join(version).join("secret"), text).unwrap();
    }
    let data = folder.path().join("data");
    std::os::unix::fs::symlink("v1", &data).unwrap();
    let mut provider = CredentialProvider::new(Credential::ClientSecret {
        app: testing::app(),
        secret: SecretSource::File(data.join("secret")),
    });
    let now = Timestamp::UNIX_EPOCH;
    assert_eq!(provider.proof(now).await.unwrap().secret().expose(), "first");
    assert!(!provider.has_changed().await);

    // As Kubernetes does it: a new link is renamed over the old one.
    let fresh = folder.path().join("fresh");
    std::os::unix::fs::symlink("v2", &fresh).unwrap();
    std::fs::rename(&fresh, &data).unwrap();
    assert!(provider.has_changed().await);
    assert_eq!(provider.proof(now).await.unwrap().secret().expose(), "second");
    assert!(!provider.has_changed().await);
}

#[tokio::test]
async fn only_the_file_with_the_key_has_to_be_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let paths = ["tls.crt", "tls.key"].map(|name| folder.path().join(name));
    std::fs::write(&paths[0], certificate(RSA_1)).unwrap();
    std::fs::write(&paths[1], RSA_1).unwrap();
    let mut provider = of_files(CertificateFiles {
        certificate: paths[0].clone(),
        private_key: Some(paths[1].clone()),
    });
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(&paths[0], 0o644);
    mode(&paths[1], 0o600);
    provider.proof(Timestamp::UNIX_EPOCH).await.unwrap();
    assert_eq!(provider.open_file, None);
    mode(&paths[1], 0o644);
    provider.proof(Timestamp::UNIX_EPOCH).await.unwrap();
    assert_eq!(provider.open_file.as_deref(), Some(paths[1].as_path()));
}

#[tokio::test(start_paused = true)]
async fn a_reading_that_hangs_is_waited_for_and_not_begun_again() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "value").unwrap();
    let mut provider = CredentialProvider::new(Credential::ClientSecret {
        app: testing::app(),
        secret: SecretSource::File(file.path().to_owned()),
    });
    let hanging = Arc::clone(&provider.reading).lock_owned().await;
    let limit = Duration::from_secs(5);
    for _ in 0..3 {
        let given_up = timeout(limit, provider.proof(Timestamp::UNIX_EPOCH)).await;
        assert!(given_up.is_err());
    }
    drop(hanging);
    let proof = provider.proof(Timestamp::UNIX_EPOCH).await.unwrap();
    assert_eq!(proof.secret().expose(), "value");
}
