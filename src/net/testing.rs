//! Hosts that misbehave on purpose, and names that resolve to them.

use std::collections::HashMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, pem::PemObject as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::memory::Exhausted;
use crate::net::{Client, Config, ConnectError, Error, Kind, Resolver, Step};
use crate::task::Tasks;

/// The failure of an exchange with `authority` that found no connection.
pub(crate) fn no_connection(authority: &str) -> Error {
    let authority = authority.into();
    let cause = ConnectError::timed_out(&authority, Step::Dial);
    Error::new(&authority, Kind::Connect(cause))
}

/// The failure of an exchange with `authority` that got no answer.
pub(crate) fn no_answer(authority: &str) -> Error {
    Error::new(&authority.into(), Kind::HeadTimeout)
}

/// The failure of an exchange with `authority` whose connection was lost.
pub(crate) fn lost(authority: &str) -> Error {
    Error::new(&authority.into(), Kind::BodyLost("reset".into()))
}

/// The failure of an exchange with `authority` whose answer there was no memory for.
pub(crate) fn no_memory(authority: &str) -> Error {
    Error::new(&authority.into(), Kind::NoMemory(Exhausted { of: "tests" }))
}

/// The failure of an exchange with `authority` whose answer was too long.
pub(crate) fn too_large(authority: &str) -> Error {
    Error::new(&authority.into(), Kind::BodyTooLarge { limit_bytes: 1000 })
}

/// Listens on a port of its own and runs `each` for every connection.
pub(crate) async fn listen<F, Fut>(each: F) -> SocketAddr
where
    F: Fn(TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = Tasks::new();
    tasks.clone().spawn("listener", async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            tasks.spawn("connection", each(stream));
        }
    });
    address
}

/// A port on which connecting is refused.
pub(crate) async fn refused() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

/// A port at which packets vanish: its backlog is full, so the kernel drops every further SYN. It
/// exists as long as the value.
pub(crate) struct BlackHole {
    pub(crate) address: SocketAddr,
    _listener: socket2::Socket,
    _backlog: Vec<TcpStream>,
}

impl BlackHole {
    pub(crate) async fn new() -> Self {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut backlog = Vec::new();
        while let Ok(stream) = tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
            backlog.push(stream.unwrap());
            assert!(backlog.len() < 64, "the backlog never fills");
        }
        Self {
            address,
            _listener: listener,
            _backlog: backlog,
        }
    }
}

/// The responses of an [`Http`] host.
pub(crate) type Handler = Arc<dyn Fn(&Request<Incoming>) -> Response<Full<Bytes>> + Send + Sync>;

/// A well-behaved HTTP/1.1 and HTTP/2 host that counts.
#[derive(Clone)]
pub(crate) struct Http {
    handler: Handler,
    pub(crate) connections: Arc<AtomicUsize>,
    pub(crate) requests: Arc<AtomicUsize>,
    tls: Option<TlsAcceptor>,
}

impl Http {
    pub(crate) fn new(handler: impl Fn(&Request<Incoming>) -> Response<Full<Bytes>> + Send + Sync + 'static) -> Self {
        Self {
            handler: Arc::new(handler),
            connections: Arc::default(),
            requests: Arc::default(),
            tls: None,
        }
    }

    /// Answers every request with 200 and `text`.
    pub(crate) fn saying(text: &'static str) -> Self {
        Self::new(move |_| Response::new(Full::from(text)))
    }

    pub(crate) fn tls(self, config: Arc<ServerConfig>) -> Self {
        Self {
            tls: Some(config.into()),
            ..self
        }
    }

    pub(crate) async fn start(&self) -> SocketAddr {
        let host = self.clone();
        listen(move |stream| host.clone().serve(stream)).await
    }

    pub(crate) async fn serve(self, stream: TcpStream) {
        self.connections.fetch_add(1, Ordering::SeqCst);
        match &self.tls {
            Some(tls) => {
                if let Ok(stream) = tls.accept(stream).await {
                    self.http(stream).await;
                }
            }
            None => self.http(stream).await,
        }
    }

    pub(crate) async fn http(&self, io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let service = hyper::service::service_fn(|request| {
            self.requests.fetch_add(1, Ordering::SeqCst);
            let answer = (self.handler)(&request);
            async move { Ok::<_, std::convert::Infallible>(answer) }
        });
        // Some tests close the connection early.
        let _ = auto::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(io), service)
            .await;
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// When a certificate is valid.
#[derive(Clone, Copy)]
pub(crate) enum Validity {
    Now,
    Past,
}

/// A certificate authority for one test.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    file: tempfile::NamedTempFile,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(certificate.pem().as_bytes()).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            file,
        }
    }

    /// A server's settings with a certificate for `name`, offering HTTP/2 and HTTP/1.1.
    pub(crate) fn server(&self, name: &str, validity: Validity) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        if matches!(validity, Validity::Past) {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        }
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }

    /// Client settings that trust this authority, with short timeouts.
    pub(crate) fn config(&self) -> Config {
        Config {
            ca_file: Some(self.file.path().to_owned()),
            ..quick()
        }
    }
}

/// Client settings with short timeouts.
pub(crate) fn quick() -> Config {
    Config {
        connect_timeout: Duration::from_millis(800),
        ..Config::default()
    }
}

/// A client that resolves hosts by `names`.
pub(crate) fn client(config: &Config, names: &Names) -> Client {
    Client::with_resolver(config, names.resolver()).unwrap()
}

/// Names and their addresses, ports included, which can be changed.
#[derive(Clone, Default)]
pub(crate) struct Names(Arc<Mutex<HashMap<String, Vec<SocketAddr>>>>);

impl Names {
    pub(crate) fn new<const N: usize>(names: [(&str, SocketAddr); N]) -> Self {
        let new = Self::default();
        for (name, address) in names {
            new.set(name, vec![address]);
        }
        new
    }

    /// Without addresses, the name is unknown.
    pub(crate) fn set(&self, name: &str, addresses: Vec<SocketAddr>) {
        self.0.lock().unwrap().insert(name.to_owned(), addresses);
    }

    pub(crate) fn resolver(&self) -> Resolver {
        let names = self.clone();
        Resolver::with(Arc::new(move |name, _| {
            let found = names.0.lock().unwrap().get(&name).cloned().unwrap_or_default();
            Box::pin(async move { Ok(found) })
        }))
    }
}
