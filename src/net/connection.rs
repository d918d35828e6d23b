//! One HTTP connection.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::rt::Executor as _;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::net::connector::{Peer, Protocol, Stream};
use crate::net::pool::Host;
use crate::net::{Config, Kind};

/// The longest head of an answer over HTTP/1.1, and the longest list of header fields over HTTP/2.
const MAX_HEAD_BYTES: u32 = 64 * 1024;

/// The HTTP/2 flow-control windows, large enough for the full bandwidth to a distant host.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * STREAM_WINDOW;

/// A connection after its handshake. It lives as long as this or a clone of it.
pub(super) struct Connection {
    sender: Sender,
    created: Instant,
    peer: Arc<Peer>,
}

#[derive(Debug)]
enum Sender {
    /// One request after the other.
    Http1(http1::SendRequest<Full<Bytes>>),
    /// Any number of requests at a time.
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// How a peer says over HTTP/2 that it has processed nothing of a request (RFC 9113 §8.7, and §7 on
/// `HTTP_1_1_REQUIRED`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// `REFUSED_STREAM`, or a `GOAWAY` whose last stream comes before the request's, as a host says
    /// it that is updated.
    TryAgain,
    /// The same `GOAWAY` because of an error.
    Fault,
    /// The request is only answered over HTTP/1.1.
    Http1Required,
}

impl Refusal {
    /// What `error` says about a request without an answer; `None` when it says nothing of this
    /// kind.
    pub(super) fn of(error: &hyper::Error) -> Option<Self> {
        let mut cause = std::error::Error::source(error);
        let found = loop {
            match cause?.downcast_ref::<h2::Error>() {
                Some(found) => break found,
                None => cause = cause?.source(),
            }
        };
        // A decision of this side says nothing about what the peer has done.
        if !found.is_remote() {
            return None;
        }
        match found.reason() {
            Some(h2::Reason::HTTP_1_1_REQUIRED) => Some(Self::Http1Required),
            Some(h2::Reason::REFUSED_STREAM) if found.is_reset() => Some(Self::TryAgain),
            // Streams up to the last one that a GOAWAY names end in other ways: with their answer,
            // a reset, or the connection.
            Some(h2::Reason::NO_ERROR) if found.is_go_away() => Some(Self::TryAgain),
            _ if found.is_go_away() => Some(Self::Fault),
            _ => None,
        }
    }
}

impl Connection {
    /// Starts HTTP on `stream`.
    ///
    /// # Errors
    ///
    /// When the HTTP/2 handshake fails. No request was written then.
    pub(super) async fn begin(stream: Stream, config: &Config) -> Result<Self, hyper::Error> {
        let peer = Arc::clone(&stream.peer);
        let sender = Self::sender(stream, config).await;
        Ok(Self {
            sender: sender.inspect_err(|_| peer.failed())?,
            created: Instant::now(),
            peer,
        })
    }

