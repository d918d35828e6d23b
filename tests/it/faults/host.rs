//! A region's host behind a line, both of which can be made to fail in every way a network knows.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Response, StatusCode};
use http_body_util::StreamBody;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use defender_gateway::testing::task::Tasks;

use super::certificates::Certificates;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Nothing,
    Refused,
    BlackHole,
    HalfOpen,
    ResetMidBody,
    SlowHead,
    SlowBody,
    TlsExpired,
    TlsWrongName,
    DnsFailure,
    DnsChange,
    OneAddressDead,
    GoAway,
    BrownOut,
    LatencyStep,
    HtmlForbidden,
    HtmlNotFound,
    Misdirected,
    BadGateway,
    Unknown520,
    HtmlOk,
    EmptyOk,
    CutJson,
    RefusedStream,
    Http1Required,
}

impl Fault {
    pub(crate) const ALL: [Self; 24] = [
        Self::Refused,
        Self::BlackHole,
        Self::HalfOpen,
        Self::ResetMidBody,
        Self::SlowHead,
        Self::SlowBody,
        Self::TlsExpired,
        Self::TlsWrongName,
        Self::DnsFailure,
        Self::DnsChange,
        Self::OneAddressDead,
        Self::GoAway,
        Self::BrownOut,
        Self::LatencyStep,
        Self::HtmlForbidden,
        Self::HtmlNotFound,
        Self::Misdirected,
        Self::BadGateway,
        Self::Unknown520,
        Self::HtmlOk,
        Self::EmptyOk,
        Self::CutJson,
        Self::RefusedStream,
        Self::Http1Required,
    ];

    /// Whether every answer is none.
    pub(crate) fn is_rubbish(self) -> bool {
        self.says().is_some()
    }

    /// Whether requests are not processed, and answers are not late.
    pub(crate) fn is_unprocessed(self) -> bool {
        matches!(self, Self::RefusedStream | Self::Http1Required)
    }

    /// The status and body of a host whose every answer is none.
    fn says(self) -> Option<(u16, &'static str)> {
        Some(match self {
            Self::HtmlForbidden => (403, PAGE),
            Self::HtmlNotFound => (404, PAGE),
            Self::Misdirected => (421, PAGE),
            Self::BadGateway => (502, PAGE),
            Self::Unknown520 => (520, PAGE),
            Self::HtmlOk => (200, PAGE),
            Self::EmptyOk => (200, ""),
            Self::CutJson => (200, r#"{"value":[{"id":"#),
            _ => return None,
        })
    }
}

const PAGE: &str = "<!DOCTYPE html><html><body>This web app is stopped.</body></html>";

/// A host. Clones are the same host.
#[derive(Clone)]
pub(crate) struct Host {
    shared: Arc<Shared>,
}

struct Shared {
    certificates: Certificates,
    distance: Duration,
    address: SocketAddr,
    /// Where it is after a change in DNS.
    new_address: SocketAddr,
    fault: watch::Sender<Fault>,
    /// When each request arrived.
    arrivals: Mutex<Vec<Instant>>,
    /// How many connections the new address has had.
    moved: AtomicUsize,
    answered: AtomicUsize,
    /// Requests that may have been refused.
    refused: AtomicUsize,
    /// Resets every connection.
    cut: Notify,
    accepting: Mutex<Option<tokio::task::JoinHandle<()>>>,
    tasks: Tasks,
    hole: Hole,
}

impl Host {
    /// A host whose connections take `distance` to set up.
    pub(crate) async fn start(certificates: Certificates, distance: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let new = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = Self {
            shared: Arc::new(Shared {
                certificates,
                distance,
                address: listener.local_addr().unwrap(),
                new_address: new.local_addr().unwrap(),
                fault: watch::Sender::new(Fault::Nothing),
                arrivals: Mutex::default(),
                moved: AtomicUsize::new(0),
                answered: AtomicUsize::new(0),
                refused: AtomicUsize::new(0),
                cut: Notify::new(),
                accepting: Mutex::default(),
                tasks: Tasks::new(),
                hole: Hole::new().await,
            }),
        };
        host.accept(listener);
        let moved = host.clone();
        host.shared.tasks.spawn("accept", async move {
            while let Ok((stream, _)) = new.accept().await {
                moved.shared.moved.fetch_add(1, Ordering::SeqCst);
                moved.shared.tasks.spawn("connection", moved.clone().connection(stream));
            }
        });
        host
    }

