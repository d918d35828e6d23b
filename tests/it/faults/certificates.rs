//! Certificates of the hosts, as good or bad as a test wants them.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject as _};
use tokio_rustls::TlsAcceptor;

/// Two certificate states besides the good one.
pub(crate) struct Certificates {
    pub(super) good: TlsAcceptor,
    pub(super) expired: TlsAcceptor,
    pub(super) other: TlsAcceptor,
}

/// The authority's PEM, and certificates for `name` made by it.
pub(crate) fn certificates(names: &[&str]) -> (String, Vec<Certificates>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let all = names.iter().map(|name| Certificates {
        good: acceptor(&issuer, name, false),
        expired: acceptor(&issuer, name, true),
        other: acceptor(&issuer, "other.test", false),
    });
    (pem, all.collect())
}

fn acceptor(issuer: &Issuer<'_, KeyPair>, name: &str, expired: bool) -> TlsAcceptor {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    if expired {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    }
    let certificate = params.signed_by(&key, issuer).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config).into()
}
