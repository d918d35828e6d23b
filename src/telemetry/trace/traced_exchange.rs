//! Traces an exchange by itself, such as a sign-in.

use bytes::Bytes;
use http::{Request, Response};
use opentelemetry::trace::SpanKind;
use tower::ServiceExt as _;
use tower::util::BoxCloneSyncService;

use super::Tracer;
use crate::net::Exchange;

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
