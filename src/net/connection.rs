//! One connection that speaks HTTP.

use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::rt::Executor as _;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::Instant;

use crate::net::Config;
use crate::net::stream::{Protocol, Stream};

/// Longest head of an answer over HTTP/1.1; over HTTP/2, longest list of fields.
const MAX_HEAD_BYTES: u32 = 64 * 1024;

/// HTTP/2 flow-control windows, large enough that a distant host can fill the line.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * STREAM_WINDOW;

/// A connection, from its handshake on. It lives as long as this or a clone of it does.
#[derive(Debug)]
pub(super) struct Connection {
    sender: Sender,
    born: Instant,
}

#[derive(Debug)]
enum Sender {
    /// Takes one request after the other.
    Http1(http1::SendRequest<Full<Bytes>>),
    /// Takes any number.
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// A request that brought no head of an answer.
#[derive(Debug)]
pub(super) enum Failed {
    /// Nothing of it was written; here it is.
    Unsent(Box<Request<Full<Bytes>>>, hyper::Error),
    /// It may have been written.
    Lost(hyper::Error),
}

impl Connection {
    /// Begins to speak over `stream`.
    ///
    /// # Errors
    /// When the handshake of HTTP/2 fails. No request was written.
    pub(super) async fn begin(stream: Stream, config: &Config) -> Result<Self, hyper::Error> {
        // Connections run outside `task::Tasks`: they end with the pool, and the drain must neither wait for an idle connection nor cut
        // one that a flight still reads from.
        let executor = TokioExecutor::new();
        let sender = match stream.protocol() {
            Protocol::Http1 => {
                let (sender, connection) = http1::Builder::new()
                    .max_buf_size(MAX_HEAD_BYTES as usize)
                    .handshake(stream)
                    .await?;
                // How it ends is seen by whoever waits for an answer.
                executor.execute(async { drop(connection.await) });
                Sender::Http1(sender)
            }
            Protocol::Http2 => {
                let (sender, connection) = http2::Builder::new(executor.clone())
                    .timer(TokioTimer::new())
                    .max_header_list_size(MAX_HEAD_BYTES)
                    .initial_stream_window_size(STREAM_WINDOW)
                    .initial_connection_window_size(CONNECTION_WINDOW)
                    .keep_alive_interval(config.ping_every)
                    .keep_alive_timeout(config.ping_answer)
                    .keep_alive_while_idle(true)
                    .handshake(stream)
                    .await?;
                executor.execute(async { drop(connection.await) });
                Sender::Http2(sender)
            }
        };
        Ok(Self {
            sender,
            born: Instant::now(),
        })
    }

    /// The same connection for another request at the same time; `None` when it takes one at a time.
    pub(super) fn shared(&self) -> Option<Self> {
        match &self.sender {
            Sender::Http1(_) => None,
            Sender::Http2(sender) => Some(Self {
                sender: Sender::Http2(sender.clone()),
                born: self.born,
            }),
        }
    }

    pub(super) fn protocol(&self) -> Protocol {
        match &self.sender {
            Sender::Http1(_) => Protocol::Http1,
            Sender::Http2(_) => Protocol::Http2,
        }
    }

    /// When it was made. Two connections are hardly made at the same moment; if so, they are equally old.
    pub(super) fn born(&self) -> Instant {
        self.born
    }

    /// Whether it may take a further request: it is open and not older than `max_age`.
    pub(super) fn is_usable(&self, max_age: Duration) -> bool {
        let closed = match &self.sender {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        };
        !closed && self.born.elapsed() <= max_age
    }

    /// Waits until it can take a request: until what came before is behind it.
    ///
    /// # Errors
    /// It is closed.
    pub(super) async fn ready(&mut self) -> Result<(), hyper::Error> {
        match &mut self.sender {
            Sender::Http1(sender) => sender.ready().await,
            Sender::Http2(sender) => sender.ready().await,
        }
    }

    /// Sends a request, whose address is absolute, and waits for the head of its answer. `host` is the field of that name.
    ///
    /// # Errors
    /// [`Failed`].
    ///
    /// # Cancel safety
    /// Dropping it abandons the exchange; whether the request was written is then unknown, and the connection is of no more use over
    /// HTTP/1.1.
    pub(super) async fn send(
        &mut self,
        host: &HeaderValue,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Failed> {
        let result = match &mut self.sender {
            Sender::Http1(sender) => {
                let address = request.uri().clone();
                put_in_place(host, &mut request);
                sender
                    .try_send_request(request)
                    .await
                    .map_err(|error| (error, Some(address)))
            }
            Sender::Http2(sender) => sender.try_send_request(request).await.map_err(|error| (error, None)),
        };
        result.map_err(|(mut error, address)| match error.take_message() {
            Some(mut request) => {
                if let Some(address) = address {
                    // As it was: the next connection may speak HTTP/2.
                    request.headers_mut().remove(HOST);
                    *request.uri_mut() = address;
                }
                Failed::Unsent(Box::new(request), error.into_error())
            }
            None => Failed::Lost(error.into_error()),
        })
    }
}

/// Over HTTP/1.1 the host is a field, and the address what follows it (RFC 9112 §3.2.1).
fn put_in_place(host: &HeaderValue, request: &mut Request<Full<Bytes>>) {
    request.headers_mut().insert(HOST, host.clone());
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
}
