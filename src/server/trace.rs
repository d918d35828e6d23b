//! Puts every request into a trace: the caller's, or a new one.

use std::borrow::Cow;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::{BoxFuture, Either, FutureExt as _};
use http::{HeaderMap, Method, Response, Version as Protocol};
use tower::Service;

use crate::response::{Ended, Outcome};
use crate::scan::Target;
use crate::server::count::CLIENT_CLOSED_REQUEST;
use crate::server::{InboundRequest, Known};
use crate::telemetry::trace::{self, Span, SpanKind, Trace, Tracer};

/// Reads `traceparent`, and gives every request a span while tracing is on. While it is off, a caller's trace is only passed on.
#[derive(Clone, Debug)]
pub struct Layer {
    tracer: Tracer,
}

impl Layer {
    /// Spans come from `tracer`.
    #[must_use]
    pub fn new(tracer: Tracer) -> Self {
        Self { tracer }
    }
}

impl<S> tower::Layer<S> for Layer {
    type Service = Traced<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Traced {
            inner,
            tracer: self.tracer.clone(),
        }
    }
}

/// The service of [`Layer`].
#[derive(Clone, Debug)]
pub struct Traced<S> {
    inner: S,
    tracer: Tracer,
}

impl<S, B, T> Service<InboundRequest<B>> for Traced<S>
where
    S: Service<InboundRequest<B>, Response = Response<T>>,
    S::Future: Send + 'static,
    S::Error: Send,
    T: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, BoxFuture<'static, Result<S::Response, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: InboundRequest<B>) -> Self::Future {
        let known = request.known();
        let parent = if known.plain {
            None
        } else {
            trace::read(known.head.headers())
        };
        if !self.tracer.is_on() {
            if let Some(parent) = parent {
                request.set_trace(Trace::Passing(Arc::new(parent)));
            }
            return Either::Left(self.inner.call(request));
        }
        let span = self.tracer.start(parent, name(request.known()), SpanKind::Server);
        let trace = Trace::of(&span, &self.tracer);
        request.set_trace(trace.clone());
        if !span.is_recorded() {
            return Either::Left(self.inner.call(request));
        }
        let mut open = Open {
            span,
            trace,
            answered: false,
        };
        describe(&mut open.span, request.known());
        let answer = self.inner.call(request);
        let traced = async move {
            let answer = answer.await?;
            open.finish(&answer);
            Ok(answer)
        };
        Either::Right(traced.boxed())
    }
}

/// Method and route. Nothing that the caller chose freely, so that names are few.
fn name(known: &Known) -> Cow<'static, str> {
    let method = method(known.head.method());
    match &known.target {
        Some(target) => format!("{method} {}", target.endpoint.template()).into(),
        None if method == OTHER => "HTTP".into(),
        None => method.into(),
    }
}

/// The conventions' word for methods that we have never heard of.
const OTHER: &str = "_OTHER";

fn method(method: &Method) -> &'static str {
    const KNOWN: [&str; 10] = [
        "POST", "QUERY", "OPTIONS", "GET", "HEAD", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT",
    ];
    KNOWN
        .into_iter()
        .find(|known| *known == method.as_str())
        .unwrap_or(OTHER)
}

/// What is known before the answer. A path that is not ours, and every query, may hold anything, and are left out.
fn describe(span: &mut Span, known: &Known) {
    let request = &known.head;
    span.set("http.request.method", method(request.method()));
    span.set("url.scheme", "http");
    if let Some(Target { endpoint, id }) = &known.target {
        span.set("url.path", endpoint.path(id.as_ref()));
        span.set("http.route", endpoint.template());
    }
    span.set(
        "network.protocol.version",
        if request.version() == Protocol::HTTP_2 {
            "2"
        } else {
            "1.1"
        },
    );
    span.set("client.address", known.peer.name().as_str().to_owned());
    span.set("defender_gateway.request_id", known.id.as_str().to_owned());
}

/// A request on its way. Dropped without an answer, its caller went away.
struct Open {
    span: Span,
    trace: Trace,
    answered: bool,
}

impl Open {
    fn finish<T>(&mut self, answer: &Response<T>) {
        self.answered = true;
        let status = answer.status();
        self.span.set("http.response.status_code", i64::from(status.as_u16()));
        if let Some(ended) = answer.extensions().get::<Ended>() {
            self.span.set("defender_gateway.outcome", ended.outcome.as_str());
        }
        if let Some(said) = cache_status(answer.headers()) {
            self.span.set("defender_gateway.cache_status", said.to_owned());
        }
        let facts = self.trace.facts();
        if let Some(wait) = facts.queue_wait {
            self.span.set("defender_gateway.queue.wait", wait.as_secs_f64());
        }
        if let Some(region) = facts.region {
            self.span.set("defender_gateway.region", region);
        }
        if let Some(status) = facts.upstream_status {
            self.span
                .set("defender_gateway.upstream.status_code", i64::from(status));
        }
        for call in &facts.calls {
            self.span.link(call);
        }
        // A refusal is no fault of a server.
        if status.is_server_error() {
            self.span.fail(status.as_str().to_owned());
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.answered {
            self.span
                .set("http.response.status_code", i64::from(CLIENT_CLOSED_REQUEST));
            self.span.set("defender_gateway.outcome", Outcome::Gone.as_str());
            self.span.fail("caller_gone");
        }
    }
}

/// `Cache-Status` without our name: `hit; ttl=21`.
fn cache_status(fields: &HeaderMap) -> Option<&str> {
    let field = fields.get("cache-status")?.to_str().ok()?;
    Some(field.split_once(';').map_or(field, |(_, said)| said.trim()))
}