    async fn sender(stream: Stream, config: &Config) -> Result<Sender, hyper::Error> {
        // Connections run outside `task::Tasks`: they end with the pool, and the drain must neither
        // wait for an idle connection nor cut one that a flight still reads from.
        let executor = TokioExecutor::new();
        match stream.protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::Builder::new()
                    .max_buf_size(MAX_HEAD_BYTES as usize)
                    .handshake(stream.io)
                    .await?;
                // The request that waits for an answer sees how it ends.
                executor.execute(async { drop(connection.await) });
                Ok(Sender::Http1(sender))
            }
            Protocol::Http2 => {
                let (parts, started) = mpsc::unbounded_channel();
                let (sender, connection) = http2::Builder::new(OneTask(parts))
                    .timer(TokioTimer::new())
                    .max_header_list_size(MAX_HEAD_BYTES)
                    .initial_stream_window_size(STREAM_WINDOW)
                    .initial_connection_window_size(CONNECTION_WINDOW)
                    .keep_alive_interval(config.ping_every)
                    .keep_alive_timeout(config.ping_answer)
                    .keep_alive_while_idle(true)
                    .handshake(stream.io)
                    .await?;
                executor.execute(run_together(connection, started));
                Ok(Sender::Http2(sender))
            }
        }
    }

    /// A clone for another request at the same time; `None` over HTTP/1.1.
    pub(super) fn shared(&self) -> Option<Self> {
        match &self.sender {
            Sender::Http1(_) => None,
            Sender::Http2(sender) => Some(Self {
                sender: Sender::Http2(sender.clone()),
                created: self.created,
                peer: Arc::clone(&self.peer),
            }),
        }
    }

    /// The address that it leads to.
    pub(super) fn peer(&self) -> &Peer {
        &self.peer
    }

    pub(super) fn protocol(&self) -> Protocol {
        match &self.sender {
            Sender::Http1(_) => Protocol::Http1,
            Sender::Http2(_) => Protocol::Http2,
        }
    }

    /// When it was created. Two connections are hardly created at the same moment; if so, they have
    /// the same age.
    pub(super) fn created(&self) -> Instant {
        self.created
    }

    /// Whether it may take another request: it is open and not older than `max_age`.
    pub(super) fn is_usable(&self, max_age: Duration, now: Instant) -> bool {
        let closed = match &self.sender {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        };
        !closed && now.saturating_duration_since(self.created) <= max_age
    }

    /// Waits until it can take a request, that is, until the earlier ones are finished.
    ///
    /// # Errors
    ///
    /// The connection is closed.
    pub(super) async fn ready(&mut self) -> Result<(), hyper::Error> {
        match &mut self.sender {
            Sender::Http1(sender) => sender.ready().await,
            Sender::Http2(sender) => sender.ready().await,
        }
    }

    /// Sends a request, whose address is absolute, to `host`, and waits for the head of its answer
    /// until the given time, or until `given_up` resolves.
    ///
    /// # Errors
    ///
    /// [`Kind::NotSent`], [`Kind::NotProcessed`], [`Kind::Lost`] or [`Kind::HeadTimeout`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future abandons the exchange. It is unknown then whether the request was
    /// written, and the connection cannot be used again over HTTP/1.1.
    pub(super) async fn send(
        &mut self,
        host: &Host,
        mut request: Request<Full<Bytes>>,
        until: Instant,
        given_up: impl Future<Output = ()> + Send,
    ) -> Result<Response<Incoming>, Kind> {
        let answer = async {
            match &mut self.sender {
                Sender::Http1(sender) => {
                    host.use_origin_form(&mut request);
                    sender.try_send_request(request).await
                }
                Sender::Http2(sender) => sender.try_send_request(request).await,
            }
        };
        let answer = tokio::select! {
            biased;
            answer = answer => answer,
            () = given_up => return Err(Kind::HeadTimeout),
            () = sleep_until(until) => return Err(Kind::HeadTimeout),
        };
        answer.map_err(|error| {
            // The request comes back only when nothing of it was written.
            let is_unsent = error.message().is_some();
            let error = error.into_error();
            if is_unsent {
                Kind::NotSent(error)
            } else if Refusal::of(&error).is_some() {
                Kind::NotProcessed(error)
            } else {
                Kind::Lost(error)
            }
        })
    }
}

/// Runs what hyper starts for an HTTP/2 connection within the connection's own task.
///
/// In tasks of their own, the part that reads frames could see a `GOAWAY` while the other part has
/// just handed over a request. hyper then fails the request with the `GOAWAY`, as if it had not
/// been processed, and its headers are sent all the same. The channel holds what was started since
/// the task ran last: a part for each request that was handed over.
#[derive(Clone)]
struct OneTask(mpsc::UnboundedSender<BoxFuture<'static, ()>>);

impl<F> hyper::rt::Executor<F> for OneTask
where
    F: Future + Send + 'static,
{
    fn execute(&self, part: F) {
        // Without the connection's task there is nothing left to run.
        let _ = self.0.send(part.map(drop).boxed());
    }
}

/// Runs a connection and the parts that it starts, until all have ended.
async fn run_together(
    connection: impl Future + Send + 'static,
    mut started: mpsc::UnboundedReceiver<BoxFuture<'static, ()>>,
) {
    let mut running = FuturesUnordered::from_iter([connection.map(drop).boxed()]);
    loop {
        tokio::select! {
            Some(part) = started.recv() => running.push(part),
            Some(()) = running.next() => {}
            else => return,
        }
    }
}
