//! Drives one connection to its end.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::body::{Body as _, Incoming};
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use pin_project_lite::pin_project;
use tokio::sync::watch;
use tokio::time::Instant;
use tower::Service;

use super::Config;
use super::InboundRequest;
use super::accept::Accepted;
use super::connection_limit::ConnectionLimiter;
use super::connection_state::{ConnectionState, Draining, InFlight, Limits, Verdict};
use super::poll_when_woken::PollWhenWoken;
use super::socket::Socket;
use super::stream_memory::StreamMemory;
use crate::memory::MemoryBudget;
use crate::response::Body;
use crate::task::Tasks;

/// How far the listener is on its way down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Everything is taken.
    Serving,
    /// Everything is taken, and every answer asks for the connection to be closed.
    Lingering,
    /// Nothing new is taken.
    Draining(Instant),
    /// What is left is cut off.
    Cut,
}

/// How one connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By itself, or idle.
    Finished,
    /// With requests in flight, at the drain's limit.
    Cut,
}

/// What all connections of a listener share.
#[derive(Debug)]
pub(super) struct Shared {
    http: auto::Builder<Spawner>,
    header: Duration,
    idle: Duration,
    limiter: Arc<ConnectionLimiter>,
    streams: StreamMemory,
    large_answers: Option<Arc<MemoryBudget>>,
}

/// HTTP/2 flow-control windows: what a connection can make us hold of bodies that nobody has looked at yet.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 4 * STREAM_WINDOW;

impl Shared {
    pub(super) fn new(config: &Config, limiter: Arc<ConnectionLimiter>, tasks: &Tasks) -> Self {
        // Apart from heads: those that do not end would keep out whoever asks over HTTP/2.
        let streams = StreamMemory::new(MemoryBudget::new(config.head_bytes / 2));
        let mut http = auto::Builder::new(Spawner {
            tasks: tasks.clone(),
            streams: streams.clone(),
        });
        http.http1()
            .timer(TokioTimer::new())
            // `ConnectionState` does this better: hyper's timeout would also close idle connections of a client's pool.
            .header_read_timeout(None)
            // The end of what a caller sends is not the end of its interest; `PeerWatch` tells the two apart.
            .half_close(true)
            // `Config::MAX_HEADERS` is hyper's own limit. To set it would have hyper clear its tables for each request.
            .max_buf_size(Config::MAX_HEADER_BYTES as usize);
        http.http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(config.max_streams)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(Config::MAX_HEADER_BYTES)
            // Against rapid resets (CVE-2023-44487): so many streams may be opened and reset before we have looked at them.
            .max_pending_accept_reset_streams(20)
            // And so many may make us reset them, before the connection is closed.
            .max_local_error_reset_streams(64)
            // A peer that vanished without a word is found out, and does not hold its permit.
            .keep_alive_interval(config.idle_timeout.max(MIN_PING))
            .keep_alive_timeout(Duration::from_secs(20));
        Self {
            http,
            header: config.header_timeout,
            idle: config.idle_timeout,
            limiter,
            streams,
            large_answers: config.large_answers.clone(),
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            header: self.header,
            idle: self.idle,
            memory_is_wanted: self.large_answers.as_ref().is_some_and(|memory| memory.is_wanted()),
        }
    }

