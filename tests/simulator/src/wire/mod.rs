//! Listeners and connections that misbehave on request.

mod connection;
mod reply;
mod tls;

use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http::Request;
use http::request::Parts;
use http::uri::Scheme;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::tasks::Tasks;
use crate::wire::connection::{Connection, Socket};

pub(super) use reply::{Manner, Reply};
pub use tls::Tls;

/// How many connections a host serves at once; more wait in the backlog.
const MOST_CONNECTIONS: usize = 4_096;

/// How many wait to be accepted.
const BACKLOG: u32 = 1_024;

/// The first byte of a TLS connection: a handshake record (RFC 8446 §5.1). No HTTP method begins
/// with it.
const TLS_HANDSHAKE: u8 = 0x16;

/// How long a client may take to send a request's head.
const HEAD_DEADLINE: Duration = Duration::from_secs(30);

/// Handles the requests of one host.
pub(super) trait Handler: Debug + Send + Sync + 'static {
    /// It runs to its end even when the client is gone: what was sent arrives.
    fn answer(self: Arc<Self>, request: Request<Incoming>) -> BoxFuture<'static, Reply>;

    /// The time to set up a connection, as for a TLS handshake.
    fn setup(&self) -> Duration;
}

/// One host: an address and its handler.
#[derive(Debug)]
pub(super) struct Host {
    addr: SocketAddr,
    handler: Arc<dyn Handler>,
    /// Serves TLS beside clear text on the same port.
    tls: Option<Tls>,
    tasks: Tasks,
    listener: tokio::sync::Mutex<ListenerState>,
    /// Ends all existing connections; it is replaced for new ones.
    connections: Mutex<CancellationToken>,
    /// Ends listening, and lets connections end after their current requests.
    drain: CancellationToken,
}

#[derive(Debug)]
enum ListenerState {
    Open {
        stop: CancellationToken,
        accepting: tokio::task::JoinHandle<()>,
    },
    /// The port is held, so that no other process gets it, but there is no listener: connecting is
    /// refused.
    Shut(TcpSocket),
    Gone,
}

