//! Drives one connection to its end.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::body::{Body as _, Incoming};
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use pin_project_lite::pin_project;
use tokio::sync::watch;
use tokio::time::Instant;
use tower::Service;

use super::connection_limit::{ConnectionLimiter, ConnectionSlot};
use super::connection_memory::StreamMemory;
use super::connection_state::{Action, ConnectionState, Draining, InFlight, Limits};
use super::serve::Accepted;
use super::socket::Socket;
use super::{Config, InboundRequest, Peer};
use crate::BoxError;
use crate::memory::MemoryBudget;
use crate::response::Body;
use crate::task::Tasks;

/// The phase of the listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// All connections and requests are accepted.
    Serving,
    /// All are accepted, and every response asks for its connection to be closed.
    Lingering,
    /// No new ones are accepted.
    Draining(Instant),
    /// The rest is cut off.
    Cut,
}

/// How one connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By itself, or because it was idle.
    Finished,
    /// Cut off with requests in flight, at the limit of the drain.
    Cut,
}

/// What all connections of a listener share.
#[derive(Debug)]
pub(super) struct Shared {
    http: auto::Builder<Spawner>,
    config: Config,
    limiter: Arc<ConnectionLimiter>,
    streams: StreamMemory,
}

/// The flow-control windows of HTTP/2: the bytes of unread bodies that a connection can make us
/// hold.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 4 * STREAM_WINDOW;

impl Shared {
    pub(super) fn new(config: Config, limiter: Arc<ConnectionLimiter>, tasks: &Tasks) -> Self {
        // Separate from heads: otherwise heads that do not end would use up the memory of HTTP/2
        // requests.
        let streams = StreamMemory::new(MemoryBudget::new(config.head_bytes / 2));
        let mut http = auto::Builder::new(Spawner {
            tasks: tasks.clone(),
            streams: streams.clone(),
        });
        http.http1()
            .timer(TokioTimer::new())
            // `ConnectionState` does this instead: hyper's timeout would also close idle
            // connections in a client's pool.
            .header_read_timeout(None)
            // A caller that has sent all it will send may still read; `PeerWatch` tells that from
            // one that is gone.
            .half_close(true)
            // `Config::MAX_HEADERS` is hyper's own default. Setting it would make hyper clear its
            // tables for each request.
            .max_buf_size(Config::MAX_HEADER_BYTES as usize);
        http.http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(config.max_streams)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(Config::MAX_HEADER_BYTES)
            // Against rapid resets (CVE-2023-44487): the most streams that may be opened and reset
            // before we have looked at them.
            .max_pending_accept_reset_streams(20)
            // The most streams that may be reset because of the peer's errors before the connection
            // is closed.
            .max_local_error_reset_streams(64)
            // Finds peers that vanished without closing, so that they do not keep their slots.
            .keep_alive_interval(config.idle_timeout.max(MIN_PING))
            .keep_alive_timeout(Duration::from_secs(20));
        Self {
            http,
            config,
            limiter,
            streams,
        }
    }

    fn limits(&self) -> Limits {
        let large_answers = self.config.large_answers.as_ref();
        Limits {
            header: self.config.header_timeout,
            idle: self.config.idle_timeout,
            memory_is_wanted: large_answers.is_some_and(|memory| memory.is_wanted()),
        }
    }

    /// Serves `accepted` until it ends, and gives its slot back after everything else is gone.
    /// Cancel safe: dropping the future cuts the connection off.
    pub(super) async fn drive<S>(
        &self,
        accepted: Accepted,
        service: S,
        mut phase: watch::Receiver<Phase>,
    ) -> (End, ConnectionSlot)
    where
        S: Service<InboundRequest<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
    {
        // The slot is kept to the end: a connection counts until its socket is closed.
        let Accepted { stream, peer, slot } = accepted;
        let state = Arc::clone(slot.state());
        let socket = Socket::new(stream, peer.address(), Arc::clone(&state), Arc::clone(&self.limiter));
        let answers = Answers {
            service: RefCell::new(service),
            peer: peer.clone(),
            state: Arc::clone(&state),
            streams: self.streams.clone(),
        };
        let ended = {
            let mut connection = pin!(self.http.serve_connection(TokioIo::new(socket), answers));
            let mut closing = None;
            let ended = loop {
                let now = *phase.borrow_and_update();
                if now != Phase::Serving {
                    state.start_closing();
                }
                let draining = match now {
                    Phase::Serving | Phase::Lingering => Draining::No,
                    Phase::Draining(since) => Draining::Since(since),
                    Phase::Cut => break Err(End::Cut),
                };
                let until = match state.action(self.limits(), closing, draining) {
                    Action::Wait(until) => until,
                    Action::Cut => break Err(End::Finished),
                    Action::Close => {
                        closing = Some(Instant::now());
                        connection.as_mut().graceful_shutdown();
                        continue;
                    }
                };
                // Polls its only future when that was woken (and wakes itself once more then, which
                // is nothing beside the event). Otherwise the timers and watches of a connection
                // would cost something with every request on it.
                let mut events = FuturesUnordered::from_iter([events(&mut phase, &state, until)]);
                let happened = poll_fn(|context| {
                    // Polled first, so that the listener's phase already counts for the next
                    // response.
                    if let Poll::Ready(Some(event)) = events.poll_next_unpin(context) {
                        return Poll::Ready(Err(event));
                    }
                    let ended = connection.as_mut().poll(context);
                    state.stamp();
                    ended.map(Ok)
                });
                match happened.await {
                    Ok(result) => break Ok(result),
                    Err(ConnectionEvent::Gone) => break Err(End::Cut),
                    Err(ConnectionEvent::Look) => {}
                }
            };
            if matches!(ended, Err(End::Cut)) || state.is_cut() {
                // What is still in flight ends with the connection, which is not its caller's
                // doing.
                peer.cut();
            }
            ended
        };
        (finish(ended, &state).await, slot)
    }
}

