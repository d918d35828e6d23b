//! Puts every request into a trace: the caller's, or a new one.

use std::borrow::Cow;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::{BoxFuture, Either, FutureExt as _};
use http::{HeaderMap, Method, Response, Version as Protocol};
use tower::Service;
use tower::layer::layer_fn;

use crate::response::{Ended, Outcome};
use crate::scan::Target;
use crate::server::access_log::unanswered;
use crate::server::{InboundRequest, Peer, RequestMeta};
use crate::telemetry::trace::{self, Span, SpanKind, Trace, Tracer};

/// Reads `traceparent`, and gives every request a span of `tracer` while tracing is on. While it is
/// off, a caller's trace is only passed on.
pub fn layer<S>(tracer: Tracer) -> impl tower::Layer<S, Service = Traced<S>> {
    layer_fn(move |inner| Traced {
        inner,
        tracer: tracer.clone(),
    })
}

/// The service of [`layer`].
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
        let meta = request.meta();
        let parent = if meta.plain {
            None
        } else {
            trace::read(meta.head.headers())
        };
        if !self.tracer.is_on() {
            if let Some(parent) = parent {
                request.meta_mut().trace = Trace::Passing(Arc::new(parent));
            }
            return Either::Left(self.inner.call(request));
        }
        let span = self.tracer.start(parent, name(request.meta()), SpanKind::Server);
        let trace = Trace::of(&span, &self.tracer);
        request.meta_mut().trace = trace.clone();
        if !span.is_recorded() {
            return Either::Left(self.inner.call(request));
        }
        let mut open = Open {
            span,
            peer: request.meta().peer.clone(),
            trace,
            answered: false,
        };
        describe(&mut open.span, request.meta());
        let answer = self.inner.call(request);
        let traced = async move {
            let answer = answer.await?;
            open.finish(&answer);
            Ok(answer)
        };
        Either::Right(traced.boxed())
    }
}

/// Method and route: nothing that the caller can choose freely, so that there are few names.
fn name(meta: &RequestMeta) -> Cow<'static, str> {
    let method = method(meta.head.method());
    match &meta.target {
        Some(target) => format!("{method} {}", target.endpoint.template()).into(),
        None if method == OTHER => "HTTP".into(),
        None => method.into(),
    }
}

/// The name for unknown methods in the semantic conventions.
const OTHER: &str = "_OTHER";

fn method(method: &Method) -> &'static str {
    const KNOWN: [&str; 10] = [
        "POST", "QUERY", "OPTIONS", "GET", "HEAD", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT",
    ];
    KNOWN.into_iter().find(|meta| *meta == method.as_str()).unwrap_or(OTHER)
}

/// Adds what is known before the response. Unknown paths and all queries may contain anything, and
/// are left out; ids in known paths are not shown.
fn describe(span: &mut Span, meta: &RequestMeta) {
    let request = &meta.head;
    span.set("http.request.method", method(request.method()));
    span.set("url.scheme", "http");
    if let Some(Target { endpoint, .. }) = &meta.target {
        span.set("url.path", endpoint.template());
        span.set("http.route", endpoint.template());
    }
    span.set("network.protocol.version", version(request.version()));
    span.set("client.address", meta.peer.name().as_str().to_owned());
    span.set("defender_gateway.request_id", meta.id.as_str().to_owned());
}

fn version(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::HTTP_2 => "2",
        Protocol::HTTP_10 => "1.0",
        _ => "1.1",
    }
}

/// A request in flight. Dropped without a response, it ended as [`unanswered`] says.
struct Open {
    span: Span,
    peer: Peer,
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
        // A refusal is not a server's error.
        if status.is_server_error() {
            self.span.fail(status.as_str().to_owned());
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.answered {
            let (outcome, status) = unanswered(&self.peer);
            self.span.set("http.response.status_code", i64::from(status));
            self.span.set("defender_gateway.outcome", outcome.as_str());
            self.span.fail(match outcome {
                Outcome::Gone => "caller_gone",
                _ => "cut_off",
            });
        }
    }
}

/// `Cache-Status` without our name: `hit; ttl=21`.
fn cache_status(fields: &HeaderMap) -> Option<&str> {
    let field = fields.get("cache-status")?.to_str().ok()?;
    Some(field.split_once(';').map_or(field, |(_, said)| said.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_written_as_the_semantic_conventions_write_them() {
        for (protocol, written) in [
            (Protocol::HTTP_10, "1.0"),
            (Protocol::HTTP_11, "1.1"),
            (Protocol::HTTP_2, "2"),
        ] {
            assert_eq!(version(protocol), written);
        }
    }
}
