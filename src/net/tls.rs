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
    let roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    let Some(path) = ca_file else {
        return trusting(roots, []);
    };
    let found = std::fs::read(path)
        .map_err(pem::Error::Io)
        .and_then(|text| certificates(&text));
    let found = found.map_err(|cause| SetupError::CaFile {
        path: path.to_owned(),
        cause,
    })?;
    if found.is_empty() {
        return Err(SetupError::CaFileEmpty(path.to_owned()));
    }
    trusting(roots, found)
}

/// The same, but only the certificates of a PEM text are trusted.
///
/// # Errors
///
/// When the text contains no certificate, or an invalid one.
pub(super) fn client_config_of(ca_text: &[u8]) -> Result<ClientConfig, SetupError> {
    let found = certificates(ca_text).map_err(SetupError::CaText)?;
    if found.is_empty() {
        return Err(SetupError::CaTextEmpty);
    }
    trusting(RootCertStore::empty(), found)
}

/// The same settings without HTTP/2.
pub(super) fn http1_only(config: &ClientConfig) -> ClientConfig {
    let mut config = config.clone();
    config.alpn_protocols.retain(|protocol| protocol != b"h2");
    config
}

fn trusting(
    mut roots: RootCertStore,
    further: impl IntoIterator<Item = CertificateDer<'static>>,
) -> Result<ClientConfig, SetupError> {
    for certificate in further {
        roots.add(certificate).map_err(SetupError::Tls)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(SetupError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    Ok(config)
}

fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, pem::Error> {
    let text = plain_text::pem(text).map_err(|malformed| pem::Error::Io(io::Error::other(malformed)))?;
    CertificateDer::pem_slice_iter(&text).collect()
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
