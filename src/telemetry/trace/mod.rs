//! Traces: spans of requests and calls, sent to a collector over OTLP, and W3C Trace Context from
//! callers to the upstream.
//!
//! ```text
//! traceparent ─► Span (server) ── Trace, on the caller ──► Call (for one request or many, linked to each) ──► Span (attempt) ─► traceparent
//!                      └───────────────────────┬───────────────────────────────────────────────────────────────────────┘
//!                                              ▼ bounded queue
//!                                           Exporter ─► POST /v1/traces
//! ```
//!
//! Spans are made by hand where a request passes, not from log lines: the log's level changes
//! nothing about traces. While tracing is off ([`Tracer::off`]) nothing here allocates, except for
//! a caller's own trace state that is passed on.
//!
//! Invariants: whoever ends a span never waits, whatever the collector does; what is kept is
//! bounded; no span holds a token, a secret, a body, an id or a path that is not ours.

mod call;
mod context;
mod export;
mod span;

#[cfg(test)]
mod tests;

use bytes::Bytes;
use http::{Request, Response};
use tower::ServiceExt as _;
use tower::util::BoxCloneSyncService;

use crate::net::Exchange;

pub use call::{Call, Participant, Trace};
pub use context::{TRACEPARENT, TRACESTATE, read, write};
pub use export::{Collector, Exporter, Metrics};
pub use opentelemetry::trace::SpanKind;
pub use opentelemetry_sdk::trace::Sampler;
pub use span::{Span, Tracer};

/// The same exchange, with a span for each request, in a trace of its own, because it is made for
/// no particular request.
///
/// The address and the status are recorded, but neither path, header fields nor bodies, which
/// contain the credential. For the same reason the trace is not sent to the other side.
pub fn traced(exchange: Exchange, tracer: &Tracer, name: &'static str) -> Exchange {
    if !tracer.is_on() {
        return exchange;
    }
    let tracer = tracer.clone();
    BoxCloneSyncService::new(tower::service_fn(move |request: Request<Bytes>| {
        let mut span = tracer.start(None, name, SpanKind::Client);
        span.set("http.request.method", request.method().to_string());
        span.set("server.address", request.uri().host().unwrap_or_default().to_owned());
        let answer = exchange.clone().oneshot(request);
        async move {
            let answer: Result<Response<Bytes>, _> = answer.await;
            match &answer {
                Ok(answer) => {
                    let status = answer.status();
                    span.set("http.response.status_code", i64::from(status.as_u16()));
                    if !status.is_success() {
                        span.fail(status.as_str().to_owned());
                    }
                }
                // The chain of causes could contain what was sent.
                Err(_) => span.fail("_OTHER"),
            }
            answer
        }
    }))
}
