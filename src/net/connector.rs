//! Sets up connections, for the pool and for the probes that measure round-trip times.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use url::Url;

use crate::net::dial::dial;
use crate::net::proxy::open_tunnel;
use crate::net::{Config, ConnectError, Proxy, Resolver, SetupError, Step, tls};

/// The beginning of cleartext HTTP/2 with prior knowledge (RFC 9113 §3.3): the preface and an empty
/// SETTINGS frame.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

/// How long the orderly shutdown of a probe's connection may take.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(100);

/// Sets up connections. Clones are cheap and share the resolver's memory and the TLS sessions.
#[derive(Clone)]
pub struct Connector {
    shared: Arc<Shared>,
}

#[derive(Clone)]
struct Shared {
    resolver: Resolver,
    tls: Arc<ClientConfig>,
    /// Without HTTP/2, for hosts that asked for that.
    http1_tls: Arc<ClientConfig>,
    /// Without session resumption, so that every probe measures the same work.
    probe_tls: Arc<ClientConfig>,
    proxy: Option<Proxy>,
    /// Requested and checked instead of the address's host.
    server_name: Option<ServerName<'static>>,
    /// The protocol for `http` addresses.
    cleartext: Protocol,
    timeout: Duration,
    receive_buffer: Option<u32>,
}

/// Bytes in both directions: TCP, TLS over TCP, or TLS over a tunnel.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// The protocol to be spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// A connection that is ready for HTTP.
pub(super) struct Stream {
    pub(super) io: TokioIo<Box<dyn Duplex>>,
    pub(super) protocol: Protocol,
    pub(super) peer: Arc<Peer>,
    /// How long it took from the known address to here.
    pub(super) setup: Duration,
}

/// The address that a connection leads to, which is the host's or the proxy's.
pub(super) struct Peer {
    resolver: Resolver,
    host: String,
    port: u16,
    address: SocketAddr,
    is_proxy: bool,
}

impl Peer {
    pub(super) fn new(resolver: &Resolver, host: &str, port: u16, address: SocketAddr) -> Self {
        Self {
            resolver: resolver.clone(),
            host: host.to_owned(),
            port,
            address,
            is_proxy: false,
        }
    }

    fn worked(&self) {
        self.resolver.record_success(&self.host, self.port, self.address);
    }

    /// It took the connection, and what was to follow failed. What fails behind a proxy says
    /// nothing about that.
    pub(super) fn failed(&self) {
        if !self.is_proxy {
            self.record_failure();
        }
    }

    fn record_failure(&self) {
        self.resolver.record_failed_address(&self.host, self.port, self.address);
    }
}

/// The versions of HTTP that are offered to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// HTTP/2 and HTTP/1.1.
    All,
    /// HTTP/1.1 alone.
    Http1,
}

impl Connector {
    /// A connector; `resolver` is [`Resolver::system`] outside tests.
    ///
    /// # Errors
    ///
    /// When the CA file is unusable.
    pub fn new(config: &Config, resolver: Resolver) -> Result<Self, SetupError> {
        let tls = tls::client_config(config.ca_file.as_deref())?;
        let mut probe_tls = tls.clone();
        probe_tls.resumption = rustls::client::Resumption::disabled();
        Ok(Self {
            shared: Arc::new(Shared {
                resolver,
                http1_tls: Arc::new(tls::http1_only(&tls)),
                tls: Arc::new(tls),
                probe_tls: Arc::new(probe_tls),
                proxy: config.proxy.clone(),
                server_name: None,
                cleartext: Protocol::Http1,
                timeout: config.connect_timeout,
                receive_buffer: config.receive_buffer,
            }),
        })
    }

    /// The same connector without the proxy.
    pub(super) fn direct(&self) -> Self {
        let mut other = self.clone();
        Arc::make_mut(&mut other.shared).proxy = None;
        other
    }

    /// The same connector, speaking HTTP/2 to `http` addresses.
    pub(super) fn cleartext_http2(&self) -> Self {
        let mut other = self.clone();
        Arc::make_mut(&mut other.shared).cleartext = Protocol::Http2;
        other
    }

