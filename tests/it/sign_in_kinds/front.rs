//! A TLS front for a host of the simulator, and the authority that its certificate comes from.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use url::Url;

use defender_gateway::testing::task::Tasks;

/// Makes certificates.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(super) pem: String,
}

impl Authority {
    pub(super) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// A front with a certificate for `name` that passes everything on to `behind`.
    pub(super) async fn front(&self, name: &str, behind: &Url) -> Front {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        // The simulator knows by the first bytes which one it is.
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Front::start(Arc::new(config).into(), behind.socket_addrs(|| None).unwrap()[0]).await
    }
}

/// A running front; ends when dropped.
pub(super) struct Front {
    pub(super) address: SocketAddr,
    names: Arc<Mutex<Vec<Option<String>>>>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Front {
    async fn start(acceptor: TlsAcceptor, behind: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let names: Arc<Mutex<Vec<_>>> = Arc::default();
        let seen = Arc::clone(&names);
        let tasks = Tasks::new();
        let connections = tasks.clone();
        let accepting = tasks.spawn("front", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
                connections.spawn("connection", async move {
                    let Ok(mut near) = acceptor.accept(stream).await else {
                        return;
                    };
                    let name = near.get_ref().1.server_name().map(str::to_owned);
                    seen.lock().unwrap().push(name);
                    let mut far = TcpStream::connect(behind).await.unwrap();
                    // However the connection ends, it ends.
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        Self {
            address,
            names,
            accepting,
        }
    }

    pub(super) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The server names that clients asked for, one for each connection.
    pub(super) fn names(&self) -> Vec<Option<String>> {
        self.names.lock().unwrap().clone()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
