//! The call itself.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::CONTENT_ENCODING;
use http::{HeaderValue, Request, Response};
use tokio::time::{Instant, timeout};
use tower::Service;
use url::Url;

use crate::attempt::{Failure, Routed, Signed};
use crate::memory::{ALLOCATED_PER_BYTE, AnswerMemory, Exhausted, LARGE_ANSWER, Reservation};
use crate::net;
use crate::operation::Input;
use crate::scan::{self, Answer, Operation};
use crate::telemetry::trace::{self, Span, SpanKind};
use crate::upstream::header::TokenOwner;
use crate::upstream::host_calls::HostCalls;
use crate::upstream::metrics::Status;
use crate::upstream::{Error, Metrics, Reason, call, header};

/// Settings of the calls.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Longest time for one attempt from a ready connection to the end of the answer; connecting comes on top (`net::Config`).
    pub timeout: Duration,
    /// Longest time from a ready connection to the first byte of the answer; no longer than `timeout`.
    pub head_timeout: Duration,
    /// Longest answer, in bytes. A page of 10,000 rows of 300 bytes is 3 MB.
    pub max_answer_bytes: usize,
    /// What becomes of credentials in answers.
    pub secrets: Secrets,
}

/// What becomes of credentials in answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Secrets {
    /// They are replaced by null before anybody sees them.
    #[default]
    Replaced,
    /// They pass, and what holds some is kept nowhere.
    Passed,
}

impl Config {
    /// Settings for attempts of at most `timeout`, of which a quarter is kept for the body: an answer that has not begun by then is not
    /// worth the rest.
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            head_timeout: timeout * 3 / 4,
            max_answer_bytes: 64 * 1024 * 1024,
            secrets: Secrets::default(),
        }
    }
}

/// Makes one call. Any status but a redirect is an answer. Clones share the connections.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    net: net::Client,
    limits: net::Limits,
    memory: AnswerMemory,
    secrets: Secrets,
    user_agent: HeaderValue,
    metrics: Metrics,
    doors: Vec<(Arc<Url>, Arc<HostCalls>)>,
}

impl Client {
    /// A client over `net`'s connections, whose answers take from `memory`.
    #[must_use]
    pub fn new(net: net::Client, config: Config, memory: AnswerMemory, metrics: Metrics) -> Self {
        let door = |(base, region)| (Arc::clone(&base), Arc::new(HostCalls::new(base, region)));
        Self(Arc::new(Inner {
            net: net.with_large_bodies(Arc::clone(&memory.large)),
            limits: net::Limits {
                head: config.head_timeout.min(config.timeout),
                whole: config.timeout,
                body_bytes: config.max_answer_bytes.min(memory.max_answer()),
            },
            memory,
            secrets: config.secrets,
            user_agent: HeaderValue::from_static(concat!("defender-gateway/", env!("CARGO_PKG_VERSION"))),
            doors: metrics.regions().map(door).collect(),
            metrics,
        }))
    }
}

impl Inner {
    async fn exchange(&self, signed: &Signed, door: &HostCalls, span: &Span) -> Result<Response<Bytes>, Reason> {
        let Some(request) = self.request(signed, door, span) else {
            return Err(Reason::Unbuildable);
        };
        let stall_timeout = || signed.routed.stall_timeout.elapsed();
        // Awaited here, where the request is at once out of the way.
        let sent = self.net.send_with(request, self.limits, stall_timeout).await;
        sent.map_err(Reason::Exchange)
    }

    /// The host at `base`. One that no region is at, which cannot occur, would be counted as `other`.
    fn door(&self, base: &Arc<Url>) -> Arc<HostCalls> {
        // Nearly always it is the very address, and there are few.
        let same = |(other, _): &&(Arc<Url>, Arc<HostCalls>)| Arc::ptr_eq(other, base);
        let equal = |(other, _): &&(Arc<Url>, Arc<HostCalls>)| other == base;
        let found = self.doors.iter().find(same).or_else(|| self.doors.iter().find(equal));
        match found {
            Some((_, door)) => Arc::clone(door),
            None => Arc::new(HostCalls::new(Arc::clone(base), "other".into())),
        }
    }

    /// Memory for a call with a small answer.
    async fn reserve(&self) -> Result<Reservation, Reason> {
        let reserved = timeout(net::MEMORY_WAIT, self.memory.small.reserve(CALL)).await;
        reserved.map_err(|_| Reason::NoMemory(Exhausted { of: "calls" }))
    }