    /// The same connector for one particular server: `ca_text` (PEM), if given, replaces all
    /// trusted certificates, and `server_name` is requested and checked instead of the address's
    /// host.
    pub(super) fn for_peer(&self, ca_text: Option<&[u8]>, server_name: Option<&str>) -> Result<Self, SetupError> {
        let mut other = self.clone();
        let shared = Arc::make_mut(&mut other.shared);
        if let Some(text) = ca_text {
            let tls = tls::client_config_of(text)?;
            shared.http1_tls = Arc::new(tls::http1_only(&tls));
            shared.tls = Arc::new(tls);
        }
        if let Some(name) = server_name {
            let parsed = ServerName::try_from(name.to_owned());
            shared.server_name = Some(parsed.map_err(|_| SetupError::ServerName(name.to_owned()))?);
        }
        Ok(other)
    }

    /// Sets up a connection to `base`, measures the time, and closes it: TCP and TLS, without the
    /// name lookup (its cost depends on the local resolver), and without any request. Nothing is
    /// sent to a cleartext host (on loopback), because a server may take anything for a request;
    /// only one that is known to speak HTTP/2 (the simulator) exchanges connection prefaces, which
    /// then count as well.
    ///
    /// # Errors
    ///
    /// [`ConnectError`], after at most the connect timeout.
    ///
    /// # Cancel safety
    ///
    /// Safe: the connection is dropped.
    pub async fn measure(&self, base: &Url) -> Result<Duration, ConnectError> {
        let target = Target::of_url(base);
        let stream = self
            .connect(&target, &self.shared.probe_tls, self.shared.cleartext)
            .await?;
        let mut total = stream.setup;
        let mut io = stream.io.into_inner();
        if !target.tls && self.shared.cleartext == Protocol::Http2 {
            let begun = Instant::now();
            let greeting = async {
                io.write_all(HTTP2_PREFACE).await?;
                io.read_u8().await
            };
            timeout_at(begun + self.shared.timeout, greeting)
                .await
                .map_err(|_| ConnectError::timed_out(&target.authority, Step::Dial))?
                .map_err(|error| ConnectError::failed(&target.authority, Step::Dial, error))?;
            total += begun.elapsed();
        }
        // If the peer does not take part in the shutdown, the connection is simply closed.
        let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, io.shutdown()).await;
        Ok(total)
    }

    /// Sets up a connection to `target`.
    pub(super) async fn reach(&self, target: &Target, offer: Offer) -> Result<Stream, ConnectError> {
        match offer {
            Offer::All => self.connect(target, &self.shared.tls, self.shared.cleartext).await,
            Offer::Http1 => self.connect(target, &self.shared.http1_tls, Protocol::Http1).await,
        }
    }

    /// Sets up a connection. When an address takes it and then fails, one other is tried if there
    /// is time: a second one is enough to pass by a sick member of several, and no outage makes
    /// more than twice the connections. A proxy that says or lets through that the host fails is
    /// to blame only if another member of it does better.
    async fn connect(
        &self,
        target: &Target,
        tls: &Arc<ClientConfig>,
        cleartext: Protocol,
    ) -> Result<Stream, ConnectError> {
        let deadline = Instant::now() + self.shared.timeout;
        let proxy = self.shared.proxy.as_ref().filter(|proxy| proxy.covers(&target.uri));
        let (host, port) = proxy.map_or((&*target.host, target.port), |proxy| (proxy.host(), proxy.port()));
        let resolving = self.shared.resolver.resolve(host, port);
        let mut addresses = bounded(target, Step::Resolve, deadline, resolving).await?;
        let mut first: Option<(ConnectError, Peer)> = None;
        loop {
            let begun = Instant::now();
            let (tcp, address) = match bounded(target, Step::Dial, deadline, dial(addresses.clone())).await {
                Ok(dialed) => dialed,
                // What the first address did says more than that no other can be reached.
                Err(error) => return Err(first.map_or(error, |(error, _)| error)),
            };
            let peer = Peer {
                is_proxy: proxy.is_some(),
                ..Peer::new(&self.shared.resolver, host, port, address)
            };
            match self.secure(tcp, proxy, target, tls, deadline).await {
                Ok((io, alpn)) => {
                    peer.worked();
                    if let Some((_, other)) = first {
                        other.record_failure();
                    }
                    return Ok(Stream {
                        io: TokioIo::new(io),
                        protocol: alpn.unwrap_or(cleartext),
                        peer: Arc::new(peer),
                        setup: begun.elapsed(),
                    });
                }
                Err(error) => {
                    if proxy.is_none() || error.is_silence_of_proxy() {
                        peer.record_failure();
                    }
                    addresses.retain(|other| *other != address);
                    let is_last = first.is_some() || addresses.is_empty() || Instant::now() >= deadline;
                    if is_last || error.is_refusal() {
                        return Err(first.map_or(error, |(error, _)| error));
                    }
                    first = Some((error, peer));
                }
            }
        }
    }

    /// Does what follows TCP: the proxy's tunnel and TLS, which also chooses the protocol.
    async fn secure(
        &self,
        tcp: TcpStream,
        proxy: Option<&Proxy>,
        target: &Target,
        tls: &Arc<ClientConfig>,
        deadline: Instant,
    ) -> Result<(Box<dyn Duplex>, Option<Protocol>), ConnectError> {
        if let Some(bytes) = self.shared.receive_buffer {
            // If the system does not allow it, its default stays.
            let _ = SockRef::from(&tcp).set_recv_buffer_size(bytes as usize);
        }
        let mut io: Box<dyn Duplex> = Box::new(tcp);
        if let Some(proxy) = proxy {
            let opening = open_tunnel(&mut io, &target.authority, proxy.authorization());
            bounded(target, Step::Tunnel, deadline, opening).await?;
        }
        if !target.tls {
            return Ok((io, None));
        }
        let name = self.shared.server_name.clone();
        let name = name.map_or_else(|| server_name(&target.host), Ok);
        let handshake = async { TlsConnector::from(Arc::clone(tls)).connect(name?, io).await };
        let secured = bounded(target, Step::Tls, deadline, handshake).await?;
        let protocol = match secured.get_ref().1.alpn_protocol() {
            Some(b"h2") => Protocol::Http2,
            _ => Protocol::Http1,
        };
        Ok((Box::new(secured), Some(protocol)))
    }
}