impl Host {
    /// Listens at `addr` and serves.
    pub(super) fn open(
        addr: SocketAddr,
        handler: Arc<dyn Handler>,
        tls: Option<Tls>,
        tasks: &Tasks,
    ) -> io::Result<Arc<Self>> {
        let held = hold(addr)?;
        let addr = held.local_addr()?;
        let host = Arc::new(Self {
            addr,
            handler,
            tls,
            tasks: tasks.clone(),
            listener: tokio::sync::Mutex::new(ListenerState::Gone),
            connections: Mutex::default(),
            drain: CancellationToken::new(),
        });
        let open = host.listen(held)?;
        if let Ok(mut state) = host.listener.try_lock() {
            *state = open;
        }
        Ok(host)
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Stops listening and resets every connection; connecting is refused when this returns. It
    /// does nothing when the host is stopped already.
    pub(super) async fn shut(&self) -> io::Result<()> {
        let mut state = self.listener.lock().await;
        if matches!(*state, ListenerState::Open { .. }) {
            close(std::mem::replace(&mut *state, ListenerState::Gone)).await;
            self.cut_connections();
            *state = ListenerState::Shut(hold(self.addr)?);
        }
        Ok(())
    }

    /// Listens again. It does nothing when the host is listening already, or when the simulator has
    /// ended.
    pub(super) async fn reopen(self: &Arc<Self>) -> io::Result<()> {
        let mut state = self.listener.lock().await;
        *state = match std::mem::replace(&mut *state, ListenerState::Gone) {
            ListenerState::Shut(held) => self.listen(held)?,
            other => other,
        };
        Ok(())
    }

    /// Resets every connection.
    pub(super) fn cut_connections(&self) {
        std::mem::take(&mut *self.connections()).cancel();
    }

    /// Stops listening for good and lets connections end after their current requests.
    pub(super) async fn end(&self) {
        self.drain.cancel();
        close(std::mem::replace(&mut *self.listener.lock().await, ListenerState::Gone)).await;
    }

    /// Stops at once, without waiting, for a simulator that is dropped.
    pub(super) fn abandon(&self) {
        self.drain.cancel();
        self.cut_connections();
    }

    fn listen(self: &Arc<Self>, held: TcpSocket) -> io::Result<ListenerState> {
        let listener = held.listen(BACKLOG)?;
        let stop = self.drain.child_token();
        let (host, until) = (Arc::clone(self), stop.clone());
        let accepting = self.tasks.spawn(async move {
            until.run_until_cancelled(host.accept(listener)).await;
        });
        Ok(ListenerState::Open { stop, accepting })
    }

    async fn accept(self: Arc<Self>, listener: TcpListener) {
        let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&room).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    // Made here, so that what is cut from now on includes this connection.
                    let connection = Connection::new(self.connections().child_token());
                    let host = Arc::clone(&self);
                    self.tasks.spawn(async move {
                        host.serve(stream, &connection).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    // Most likely there are no file descriptors left, and trying again at once
                    // would only use CPU time.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }

    fn connections(&self) -> MutexGuard<'_, CancellationToken> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn serve(&self, stream: TcpStream, connection: &Arc<Connection>) {
        // Nagle's algorithm would add its own delays to ours.
        let _ = stream.set_nodelay(true);
        let socket = Socket::new(stream, Arc::clone(connection));
        tokio::select! {
            () = connection.until_cut() => {}
            () = self.talk(socket, connection) => {}
        }
    }

    /// Finds out whether the client speaks TLS, and answers its requests.
    async fn talk(&self, socket: Socket, connection: &Arc<Connection>) {
        tokio::time::sleep(self.handler.setup()).await;
        let Some(tls) = &self.tls else {
            return self.exchange(socket, Scheme::HTTP, connection).await;
        };
        let mut first = [0];
        let peeked = timeout(HEAD_DEADLINE, socket.peek(&mut first));
        match self.drain.run_until_cancelled(peeked).await {
            Some(Ok(Ok(1))) if first[0] == TLS_HANDSHAKE => {}
            Some(Ok(Ok(1))) => return self.exchange(socket, Scheme::HTTP, connection).await,
            _ => return,
        }
        let acceptor = TlsAcceptor::from(Arc::clone(&tls.server));
        let secured = timeout(HEAD_DEADLINE, acceptor.accept(socket));
        match self.drain.run_until_cancelled(secured).await {
            Some(Ok(Ok(stream))) => self.exchange(stream, Scheme::HTTPS, connection).await,
            Some(Ok(Err(error))) => tracing::debug!(%error, "a client did not finish the TLS handshake"),
            Some(Err(_)) | None => {}
        }
    }

    /// Answers the requests of one connection, with this scheme.
    async fn exchange<S>(&self, stream: S, scheme: Scheme, connection: &Arc<Connection>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(|mut request: Request<Incoming>| {
            request.extensions_mut().insert(scheme.clone());
            let answer = self.tasks.spawn(Arc::clone(&self.handler).answer(request));
            let connection = Arc::clone(connection);
            async move {
                // A test must notice that the handler panicked.
                let failed = |_| Reply::front_end_page(http::StatusCode::INTERNAL_SERVER_ERROR);
                answer.await.unwrap_or_else(failed).deliver(connection).await
            }
        });
        let mut builder = auto::Builder::new(Streams(self.tasks.clone()));
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_DEADLINE);
        builder.http2().timer(TokioTimer::new());
        let mut served = pin!(builder.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            _ = served.as_mut() => return,
            () = self.drain.cancelled() => served.as_mut().graceful_shutdown(),
        }
        let _ = served.await;
    }
}

/// The scheme by which the client reached this host.
pub(super) fn scheme(head: &Parts) -> &str {
    head.extensions.get::<Scheme>().map_or("http", Scheme::as_str)
}

/// The address by which the client says that it reached this host.
pub(super) fn authority(head: &Parts) -> Option<String> {
    let authority = head.uri.authority().map(ToString::to_string);
    authority.or_else(|| field(head, "host"))
}

/// A field's value.
pub(super) fn field(head: &Parts, name: &str) -> Option<String> {
    let value = head.headers.get(name)?;
    value.to_str().ok().map(Into::into)
}

/// Ends the accept loop; the listener is closed when this returns.
async fn close(state: ListenerState) {
    if let ListenerState::Open { stop, accepting } = state {
        stop.cancel();
        // It cannot fail: the task is not aborted and does not panic.
        let _ = accepting.await;
    }
}

/// Binds the port without listening.
fn hold(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = match addr {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // Earlier connections may linger in the kernel, and must not block the port.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

/// Runs the streams of HTTP/2 connections as tasks of the simulator.
#[derive(Clone)]
struct Streams(Tasks);

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        self.0.spawn(stream);
    }
}

/// How long a body may take.
const BODY_DEADLINE: Duration = Duration::from_secs(30);

/// Why a body was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// It is too long. It was read to its end all the same, so that the client sees the error and
    /// not a broken connection.
    TooLong,
    /// It was incomplete.
    Broken,
}

/// Reads a body of at most `longest` bytes.
pub(super) async fn read(body: Incoming, longest: usize) -> Result<Bytes, Unread> {
    let read = timeout(BODY_DEADLINE, collect(body, longest)).await;
    read.unwrap_or(Err(Unread::Broken))
}

async fn collect(mut body: Incoming, longest: usize) -> Result<Bytes, Unread> {
    let (mut kept, mut fits) = (BytesMut::new(), true);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Unread::Broken)?.into_data() else {
            continue;
        };
        fits = fits && kept.len() + data.len() <= longest;
        if fits {
            kept.extend_from_slice(&data);
        }
    }
    if fits { Ok(kept.freeze()) } else { Err(Unread::TooLong) }
}