    /// What is sent; `None` when that cannot be built.
    fn request(&self, signed: &Signed, door: &HostCalls, span: &Span) -> Option<Request<Bytes>> {
        let address = door.address(&signed.routed.outgoing.request)?;
        let mut request = call::request(signed, address, &self.user_agent)?;
        if let Some(context) = span.context() {
            trace::write(context, request.headers_mut());
        }
        Some(request)
    }
}

/// What a call takes: its connection, and a small answer while it grows.
const CALL: usize = LARGE_ANSWER * ALLOCATED_PER_BYTE;

/// The answer with its part of `memory`. A large one has been paid for already.
fn kept(response: Response<Bytes>, mut memory: Reservation) -> Response<Bytes> {
    response.map(|body| {
        if body.len() > LARGE_ANSWER {
            return body;
        }
        // Copied: a slice of a read buffer would keep the whole buffer alive.
        memory.shrink_to(body.len());
        memory.hold(Bytes::copy_from_slice(&body))
    })
}

/// The answer that may be passed on.
fn checked(response: Response<Bytes>, owner: TokenOwner) -> Result<Answer, Reason> {
    let (head, body) = response.into_parts();
    if head.status.is_redirection() {
        return Err(Reason::Redirect { status: head.status });
    }
    if head.status.is_informational() || head.status.as_u16() > 599 {
        return Err(Reason::Status { status: head.status });
    }
    if !head.headers.get_all(CONTENT_ENCODING).iter().all(header::is_identity) {
        return Err(Reason::Encoded);
    }
    Ok(Answer {
        status: head.status,
        headers: header::allowed(&head.headers, owner),
        body,
    })
}

impl Service<Signed> for Client {
    type Response = Answer;
    type Error = Failure;
    type Future = BoxFuture<'static, Result<Answer, Failure>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, signed: Signed) -> Self::Future {
        let client = Arc::clone(&self.0);
        Box::pin(async move {
            let begun = Instant::now();
            let Routed { outgoing, base, .. } = &signed.routed;
            let call = &outgoing.trace;
            let door = client.door(base);
            let region = door.region();
            let operation = outgoing.request.endpoint().operation;
            let mut span = call.child(method_name(operation), SpanKind::Client);
            describe(&mut span, base, region, &outgoing.request);
            let answer = match client.reserve().await {
                Ok(memory) => client
                    .exchange(&signed, &door, &span)
                    .await
                    .map(|answer| kept(answer, memory)),
                Err(exhausted) => Err(exhausted),
            };
            let owner = TokenOwner::of(&outgoing.request);
            let without_secrets = |answer: Answer| match client.secrets {
                Secrets::Replaced => answer.without_secrets(outgoing.request.endpoint()),
                Secrets::Passed => answer,
            };
            let result = answer.and_then(|response| checked(response, owner));
            let result = result.map(without_secrets).map_err(|reason| {
                let host = base.host_str().unwrap_or_default().to_owned();
                Error::new(host, reason)
            });
            let status = match &result {
                Ok(answer) => Status::Answer(answer.status),
                Err(error) => Status::Error(error.proxy_status()),
            };
            conclude(&mut span, status);
            drop(span);
            call.attempted(region, status.code());
            if owner == TokenOwner::Gateway {
                client.metrics.recent().note(status);
            }
            door.count(&client.metrics, operation, status, begun.elapsed());
            result.map_err(Failure::from)
        })
    }
}

/// What is known of an attempt before it is made, in the semantic conventions' words. The query is left out: its options are the caller's.
fn describe(span: &mut Span, base: &Url, region: &Arc<str>, request: &scan::Request) {
    if !span.is_recorded() {
        return;
    }
    let (path, operation) = (request.upstream_path(), request.endpoint().operation);
    span.set("http.request.method", method_name(operation));
    span.set("server.address", base.host_str().unwrap_or_default().to_owned());
    span.set(
        "server.port",
        i64::from(base.port_or_known_default().unwrap_or_default()),
    );
    span.set("url.full", format!("{}{path}", base.as_str().trim_end_matches('/')));
    span.set("defender_gateway.region", Arc::clone(region));
}

/// The method, as a name for spans.
fn method_name(operation: Operation) -> &'static str {
    match operation.declaration().input {
        Input::Path => "GET",
        Input::Ids { .. } => "POST",
    }
}

/// What came of it.
fn conclude(span: &mut Span, status: Status) {
    if let Some(code) = status.code() {
        span.set("http.response.status_code", i64::from(code));
    }
    match status {
        Status::Answer(status) if status.is_success() => {}
        Status::Answer(status) => span.fail(status.as_str().to_owned()),
        Status::Error(token) => span.fail(token),
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("limits", &self.0.limits)
            .finish_non_exhaustive()
    }
}
