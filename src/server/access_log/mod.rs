//! Counts and logs every request once, when it has ended: by outcome, by caller, and as recent
//! errors for the status page.
//!
//! Not here: what an outcome is (`response`), and calls to the upstream (`upstream`). Invariant:
//! memory is bounded, whatever names and paths callers send.

mod callers;
mod metrics;
mod open_request;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{HeaderName, Response};
use hyper::body::Body;
use pin_project_lite::pin_project;
use tower::Service;
use tracing::level_filters::LevelFilter;

use super::{InboundRequest, RequestMeta};
use crate::caller::Name;
use crate::response::Answered;
use crate::telemetry::trace::Trace;
use open_request::{Access, OpenRequest, Origin, Subject, span};

pub use metrics::{ErrorRecord, Metrics, RecentErrors};
pub(super) use open_request::unanswered;

/// The status that is counted when the caller went away before its response. It is never sent.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// The settings of counting and logging.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The header field with the caller's name; `None` to use the peer's address.
    pub caller_header: Option<HeaderName>,
    /// Whether each request gets a line in the access log, not only those that were refused or
    /// failed.
    pub access_log: bool,
}

#[cfg(test)]
impl Default for Config {
    fn default() -> Self {
        Self {
            caller_header: Some(HeaderName::from_static("x-caller")),
            access_log: false,
        }
    }
}

/// Counts every response to an operation, in a span with the request's id.
#[derive(Clone, Debug)]
pub struct Layer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    metrics: Metrics,
    config: Config,
}

impl Layer {
    /// A layer that counts into `metrics`.
    pub fn new(metrics: Metrics, config: Config) -> Self {
        Self {
            shared: Arc::new(Shared { metrics, config }),
        }
    }
}

impl<S> tower::Layer<S> for Layer {
    type Service = AccessLogService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AccessLogService {
            inner,
            shared: Arc::clone(&self.shared),
            latest: None,
        }
    }
}

/// The service of [`Layer`]. Every connection has its own clone, which remembers its last caller.
#[derive(Debug)]
pub struct AccessLogService<S> {
    inner: S,
    shared: Arc<Shared>,
    latest: Option<Latest>,
}

/// The last caller, and the value of the header field that named it.
#[derive(Debug)]
struct Latest {
    field: Box<[u8]>,
    origin: Arc<Origin>,
}

impl<S: Clone> Clone for AccessLogService<S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            shared: Arc::clone(&self.shared),
            latest: None,
        }
    }
}

impl<S> AccessLogService<S> {
    /// The origin of a request, which is nearly always that of the connection's last request.
    fn origin(&mut self, meta: &RequestMeta) -> Arc<Origin> {
        let header = self.shared.config.caller_header.as_ref();
        let is_searched = |header: &&HeaderName| !meta.plain || crate::server::is_usual(header);
        let field = header
            .filter(is_searched)
            .and_then(|header| meta.head.headers().get(header));
        let field = field.map_or(&[][..], |value| value.as_bytes());
        if let Some(latest) = &self.latest
            && *latest.field == *field
            && !latest.origin.caller.is_replaced()
        {
            return Arc::clone(&latest.origin);
        }
        let given = std::str::from_utf8(field).ok().map(Name::new);
        let given = given.filter(|name| !name.as_str().is_empty());
        let name = given.unwrap_or_else(|| meta.peer.name());
        let origin = Arc::new(Origin {
            caller: self.shared.metrics.callers().get(&name),
            peer: meta.peer.clone(),
        });
        self.latest = Some(Latest {
            field: field.into(),
            origin: Arc::clone(&origin),
        });
        origin
    }
}

impl<S, B, T> Service<InboundRequest<B>> for AccessLogService<S>
where
    S: Service<InboundRequest<B>, Response = Answered<T>, Error = Infallible>,
    T: Body,
{
    type Response = Response<T>;
    type Error = Infallible;
    type Future = Counting<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: InboundRequest<B>) -> Self::Future {
        let origin = self.origin(request.meta());
        request.meta_mut().caller = origin.caller.name().clone();
        let meta = request.meta();
        let mut subject = Subject::new(origin, meta);
        if self.shared.config.access_log {
            subject.access = Some(Box::new(Access::of(&meta.head)));
        }
        // At the usual log level only the last line is written, which creates the span when it
        // needs it.
        let is_heard = LevelFilter::current() > LevelFilter::INFO;
        let open_request = OpenRequest {
            shared: Arc::clone(&self.shared),
            at: meta.at,
            span: is_heard.then(|| Box::new(span(&meta.id, &meta.trace))),
            id: meta.id.clone(),
            trace: meta.trace.clone(),
            subject,
            answered: false,
        };
        let answer = open_request.within(|| self.inner.call(request));
        Counting { answer, open_request }
    }
}

