//! The bytes between us and a server: how to get to it, whom to trust and what to show with TLS,
//! and how much it may say.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use futures_util::future::select_ok;
use redis::{ConnectionAddr, ConnectionInfo};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio_rustls::TlsConnector;

use crate::store::Error;
use crate::store::resp_limits::{Excess, Meter};

/// Most messages that may wait for us. Thousands a second are taken; this is some seconds' worth.
const UNHEARD: usize = 10_000;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection to a server that may say only so much.
pub(super) struct Wire {
    stream: Box<dyn Stream>,
    said: Meter,
    allowance: Allowance,
}

/// How many answers a server may give.
pub(super) enum Allowance {
    /// One for each command, and messages, which are passed on at once.
    Commands { asked: Meter, open: usize },
    /// Any number of messages, unless we do not keep up.
    Messages(Unheard),
}

impl Allowance {
    pub(super) fn commands() -> Self {
        Self::Commands {
            asked: Meter::default(),
            open: 0,
        }
    }
}

/// Counts messages that have arrived and were not taken yet, the answers to what a subscription
/// starts with among them.
#[derive(Clone, Debug, Default)]
pub(super) struct Unheard(Arc<AtomicUsize>);

impl Unheard {
    /// One was taken.
    pub(super) fn heard(&self) {
        // Never below zero: what is taken has arrived.
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    fn arrived(&self, count: usize) -> Result<(), Excess> {
        let before = self.0.fetch_add(count, Ordering::Relaxed);
        if before + count > UNHEARD {
            return Err(Excess::Fast);
        }
        Ok(())
    }
}

impl Wire {
    /// Connects to a server. `tls` is whom to trust, where the address asks for TLS.
    pub(super) async fn open(
        server: &ConnectionInfo,
        tls: Option<&Arc<ClientConfig>>,
        allowance: Allowance,
    ) -> io::Result<Self> {
        let stream: Box<dyn Stream> = match (server.addr(), tls) {
            (ConnectionAddr::Unix(path), _) => Box::new(UnixStream::connect(path).await?),
            (ConnectionAddr::Tcp(host, port), _) => Box::new(dial(host, *port).await?),
            (ConnectionAddr::TcpTls { host, port, .. }, Some(tls)) => {
                let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
                let stream = dial(host, *port).await?;
                Box::new(TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?)
            }
            _ => return Err(io::ErrorKind::Unsupported.into()),
        };
        Ok(Self {
            stream,
            said: Meter::default(),
            allowance,
        })
    }
}

/// The first of the host's addresses that answers.
async fn dial(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut all = lookup_host((host, port)).await?.peekable();
    if all.peek().is_none() {
        return Err(io::ErrorKind::AddrNotAvailable.into());
    }
    let (stream, _) = select_ok(all.map(|address| Box::pin(TcpStream::connect(address)))).await?;
    // Commands are small, and somebody waits for each.
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let wire = &mut *self;
        let before = buffer.filled().len();
        ready!(Pin::new(&mut wire.stream).poll_read(cx, buffer))?;
        let answers = wire.said.feed(&buffer.filled()[before..])?;
        match &mut wire.allowance {
            Allowance::Commands { open, .. } => {
                let answers = answers - wire.said.take_pushes();
                *open = open.checked_sub(answers).ok_or(Excess::Unasked)?;
            }
            Allowance::Messages(unheard) => unheard.arrived(answers)?,
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wire = &mut *self;
        let written = ready!(Pin::new(&mut wire.stream).poll_write(cx, bytes))?;
        if let Allowance::Commands { asked, open } = &mut wire.allowance {
            *open += asked.feed(&bytes[..written])?;
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

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
pub(super) fn tls_config(pem: &Pem) -> Result<Arc<ClientConfig>, Error> {
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
