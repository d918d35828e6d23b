//! TLS settings and trusted certificates.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject as _};

use crate::net::SetupError;
use crate::plain_text;

/// HTTP/2 first, HTTP/1.1 as the alternative.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The TLS settings of the pooled client: Mozilla's roots plus those of `ca_file`, TLS 1.2 and 1.3,
/// HTTP/2 offered.
///
/// # Errors
///
/// When the CA file cannot be read, contains no certificate, or an invalid one.
pub(super) fn client_config(ca_file: Option<&Path>) -> Result<ClientConfig, SetupError> {
    let mut roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    if let Some(path) = ca_file {
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(SetupError::Tls)?;
        }
    }
    with_roots(roots)
}

/// The same, but only the certificates of a PEM text are trusted.
///
/// # Errors
///
/// When the text contains no certificate, or an invalid one.
pub(super) fn client_config_of(ca_text: &[u8]) -> Result<ClientConfig, SetupError> {
    let text = plain_text::pem(ca_text)
        .map_err(|malformed| SetupError::CaText(pem::Error::Io(io::Error::other(malformed))))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(SetupError::CaText)?;
    if found.is_empty() {
        return Err(SetupError::CaTextEmpty);
    }
    let mut roots = RootCertStore::empty();
    for certificate in found {
        roots.add(certificate).map_err(SetupError::Tls)?;
    }
    with_roots(roots)
}

/// The same settings without HTTP/2.
pub(super) fn http1_only(config: &ClientConfig) -> ClientConfig {
    let mut config = config.clone();
    config.alpn_protocols.retain(|protocol| protocol != b"h2");
    config
}

fn with_roots(roots: RootCertStore) -> Result<ClientConfig, SetupError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(SetupError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let read = || -> Result<Vec<_>, pem::Error> {
        let bytes = std::fs::read(path).map_err(pem::Error::Io)?;
        let text = plain_text::pem(&bytes).map_err(|malformed| pem::Error::Io(io::Error::other(malformed)))?;
        CertificateDer::pem_slice_iter(&text).collect()
    };
    let found = read().map_err(|cause| SetupError::CaFile {
        path: path.to_owned(),
        cause,
    })?;
    if found.is_empty() {
        return Err(SetupError::CaFileEmpty(path.to_owned()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    #[test]
    fn a_ca_file_must_exist_and_hold_certificates() {
        assert!(matches!(
            client_config(Some(Path::new("/nonexistent"))),
            Err(SetupError::CaFile { .. })
        ));
        assert!(matches!(
            client_config(Some(file("not PEM").path())),
            Err(SetupError::CaFileEmpty(_))
        ));
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(
            client_config(Some(file(broken).path())),
            Err(SetupError::Tls(_))
        ));
    }

    #[test]
    fn a_ca_text_must_hold_certificates() {
        assert!(matches!(client_config_of(b"not PEM"), Err(SetupError::CaTextEmpty)));
        let broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(client_config_of(broken), Err(SetupError::Tls(_))));
        let cut = b"-----BEGIN CERTIFICATE-----\nAAAA\n";
        assert!(matches!(client_config_of(cut), Err(SetupError::CaText(_))));
    }

    #[test]
    fn http2_is_offered_first() {
        assert_eq!(
            client_config(None).unwrap().alpn_protocols,
            [b"h2".to_vec(), b"http/1.1".to_vec()]
        );
    }
}