/// Finishes a connection that was dropped because it `ended` by itself, or to cut it off.
async fn finish(ended: Result<Result<(), BoxError>, End>, state: &ConnectionState) -> End {
    match ended {
        Ok(Ok(())) => {
            if let Some(stream) = state.take_left_open() {
                stream.close().await;
            }
            End::Finished
        }
        Ok(Err(error)) => {
            // The peer went away, or does not speak HTTP.
            tracing::debug!(error, "a connection ended early");
            End::Finished
        }
        Err(end) => end,
    }
}

/// An event from outside the connection.
enum ConnectionEvent {
    /// The connection's state has to be checked again, or the listener's phase has changed.
    Look,
    /// The listener is gone.
    Gone,
}

async fn events(phase: &mut watch::Receiver<Phase>, state: &ConnectionState, until: Instant) -> ConnectionEvent {
    tokio::select! {
        () = state.eviction_requested() => ConnectionEvent::Look,
        () = tokio::time::sleep_until(until) => ConnectionEvent::Look,
        changed = phase.changed() => changed.map_or(ConnectionEvent::Gone, |()| ConnectionEvent::Look),
    }
}

/// Some peers take more frequent pings for a flood.
const MIN_PING: Duration = Duration::from_secs(20);

/// Answers the requests of one connection.
struct Answers<S> {
    /// One service for all requests: cloning the stack for each would cost as much as the rest of
    /// the work for a hit.
    service: RefCell<S>,
    peer: Peer,
    state: Arc<ConnectionState>,
    streams: StreamMemory,
}

impl<S> hyper::service::Service<Request<Incoming>> for Answers<S>
where
    S: Service<InboundRequest<Incoming>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer<S::Future>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (version, has_body) = (request.version(), !request.body().is_end_stream());
        let is_head = request.method() == Method::HEAD;
        let in_flight = self.state.request(version);
        let mut request = InboundRequest::new(request, self.peer.clone());
        if version == Version::HTTP_2 {
            self.streams.admit(&mut request, &self.state);
        }
        // The service does not call this function again, so it is borrowed only once at a time. It
        // is always ready, as the whole stack is: a request that has to wait waits in the queue,
        // where it can be refused.
        let mut service = self.service.borrow_mut();
        let ready = service.poll_ready(&mut Context::from_waker(Waker::noop()));
        debug_assert!(ready.is_ready(), "the request would never be woken");
        Answer {
            response: service.call(request),
            version,
            is_head,
            has_body,
            in_flight,
        }
    }
}

pin_project! {
    /// The completed response to one request. An `async` function would move it once more.
    struct Answer<F> {
        #[pin]
        response: F,
        version: Version,
        is_head: bool,
        has_body: bool,
        in_flight: InFlight,
    }
}

impl<F> Future for Answer<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.response.poll(context))?;
        let state = this.in_flight.state();
        if *this.has_body && may_leave_body(response.status()) {
            state.leave_body_unread();
        }
        if *this.version < Version::HTTP_2 && (state.is_closing() || ends_connection(response.status())) {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        if *this.is_head {
            leave_body_out(&mut response);
        }
        state.watch(response.body_mut());
        Poll::Ready(Ok(response))
    }
}

/// Makes it the response to `HEAD`: its length is that of the body it would have had. Only over
/// HTTP/1 would hyper leave the body out by itself (RFC 9110 §9.3.2).
fn leave_body_out(response: &mut Response<Body>) {
    let body = std::mem::take(response.body_mut());
    if let Some(length) = body.size_hint().exact() {
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
}

/// Whether a response with this status may have been made before the body was read.
fn may_leave_body(status: StatusCode) -> bool {
    status.is_client_error() || matches!(status, StatusCode::NOT_IMPLEMENTED | StatusCode::SERVICE_UNAVAILABLE)
}

/// Whether the rest of the body is not awaited after a response with this status, so that the
/// connection ends and should say so (RFC 9110 §15.5.9, §15.5.14).
fn ends_connection(status: StatusCode) -> bool {
    matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::PAYLOAD_TOO_LARGE)
}

/// Runs the streams of HTTP/2 connections as tasks that the drain awaits, each with its memory
/// reservation.
#[derive(Clone, Debug)]
struct Spawner {
    tasks: Tasks,
    streams: StreamMemory,
}

impl<F> Executor<F> for Spawner
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn execute(&self, work: F) {
        let memory = self.streams.take();
        self.tasks.spawn("stream", async move {
            work.await;
            drop(memory);
        });
    }
}
