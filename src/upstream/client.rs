//! The client that makes calls.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderName, USER_AGENT};
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use tokio::time::{Instant, timeout};
use tower::Service;
use url::Url;

use crate::attempt::{Authorized, Failure, Routed};
use crate::memory::{ALLOCATED_PER_BYTE, AnswerMemory, Exhausted, LARGE_ANSWER, Reservation};
use crate::net;
use crate::operation::Input;
use crate::scan::{self, Endpoint, Operation, ResponseKind, TokenOwner, UpstreamResponse};
use crate::telemetry::trace::{self, Span, SpanKind};
use crate::upstream::answer::{checked, without_lost_body};
use crate::upstream::metrics::Status;
use crate::upstream::{Error, Metrics, Reason};

/// The settings of calls.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The longest time for one attempt from a ready connection to the end of the answer, to which
    /// the time to connect is added (`net::Config`).
    pub timeout: Duration,
    /// The longest time from a ready connection to the first byte of the answer; no longer than
    /// `timeout`.
    pub head_timeout: Duration,
    /// The longest answer in bytes. A page of 10,000 rows of 300 bytes is 3 MB.
    pub max_answer_bytes: usize,
    /// How credentials in answers are treated.
    pub secrets: Secrets,
}

/// How credentials in answers are treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Secrets {
    /// They are replaced by null before they leave this module.
    #[default]
    Replaced,
    /// They are passed on, and answers with credentials are not stored anywhere.
    Passed,
}

impl Config {
    /// Settings for attempts of at most `timeout`, of which a quarter is reserved for the body: an
    /// answer that has not begun by then is given up.
    pub fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            head_timeout: timeout * 3 / 4,
            max_answer_bytes: 64 * 1024 * 1024,
            secrets: Secrets::default(),
        }
    }
}

/// Makes one call. Any status except a redirect is an answer, and a 429 or 401 is one even when its
/// body cannot be read. Clones share the connections.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    net: net::Client,
    limits: net::Limits,
    memory: AnswerMemory,
    secrets: Secrets,
    metrics: Metrics,
}

impl Client {
    /// A client over `net`'s connections, whose answers reserve from `memory`.
    pub fn new(net: net::Client, config: Config, memory: AnswerMemory, metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            net: net.with_large_bodies(Arc::clone(&memory.large)),
            limits: net::Limits {
                head: config.head_timeout.min(config.timeout),
                whole: config.timeout,
                body_bytes: config.max_answer_bytes.min(memory.max_answer()),
            },
            memory,
            secrets: config.secrets,
            metrics,
        }))
    }
}

impl Inner {
    async fn exchange(&self, signed: &Authorized, span: &Span) -> Result<Response<Bytes>, Reason> {
        let mut request = http_request(signed).ok_or(Reason::Unbuildable)?;
        if let Some(context) = span.context() {
            trace::write(context, request.headers_mut());
        }
        let stall_timeout = || signed.routed.stall_timeout.elapsed();
        let sent = self.net.send_with(request, self.limits, stall_timeout).await;
        sent.or_else(without_lost_body).map_err(Reason::Exchange)
    }

