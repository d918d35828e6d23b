//! Counts and logs every question, once, when it has ended.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use http::{Response, StatusCode};
use pin_project_lite::pin_project;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::time::Instant;
use tower::Service;
use tracing::Span;
use tracing::level_filters::LevelFilter;

use super::{Arrival, Trouble};
use crate::caller::RequestId;
use crate::respond::{Answered, Ended, Outcome};
use crate::scan::{self, Operation};
use crate::telemetry::trace::Trace;

/// The status that is counted when the caller went away before its answer. It is never sent.
pub const GONE: u16 = 499;

/// What callers were answered, and how fast.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    duration: Family<OutcomeLabel, Histogram>,
    panics: Counter,
    trouble: Trouble,
    /// The counters of good answers, looked up once: a hit must not pay for finding them.
    good: Arc<[Good; Operation::ALL.len()]>,
}

/// By outcome.
type Good = [OnceLock<(Counter, Histogram)>; scan::Outcome::ALL.len()];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    operation: &'static str,
    outcome: &'static str,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// From a hit in memory to the longest wait in the queue, in seconds.
const BUCKETS: [f64; 16] = [
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0, 600.0,
];

impl Metrics {
    /// Registers `requests`, `request_duration_seconds` and `panics`.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            duration: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            panics: Counter::default(),
            trouble: Trouble::default(),
            good: Arc::default(),
        };
        registry.register(
            "requests",
            "Questions answered, by operation (`none`: the path is unknown), how, and with which status (499: the caller went away)",
            metrics.requests.clone(),
        );
        registry.register(
            "request_duration_seconds",
            "Time from the last header field to the answer",
            metrics.duration.clone(),
        );
        registry.register(
            "panics",
            "Requests lost to a defect in the gateway",
            metrics.panics.clone(),
        );
        metrics
    }

    /// For [`respond::Config`](crate::respond::Config).
    #[must_use]
    pub fn panics(&self) -> Counter {
        self.panics.clone()
    }

    /// The latest questions that did not get a good answer.
    #[must_use]
    pub fn trouble(&self) -> Trouble {
        self.trouble.clone()
    }

    fn count(&self, operation: Option<Operation>, outcome: Outcome, status: u16, seconds: f64) {
        let look_up = || self.look_up(operation, outcome, status);
        let (requests, duration) = match (operation, outcome) {
            (Some(operation), Outcome::Served(served)) if status == 200 => {
                self.good[operation as usize][served as usize].get_or_init(look_up)
            }
            _ => &look_up(),
        };
        requests.inc();
        duration.observe(seconds);
    }

    fn look_up(&self, operation: Option<Operation>, outcome: Outcome, status: u16) -> (Counter, Histogram) {
        let outcome = outcome.as_str();
        let labels = RequestLabels {
            operation: operation.map_or("none", |operation| operation.declaration().name),
            outcome,
            status,
        };
        let requests = self.requests.get_or_create_owned(&labels);
        let duration = self.duration.get_or_create_owned(&OutcomeLabel { outcome });
        (requests, duration)
    }
}

/// Counts every answer to a question, in a span with the request's id.
#[derive(Clone, Debug)]
pub struct Layer {
    metrics: Arc<Metrics>,
}

impl Layer {
    /// A layer that counts into `metrics`.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self {
            metrics: Arc::new(metrics),
        }
    }
}

impl<S> tower::Layer<S> for Layer {
    type Service = Count<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Count {
            inner,
            metrics: Arc::clone(&self.metrics),
        }
    }
}

/// The service of [`Layer`].
#[derive(Clone, Debug)]
pub struct Count<S> {
    inner: S,
    metrics: Arc<Metrics>,
}

impl<S, B, T> Service<Arrival<B>> for Count<S>
where
    S: Service<Arrival<B>, Response = Answered<T>, Error = Infallible>,
{
    type Response = Response<T>;
    type Error = Infallible;
    type Future = Counting<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Arrival<B>) -> Self::Future {
        let known = request.known();
        // At the usual level only the last line is written, and it gets its span when it is.
        let is_heard = LevelFilter::current() > LevelFilter::INFO;
        let started = Started {
            metrics: Arc::clone(&self.metrics),
            at: known.at,
            span: is_heard.then(|| Box::new(span(&known.id, &known.trace))),
            trace: known.trace.clone(),
            operation: known.target.as_ref().map(|target| target.endpoint.operation),
            answered: false,
        };
        let answer = started.within(|| self.inner.call(request));
        Counting { answer, started }
    }
}

/// What a request is called in logs.
fn span(id: &RequestId, trace: &Trace) -> Span {
    tracing::info_span!(
        "request",
        request_id = id.as_str(),
        trace_id = trace.id().map(tracing::field::display)
    )
}