/// The name of `host` as it appears in its certificate.
fn server_name(host: &str) -> io::Result<ServerName<'static>> {
    let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    ServerName::try_from(bare).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

/// Adds the step and the target to a failure of `work`, which ends at `deadline`.
async fn bounded<T>(
    target: &Target,
    step: Step,
    deadline: Instant,
    work: impl Future<Output = io::Result<T>>,
) -> Result<T, ConnectError> {
    match timeout_at(deadline, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(ConnectError::failed(&target.authority, step, error)),
        Err(_) => Err(ConnectError::timed_out(&target.authority, step)),
    }
}

/// The destination of a connection.
#[derive(Debug)]
pub(super) struct Target {
    uri: Uri,
    host: String,
    port: u16,
    tls: bool,
    /// `host:port`.
    authority: Arc<str>,
}

impl Target {
    pub(super) fn new(uri: Uri) -> Self {
        let tls = uri.scheme() != Some(&http::uri::Scheme::HTTP);
        let host = uri.host().unwrap_or_default().to_owned();
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let authority = format!("{host}:{port}").into();
        Self {
            uri,
            host,
            port,
            tls,
            authority,
        }
    }

    fn of_url(url: &Url) -> Self {
        // Every absolute http(s) URL is a URI; anything else fails as an empty host when it is
        // resolved.
        Self::new(url.as_str().parse().unwrap_or_default())
    }

    pub(super) fn authority(&self) -> &Arc<str> {
        &self.authority
    }
}