    /// How many requests have arrived.
    pub(crate) fn calls(&self) -> usize {
        self.shared.arrivals.lock().unwrap().len()
    }

    /// When they arrived.
    pub(crate) fn arrivals(&self) -> Vec<Instant> {
        self.shared.arrivals.lock().unwrap().clone()
    }

    /// How many connections the address has had that a change in DNS leads to.
    pub(crate) fn moved(&self) -> usize {
        self.shared.moved.load(Ordering::SeqCst)
    }

    /// Where the host's name leads to; empty: the resolver fails.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        match *self.shared.fault.borrow() {
            Fault::DnsFailure => vec![],
            Fault::DnsChange => vec![self.shared.new_address],
            Fault::BlackHole => vec![self.shared.hole.address],
            Fault::OneAddressDead => vec![self.shared.hole.address, self.shared.address],
            _ => vec![self.shared.address],
        }
    }

    /// From now on, `fault` is what is wrong.
    pub(crate) async fn set(&self, fault: Fault) {
        let before = self.shared.fault.send_replace(fault);
        let gone = |fault| matches!(fault, Fault::Refused | Fault::DnsChange);
        if gone(before) && !gone(fault) {
            // A connection of another test may have taken the port for a moment.
            let bind = async || TcpListener::bind(self.shared.address).await.ok();
            let listener = crate::support::until("the host's port", bind).await;
            self.accept(listener);
        }
        if gone(fault) && !gone(before) {
            let accepting = self.shared.accepting.lock().unwrap().take().unwrap();
            accepting.abort();
            let _ = accepting.await;
        }
        // These concern connections that are there; the others only new ones, so the old ones have
        // to go.
        let keeps = [
            Fault::HalfOpen,
            Fault::BlackHole,
            Fault::SlowHead,
            Fault::SlowBody,
            Fault::ResetMidBody,
            Fault::BrownOut,
            Fault::GoAway,
            Fault::LatencyStep,
            Fault::RefusedStream,
            Fault::Http1Required,
        ];
        if !keeps.contains(&fault) && fault.says().is_none() {
            self.shared.cut.notify_waiters();
        }
    }

    fn accept(&self, listener: TcpListener) {
        let host = self.clone();
        let accepting = self.shared.tasks.spawn("accept", async move {
            while let Ok((stream, _)) = listener.accept().await {
                host.shared.tasks.spawn("connection", host.clone().connection(stream));
            }
        });
        *self.shared.accepting.lock().unwrap() = Some(accepting);
    }

    /// The line: forwards bytes until it is cut or swallows them.
    async fn connection(self, mut near: TcpStream) {
        near.set_nodelay(true).unwrap();
        let step = if *self.shared.fault.borrow() == Fault::LatencyStep {
            Duration::from_millis(300)
        } else {
            Duration::ZERO
        };
        let (mut far, server) = tokio::io::duplex(64 * 1024);
        let host = self.clone();
        let serving = self.shared.tasks.spawn("server", async move {
            tokio::time::sleep(host.shared.distance + step).await;
            host.serve(server).await;
        });
        let mut fault = self.shared.fault.subscribe();
        // A half-open host swallows what was there before; its new connections work.
        let fresh = *fault.borrow() == Fault::HalfOpen;
        let swallowed = async {
            let is_now = |fault: &Fault| *fault == Fault::BlackHole || (*fault == Fault::HalfOpen && !fresh);
            drop(fault.wait_for(is_now).await);
        };
        tokio::select! {
            () = self.shared.cut.notified() => {
                socket2::SockRef::from(&near).set_linger(Some(Duration::ZERO)).unwrap();
            }
            () = swallowed => self.shared.cut.notified().await,
            _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
        }
        serving.abort();
    }

    async fn serve(&self, stream: tokio::io::DuplexStream) {
        let fault = *self.shared.fault.borrow();
        let acceptor = match fault {
            Fault::TlsExpired => &self.shared.certificates.expired,
            Fault::TlsWrongName => &self.shared.certificates.other,
            _ => &self.shared.certificates.good,
        };
        let Ok(stream) = acceptor.accept(stream).await else {
            return;
        };
        let answered = Arc::new(Notify::new());
        let service = hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| {
            let host = self.clone();
            let answered = Arc::clone(&answered);
            async move {
                match host.refusal(request.version()) {
                    Some(reason) => Err(h2::Error::from(reason)),
                    None => Ok(host.answer(&answered).await),
                }
            }
        });
        let builder = auto::Builder::new(TokioExecutor::new());
        let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            _ = connection.as_mut() => return,
            () = answered.notified() => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    }

    /// Why the stream of a request is reset before anything is processed.
    fn refusal(&self, version: http::Version) -> Option<h2::Reason> {
        if version != http::Version::HTTP_2 {
            return None;
        }
        match *self.shared.fault.borrow() {
            // Two of three, so that many are refused twice in a row.
            Fault::RefusedStream => {
                let nth = self.shared.refused.fetch_add(1, Ordering::SeqCst);
                (nth % 3 < 2).then_some(h2::Reason::REFUSED_STREAM)
            }
            Fault::Http1Required => Some(h2::Reason::HTTP_1_1_REQUIRED),
            _ => None,
        }
    }

    async fn answer(&self, goaway: &Notify) -> Response<UnsyncBoxBody<Bytes, std::io::Error>> {
        self.shared.arrivals.lock().unwrap().push(Instant::now());
        let nth = self.shared.answered.fetch_add(1, Ordering::SeqCst);
        let fault = *self.shared.fault.borrow();
        if let Some((status, body)) = fault.says() {
            return said(status, body);
        }
        let mut status = StatusCode::OK;
        match fault {
            Fault::SlowHead => tokio::time::sleep(Duration::from_mins(1)).await,
            // 30 %, evenly spread.
            Fault::BrownOut if matches!(nth % 10, 0 | 3 | 6) => status = StatusCode::SERVICE_UNAVAILABLE,
            Fault::GoAway => goaway.notify_one(),
            _ => {}
        }
        let host = self.clone();
        let frames = stream::unfold(0_usize, move |part| {
            let host = host.clone();
            async move {
                match (part, fault) {
                    (1, Fault::SlowBody) => tokio::time::sleep(Duration::from_mins(1)).await,
                    (1, Fault::ResetMidBody) => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        host.shared.cut.notify_waiters();
                        std::future::pending::<()>().await;
                    }
                    _ => {}
                }
                let half = *[br#"{"value":"#.as_slice(), b"[]}"].get(part)?;
                Some((Ok(Frame::data(Bytes::from_static(half))), part + 1))
            }
        });
        let mut answer = Response::new(UnsyncBoxBody::new(StreamBody::new(frames)));
        *answer.status_mut() = status;
        let json = http::HeaderValue::from_static("application/json");
        answer.headers_mut().insert(http::header::CONTENT_TYPE, json);
        answer
    }
}

fn said(status: u16, body: &'static str) -> Response<UnsyncBoxBody<Bytes, std::io::Error>> {
    let frame = Ok(Frame::data(Bytes::from_static(body.as_bytes())));
    let mut answer = Response::new(UnsyncBoxBody::new(StreamBody::new(stream::iter([frame]))));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    let content_type = if body.starts_with('<') {
        "text/html"
    } else {
        "application/json"
    };
    let content_type = http::HeaderValue::from_static(content_type);
    answer.headers_mut().insert(http::header::CONTENT_TYPE, content_type);
    answer
}

/// A port at which packets vanish, because its backlog is full.
struct Hole {
    address: SocketAddr,
    _listener: socket2::Socket,
    _backlog: Vec<TcpStream>,
}

impl Hole {
    async fn new() -> Self {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut backlog = Vec::new();
        while let Ok(stream) = tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
            backlog.push(stream.unwrap());
        }
        Self {
            address,
            _listener: listener,
            _backlog: backlog,
        }
    }
}