    /// Serves `accepted` until it ends; its slot goes back after everything else is gone. Cancel safe: dropping it cuts the connection.
    pub(super) async fn drive<S>(&self, accepted: Accepted, service: S, mut phase: watch::Receiver<Phase>) -> End
    where
        S: Service<InboundRequest<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
    {
        // The slot is dropped last: a connection counts until its socket is closed.
        let Accepted { stream, peer, slot } = accepted;
        let activity = Arc::clone(slot.activity());
        let socket = Socket::new(stream, peer.address(), Arc::clone(&activity), Arc::clone(&self.limiter));
        // One for all requests: copying the stack for each would cost as much as the rest of what it does for a hit.
        let service = RefCell::new(service);
        let answer = {
            let (activity, streams) = (Arc::clone(&activity), self.streams.clone());
            service_fn(move |request: Request<Incoming>| {
                let (version, has_body) = (request.version(), !request.body().is_end_stream());
                let in_flight = activity.request(version);
                let mut arrival = InboundRequest::new(request, peer.clone());
                if version == Version::HTTP_2 {
                    streams.admit(&mut arrival, &activity);
                }
                Answer {
                    response: call(&service, arrival),
                    version,
                    has_body,
                    in_flight,
                }
            })
        };
        let mut connection = pin!(self.http.serve_connection(TokioIo::new(socket), answer));
        let mut closing = None;
        loop {
            let now = *phase.borrow_and_update();
            if now != Phase::Serving {
                activity.start_closing();
            }
            let draining = match now {
                Phase::Serving | Phase::Lingering => Draining::No,
                Phase::Draining(since) => Draining::Since(since),
                Phase::Cut => return End::Cut,
            };
            let until = match activity.verdict(self.limits(), closing, draining) {
                Verdict::Wait(until) => until,
                Verdict::Cut => return End::Finished,
                Verdict::Close => {
                    closing = Some(Instant::now());
                    connection.as_mut().graceful_shutdown();
                    continue;
                }
            };
            let mut news = pin!(PollWhenWoken::new(news(&mut phase, &activity, until)));
            let happened = poll_fn(|context| {
                // First: what the listener has said counts for the next answer already.
                if let Poll::Ready(news) = news.as_mut().poll(context) {
                    return Poll::Ready(Err(news));
                }
                let ended = connection.as_mut().poll(context);
                activity.stamp();
                ended.map(Ok)
            });
            match happened.await {
                Ok(result) => {
                    if let Err(error) = result {
                        // The peer's business: it went away, or does not speak HTTP.
                        tracing::debug!(error, "a connection ended early");
                    }
                    return End::Finished;
                }
                Err(News::Gone) => return End::Cut,
                Err(News::Look) => {}
            }
        }
    }
}

/// What a connection hears from outside.
enum News {
    /// It is time to look at the connection, or the listener has something to say.
    Look,
    /// The listener is gone.
    Gone,
}

async fn news(phase: &mut watch::Receiver<Phase>, activity: &ConnectionState, until: Instant) -> News {
    tokio::select! {
        () = activity.asked_to_make_way() => News::Look,
        () = tokio::time::sleep_until(until) => News::Look,
        changed = phase.changed() => changed.map_or(News::Gone, |()| News::Look),
    }
}

/// Pings more often than this are taken for a flood by some peers.
const MIN_PING: Duration = Duration::from_secs(20);

/// Hands a request to a service that is always ready, as the whole stack is: where a request has to wait, it can be refused.
fn call<S>(service: &RefCell<S>, request: InboundRequest<Incoming>) -> S::Future
where
    S: Service<InboundRequest<Incoming>, Response = Response<Body>, Error = Infallible>,
{
    // Nothing below comes back here: this is borrowed once at a time.
    let mut service = service.borrow_mut();
    let ready = service.poll_ready(&mut Context::from_waker(Waker::noop()));
    debug_assert!(ready.is_ready(), "nobody would wake the request");
    service.call(request)
}

pin_project! {
    /// The answer to one request, completed. An `async` function would move it once more.
    struct Answer<F> {
        #[pin]
        response: F,
        version: Version,
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
        let activity = this.in_flight.activity();
        if *this.has_body && may_leave_body(response.status()) {
            activity.leave_body_unread();
        }
        if *this.version < Version::HTTP_2 && activity.takes_leave() {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        activity.watch(response.body_mut());
        Poll::Ready(Ok(response))
    }
}

/// Whether an answer with this status may have been made before the body was read.
fn may_leave_body(status: StatusCode) -> bool {
    status.is_client_error() || matches!(status, StatusCode::NOT_IMPLEMENTED | StatusCode::SERVICE_UNAVAILABLE)
}

/// Runs the streams of HTTP/2 connections as tasks that the drain knows of, each with its memory.
#[derive(Clone, Debug)]
pub(super) struct Spawner {
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