pin_project! {
    /// A response that will be counted, whether it comes or not.
    #[derive(Debug)]
    pub struct Counting<F> {
        #[pin]
        answer: F,
        open_request: OpenRequest,
    }
}

impl<F, T> Future for Counting<F>
where
    F: Future<Output = Result<Answered<T>, Infallible>>,
    T: Body,
{
    type Output = Result<Response<T>, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = this.answer;
        let mut answered = ready!(this.open_request.within(|| answer.poll(context)))?;
        this.open_request.finish(&answered);
        let mut response = answered.response;
        if let (Some(ended), Trace::Traced(_)) = (answered.ended.take(), &this.open_request.trace) {
            // For the request's trace span, which ends in an outer layer.
            response.extensions_mut().insert(ended);
        }
        Poll::Ready(Ok(response))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Empty;
    use prometheus_client::registry::Registry;
    use tokio::time::Instant;
    use tower::{Layer as _, ServiceExt as _, service_fn};

    use super::*;
    use crate::response::{Ended, Outcome};
    use crate::scan;
    use crate::server::Peer;

    fn exposition(registry: &Registry) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
        text
    }

    fn layer() -> (Layer, Registry) {
        let mut registry = Registry::default();
        (
            Layer::new(Metrics::register(&mut registry), Config::default()),
            registry,
        )
    }

    fn request() -> InboundRequest<()> {
        InboundRequest::new(http::Request::new(()), Peer::unix())
    }

    #[tokio::test]
    async fn an_answer_is_counted_by_outcome_and_status() {
        let (layer, registry) = layer();
        let service = layer.layer(service_fn(|_: InboundRequest<()>| async {
            Ok(Answered {
                response: Response::new(Empty::<bytes::Bytes>::new()),
                ended: Some(Ended {
                    outcome: Outcome::Served(scan::Outcome::Hit),
                    forward: None,
                    cause: None,
                }),
                at: Instant::now(),
            })
        }));
        service.oneshot(request()).await.unwrap();
        let text = exposition(&registry);
        assert!(
            text.contains("requests_total{operation=\"none\",outcome=\"hit\",status=\"200\"} 1"),
            "{text}"
        );
        assert!(
            text.contains("request_duration_seconds_count{outcome=\"hit\"} 1"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_is_counted_too() {
        let (layer, registry) = layer();
        let mut service = layer.layer(service_fn(|_: InboundRequest<()>| {
            std::future::pending::<Result<Answered<Empty<bytes::Bytes>>, Infallible>>()
        }));
        drop(service.call(request()));
        let text = exposition(&registry);
        assert!(
            text.contains("requests_total{operation=\"none\",outcome=\"gone\",status=\"499\"} 1"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn a_request_that_the_gateway_cuts_off_is_remembered_by_its_id() {
        let metrics = Metrics::register(&mut Registry::default());
        let layer = Layer::new(metrics.clone(), Config::default());
        let mut service = layer.layer(service_fn(|_: InboundRequest<()>| {
            std::future::pending::<Result<Answered<Empty<bytes::Bytes>>, Infallible>>()
        }));
        let peer = Peer::unix();
        let request = InboundRequest::new(http::Request::new(()), peer.clone());
        let id = request.meta().id.clone();
        let asked = service.call(request);
        peer.cut();
        drop(asked);
        let latest = metrics.recent_errors().latest();
        assert_eq!(latest.len(), 1);
        assert_eq!((latest[0].status, &*latest[0].request_id), (503, id.as_str()));
    }

    #[tokio::test]
    async fn requests_for_options_are_not_counted() {
        let (layer, registry) = layer();
        let service = layer.layer(service_fn(|_: InboundRequest<()>| async {
            Ok(Answered {
                response: Response::new(Empty::<bytes::Bytes>::new()),
                ended: None,
                at: Instant::now(),
            })
        }));
        service.oneshot(request()).await.unwrap();
        let text = exposition(&registry);
        let mut counts = text.lines().filter(|line| line.starts_with("requests_total{"));
        assert!(counts.all(|line| line.ends_with(" 0")), "{text}");
    }
}
