//! Whom to trust, and what to show, on connections with TLS.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::error::Error;

/// What the files hold, in PEM.
pub(super) struct Pem {
    /// The only authorities to trust, instead of Mozilla's.
    pub(super) authorities: Option<Vec<u8>>,
    /// Certificate and private key to show.
    pub(super) own: Option<Vec<u8>>,
}

/// TLS 1.2 and 1.3.
///
/// # Errors
/// [`Error::Pem`] or [`Error::Tls`] when a file holds something else than it should.
pub(super) fn config(pem: &Pem) -> Result<Arc<ClientConfig>, Error> {
    let mut roots = RootCertStore::empty();
    match &pem.authorities {
        Some(text) => {
            for certificate in certificates("store.ca_file", text)? {
                roots.add(certificate)?;
            }
        }
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let key = "store.certificate_file";
    Ok(Arc::new(match &pem.own {
        Some(text) => {
            let private = PrivateKeyDer::from_pem_slice(text).map_err(|_| Error::Pem { key })?;
            config.with_client_auth_cert(certificates(key, text)?, private)?
        }
        None => config.with_no_client_auth(),
    }))
}

fn certificates(key: &'static str, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    // What stands there is not repeated: it may be a key.
    found.ok().filter(|found| !found.is_empty()).ok_or(Error::Pem { key })
}