pin_project! {
    /// An answer that will be counted, whether it comes or not.
    #[derive(Debug)]
    pub struct Counting<F> {
        #[pin]
        answer: F,
        started: Started,
    }
}

impl<F, T> Future for Counting<F>
where
    F: Future<Output = Result<Answered<T>, Infallible>>,
{
    type Output = Result<Response<T>, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = this.answer;
        let mut answered = ready!(this.started.within(|| answer.poll(context)))?;
        this.started.finish(&answered);
        let mut response = answered.response;
        if let (Some(ended), Trace::Traced(_)) = (answered.ended.take(), &this.started.trace) {
            // For the span of the request, which is ended further out.
            response.extensions_mut().insert(ended);
        }
        Poll::Ready(Ok(response))
    }
}

/// A request on its way. Dropped without an answer, it is counted as one whose caller went away.
#[derive(Debug)]
struct Started {
    metrics: Arc<Metrics>,
    at: Instant,
    trace: Trace,
    operation: Option<Operation>,
    /// Boxed: it seldom is there, and the request is moved about.
    span: Option<Box<Span>>,
    answered: bool,
}

impl Started {
    /// Does something in the request's span.
    fn within<T>(&self, work: impl FnOnce() -> T) -> T {
        match &self.span {
            Some(span) => span.in_scope(work),
            None => work(),
        }
    }

    fn finish<T>(&mut self, answered: &Answered<T>) {
        self.answered = true;
        let (status, seconds) = (
            answered.response.status(),
            answered.at.saturating_duration_since(self.at).as_secs_f64(),
        );
        // `OPTIONS` is no question.
        let Some(ended) = &answered.ended else { return };
        self.metrics
            .count(self.operation, ended.outcome, status.as_u16(), seconds);
        if status.as_u16() >= 400 {
            self.metrics.trouble.note(ended, status.as_u16(), answered.id.as_str());
            self.span
                .get_or_insert_with(|| Box::new(span(&answered.id, &self.trace)));
        }
        self.within(|| log(ended, status, seconds));
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if !self.answered {
            let seconds = self.at.elapsed().as_secs_f64();
            self.metrics.count(self.operation, Outcome::Failed, GONE, seconds);
            self.within(|| {
                tracing::debug!(outcome = "failed", status = GONE, seconds, "the caller went away");
            });
        }
    }
}

/// One line: a failure of ours or the upstream's is a warning, a refusal is information, the rest is for debugging.
fn log(ended: &Ended, status: StatusCode, seconds: f64) {
    let (outcome, status) = (ended.outcome.as_str(), status.as_u16());
    let error = ended.cause.as_deref();
    if status >= 500 && ended.outcome != Outcome::Refused {
        tracing::warn!(outcome, status, seconds, error, "request failed");
    } else if status >= 400 {
        tracing::info!(outcome, status, seconds, error, "request refused");
    } else {
        tracing::debug!(outcome, status, seconds, "request answered");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Peer;
    use tower::{Layer as _, ServiceExt as _, service_fn};

    fn exposition(registry: &Registry) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
        text
    }

    fn layer() -> (Layer, Registry) {
        let mut registry = Registry::default();
        (Layer::new(Metrics::register(&mut registry)), registry)
    }

    fn arrival() -> Arrival<()> {
        Arrival::new(http::Request::new(()), Peer::unix())
    }

    #[tokio::test]
    async fn an_answer_is_counted_by_outcome_and_status() {
        let (layer, registry) = layer();
        let service = layer.layer(service_fn(|_: Arrival<()>| async {
            Ok(Answered {
                response: Response::new(()),
                ended: Some(Ended {
                    outcome: Outcome::Served(scan::Outcome::Hit),
                    cause: None,
                }),
                id: RequestId::random(),
                at: Instant::now(),
            })
        }));
        service.oneshot(arrival()).await.unwrap();
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
        let mut service = layer.layer(service_fn(|_: Arrival<()>| {
            std::future::pending::<Result<Answered<()>, Infallible>>()
        }));
        drop(service.call(arrival()));
        let text = exposition(&registry);
        assert!(
            text.contains("requests_total{operation=\"none\",outcome=\"failed\",status=\"499\"} 1"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn options_are_no_questions() {
        let (layer, registry) = layer();
        let service = layer.layer(service_fn(|_: Arrival<()>| async {
            Ok(Answered {
                response: Response::new(()),
                ended: None,
                id: RequestId::random(),
                at: Instant::now(),
            })
        }));
        service.oneshot(arrival()).await.unwrap();
        assert!(!exposition(&registry).contains("requests_total{"));
    }
}
