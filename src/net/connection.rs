//! One connection that speaks HTTP.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::Either;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::rt::Executor as _;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::net::Config;
use crate::net::pool::Host;
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
    alarm: Alarm,
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
    /// It was written over HTTP/2, and the peer said that it has processed nothing of it; here it is.
    Unprocessed(Box<Request<Full<Bytes>>>, Refusal, hyper::Error),
    /// It may have been written.
    Lost(hyper::Error),
    /// It may have been written, and no head came in time.
    Late,
}

/// How a peer says over HTTP/2 that it has processed nothing of a request (RFC 9113 §8.7, and §7 on `HTTP_1_1_REQUIRED`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// `REFUSED_STREAM`, or a `GOAWAY` whose last stream comes before the request's.
    TryAgain,
    /// The same request is answered over HTTP/1.1 only.
    Http1Required,
}

impl Refusal {
    /// What `error` says about a request that brought no head; `None`: nothing of this kind.
    fn of(error: &hyper::Error) -> Option<Self> {
        let mut cause = std::error::Error::source(error);
        let found = loop {
            match cause?.downcast_ref::<h2::Error>() {
                Some(found) => break found,
                None => cause = cause?.source(),
            }
        };
        // What this side decides says nothing about what the peer has done.
        if !found.is_remote() {
            return None;
        }
        match found.reason() {
            Some(h2::Reason::HTTP_1_1_REQUIRED) => Some(Self::Http1Required),
            Some(h2::Reason::REFUSED_STREAM) if found.is_reset() => Some(Self::TryAgain),
            // Streams up to the last one that a GOAWAY names end in other ways: with their answer, a reset, or the connection.
            _ if found.is_go_away() => Some(Self::TryAgain),
            _ => None,
        }
    }
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
            alarm: Alarm::default(),
        })
    }

    /// The same connection for another request at the same time; `None` when it takes one at a time.
    pub(super) fn shared(&self) -> Option<Self> {
        match &self.sender {
            Sender::Http1(_) => None,
            Sender::Http2(sender) => Some(Self {
                sender: Sender::Http2(sender.clone()),
                born: self.born,
                alarm: Alarm::default(),
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
    pub(super) fn is_usable(&self, max_age: Duration, now: Instant) -> bool {
        let closed = match &self.sender {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        };
        !closed && now.saturating_duration_since(self.born) <= max_age
    }

    /// Whether it can take a request now.
    pub(super) fn is_ready(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.is_ready(),
            Sender::Http2(sender) => sender.is_ready(),
        }
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

    /// Sends a request, whose address is absolute, to `host`, and waits for the head of its answer, at most until then and at most
    /// until `given_up` resolves.
    ///
    /// # Errors
    /// [`Failed`].
    ///
    /// # Cancel safety
    /// Dropping it abandons the exchange; whether the request was written is then unknown, and the connection is of no more use over
    /// HTTP/1.1.
    pub(super) fn send<'a, F>(
        &'a mut self,
        host: &'a Host,
        mut request: Request<Full<Bytes>>,
        until: Instant,
        given_up: F,
    ) -> impl Future<Output = Result<Response<Incoming>, Failed>> + Send + use<'a, F>
    where
        F: Future<Output = ()> + Send,
    {
        let is_http1 = self.protocol() == Protocol::Http1;
        // Over HTTP/2 the request is written by another task, which does not give it back; the body is shared, not copied.
        let copy = (!is_http1).then(|| Box::new(request.clone()));
        if is_http1 {
            host.put_in_place(&mut request);
        }
        let answer = match &mut self.sender {
            Sender::Http1(sender) => Either::Left(sender.try_send_request(request)),
            Sender::Http2(sender) => Either::Right(sender.try_send_request(request)),
        };
        let alarm = &mut self.alarm;
        async move {
            let (mut answer, mut given_up) = (pin!(answer), pin!(given_up));
            let result = poll_fn(|context| match answer.as_mut().poll(context) {
                Poll::Ready(answer) => Poll::Ready(Some(answer)),
                Poll::Pending if given_up.as_mut().poll(context).is_ready() => Poll::Ready(None),
                Poll::Pending => alarm.poll(until, context).map(|()| None),
            });
            match result.await {
                Some(Ok(answer)) => Ok(answer),
                Some(Err(mut error)) => Err(if let Some(mut request) = error.take_message() {
                    if is_http1 {
                        host.put_back(&mut request);
                    }
                    Failed::Unsent(Box::new(request), error.into_error())
                } else {
                    let error = error.into_error();
                    match copy.zip(Refusal::of(&error)) {
                        Some((request, refusal)) => Failed::Unprocessed(request, refusal, error),
                        None => Failed::Lost(error),
                    }
                }),
                None => Err(Failed::Late),
            }
        }
    }
}

/// A timer for one request after the other.
///
/// Nearly all requests are answered in time. A timer that is set for each of them is set and taken back in vain; this one stays set, to
/// the time of an earlier request, and is looked at when it rings.
#[derive(Debug, Default)]
struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready from `at` on.
    fn poll(&mut self, at: Instant, context: &mut Context<'_>) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(at)));
        // What is to ring later rings in between, and is set anew then.
        if sleep.deadline() > at {
            sleep.as_mut().reset(at);
        }
        while sleep.as_mut().poll(context).is_ready() {
            if sleep.deadline() >= at {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(at);
        }
        Poll::Pending
    }
}