    /// Memory for a call with a small answer. Until then it has not left, so it waits no longer than
    /// until `deadline`, or for a moment.
    async fn reserve(&self, deadline: Instant) -> Result<Reservation, Reason> {
        let left = deadline.saturating_duration_since(Instant::now());
        let patience = left.max(MOMENT).min(net::MEMORY_WAIT);
        let reserved = timeout(patience, self.memory.small.reserve(CALL)).await;
        reserved.map_err(|_| Reason::NoMemory {
            exhausted: Exhausted { of: "calls" },
            is_out_of_time: patience < net::MEMORY_WAIT,
        })
    }
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The number of header fields set here, with room for those of a trace and the client.
const FIELDS: usize = 10;
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const AGENT: HeaderValue = HeaderValue::from_static(concat!("defender-gateway/", env!("CARGO_PKG_VERSION")));

/// The request for `signed`; `None` when the base address cannot be put into a request, or the
/// token into a header field, which the sign-in does not allow.
fn http_request(signed: &Authorized) -> Option<Request<Bytes>> {
    let charged = &signed.routed.charged;
    let bearer = signed.bearer.bearer()?;
    let mut request = Request::new(charged.request.body());
    let declared = charged.request.endpoint().operation.declaration();
    *request.method_mut() = declared.upstream_method();
    *request.uri_mut() = address(&signed.routed.base, &charged.request)?;
    let headers = request.headers_mut();
    headers.reserve(FIELDS);
    headers.insert(AUTHORIZATION, bearer);
    if declared.input != Input::Path {
        headers.insert(CONTENT_TYPE, JSON);
    }
    headers.insert(ACCEPT, JSON);
    // Bodies are passed on byte for byte, and not every caller can decompress them.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(USER_AGENT, AGENT);
    if let Ok(id) = HeaderValue::from_str(charged.caller.request_id.as_str()) {
        headers.insert(REQUEST_ID, id);
    }
    Some(request)
}

/// The operation's own path on the host, with the request's query and nothing else. No other path
/// can be built here.
fn address(base: &Url, request: &scan::Request) -> Option<Uri> {
    let mut url = base.clone();
    url.set_path(&request.upstream_path());
    url.set_fragment(None);
    url.set_query(None);
    match request.query() {
        None => url.as_str().parse().ok(),
        // Unchanged, because a URL parser would escape other characters than the caller did.
        Some(query) => format!("{url}?{query}").parse().ok(),
    }
}

/// How long a call waits for memory whose caller would wait no more: it has its slot.
const MOMENT: Duration = Duration::from_secs(1);

/// The memory of a call: its connection, and a small answer while it grows.
const CALL: usize = LARGE_ANSWER * ALLOCATED_PER_BYTE;

/// The answer with its part of `memory`. A large one has its own reservation already.
fn kept(response: Response<Bytes>, mut memory: Reservation) -> Response<Bytes> {
    response.map(|body| {
        if body.len() > LARGE_ANSWER {
            return body;
        }
        // A copy, because a slice of a read buffer would keep the whole buffer alive.
        memory.shrink_to(body.len());
        memory.hold(Bytes::copy_from_slice(&body))
    })
}

impl Service<Authorized> for Client {
    type Response = UpstreamResponse;
    type Error = Failure;
    type Future = BoxFuture<'static, Result<UpstreamResponse, Failure>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, signed: Authorized) -> Self::Future {
        let client = Arc::clone(&self.0);
        Box::pin(async move {
            let Routed { charged, base, .. } = &signed.routed;
            let call = &charged.trace;
            let region = client.metrics.region(base);
            let operation = charged.request.endpoint().operation;
            let mut span = call.child(method_name(operation), SpanKind::Client);
            describe(&mut span, base, &region, &charged.request);
            let reserved = client.reserve(charged.caller.deadline).await;
            let begun = Instant::now();
            let answer = match reserved {
                Ok(memory) => {
                    let answer = client.exchange(&signed, &span).await;
                    answer.map(|answer| kept(answer, memory))
                }
                Err(exhausted) => Err(exhausted),
            };
            let owner = TokenOwner::of(&charged.request);
            let without_secrets = |answer: UpstreamResponse| match client.secrets {
                Secrets::Replaced => answer.without_secrets(charged.request.endpoint()),
                Secrets::Passed => answer.with_secrets(charged.request.endpoint()),
            };
            let result = answer.and_then(checked);
            let result = result.map(without_secrets).map_err(|reason| {
                let host = base.host_str().unwrap_or_default().to_owned();
                Error::new(host, reason)
            });
            let code = result.as_ref().ok().map(|answer| answer.status.as_u16());
            let status = match &result {
                Ok(answer) => shown(charged.request.endpoint(), answer),
                Err(error) => Status::Error(error.proxy_status()),
            };
            conclude(&mut span, code, status);
            drop(span);
            call.attempted(&region, code);
            if owner == TokenOwner::Gateway {
                let forbidden = result
                    .as_ref()
                    .ok()
                    .filter(|answer| answer.status == StatusCode::FORBIDDEN);
                let code = forbidden.and_then(UpstreamResponse::rejection_code);
                client.metrics.recent().note(status, code);
            }
            // Without memory it says nothing about how long Defender takes.
            let is_exhausted = result.as_ref().is_err_and(Error::is_exhausted);
            let took = (!is_exhausted).then(|| begun.elapsed());
            client.metrics.count(region, operation, status, owner, took);
            result.map_err(Failure::from)
        })
    }
}

/// Adds what is known about an attempt before it is made, by the semantic conventions. The query is
/// left out, because its options are the caller's, and the path is shown without its id.
fn describe(span: &mut Span, base: &Url, region: &Arc<str>, request: &scan::Request) {
    if !span.is_recorded() {
        return;
    }
    let endpoint = request.endpoint();
    span.set("http.request.method", method_name(endpoint.operation));
    span.set("server.address", base.host_str().unwrap_or_default().to_owned());
    span.set(
        "server.port",
        i64::from(base.port_or_known_default().unwrap_or_default()),
    );
    let base = base.as_str().trim_end_matches('/');
    span.set("url.full", [base, &endpoint.template()].concat());
    span.set("defender_gateway.region", Arc::clone(region));
}

/// The method, as a name for spans.
fn method_name(operation: Operation) -> &'static str {
    match operation.declaration().input {
        Input::Path => "GET",
        Input::Ids { .. } => "POST",
    }
}

/// How a response is counted. The status of one that is no answer of Defender's, such as the 403 of
/// a proxy, would mislead; callers are told the same (RFC 9209).
fn shown(endpoint: Endpoint, answer: &UpstreamResponse) -> Status {
    match ResponseKind::of(endpoint, answer) {
        ResponseKind::Fault(fault) if !fault.may_pass() => Status::Error("http_protocol_error"),
        _ => Status::Answer(answer.status),
    }
}

/// Adds the result, with the response's status, if there was a response.
fn conclude(span: &mut Span, code: Option<u16>, status: Status) {
    if let Some(code) = code {
        span.set("http.response.status_code", i64::from(code));
    }
    match status {
        Status::Answer(status) if status.is_success() => {}
        Status::Answer(status) => span.fail(status.as_str().to_owned()),
        Status::Error(token) => span.fail(token),
    }
}
