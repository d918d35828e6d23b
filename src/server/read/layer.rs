//! The layer that parses requests.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use hyper::body::Body;
use pin_project_lite::pin_project;
use tower::Service;

use super::body::BodyReader;
use super::connection_context::{ConnectionContext, RequestHead};
use super::{Config, cache_control, prefer, priority};
use crate::BoxError;
use crate::caller::{CacheDirectives, Caller, Urgency};
use crate::memory::{ALLOCATED_PER_BYTE, MemoryBudget};
use crate::operation::Input;
use crate::response::{self, Reply, RequestError, Tag};
use crate::scan::{Call, ServedResponse};
use crate::server::{InboundRequest, RequestMeta};

/// Enough for the requests of some ten thousand callers that poll.
const REMEMBERED_BYTES: usize = 4 * 1024 * 1024;

/// The longest query. That of a link to a next page has some hundred bytes.
const MAX_QUERY_BYTES: usize = 8 * 1024;

/// Parses requests for the typed stack below.
#[derive(Clone, Debug)]
pub struct Layer {
    shared: Arc<Shared>,
}

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    config: Config,
    budget: Arc<MemoryBudget>,
    /// The memory of the last requests of all connections together.
    pub(super) last_request_budget: Arc<MemoryBudget>,
}

impl Layer {
    /// A layer with its own budget for bodies, which all its services share.
    pub fn new(config: Config) -> Self {
        // At least one body of the largest size must fit.
        let budget = MemoryBudget::new(config.body_budget.max(config.max_body * ALLOCATED_PER_BYTE));
        Self {
            shared: Arc::new(Shared {
                config,
                budget,
                last_request_budget: MemoryBudget::new(REMEMBERED_BYTES),
            }),
        }
    }
}

impl<S> tower::Layer<S> for Layer {
    type Service = Read<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Read(ConnectionContext::new(Arc::clone(&self.shared), inner))
    }
}

/// The service of [`Layer`]. Every connection has its own clone, which caches the connection's last
/// request.
#[derive(Debug)]
pub struct Read<S>(Arc<ConnectionContext<S>>);

impl<S: Clone> Clone for Read<S> {
    fn clone(&self) -> Self {
        Self(self.0.for_new_connection())
    }
}

impl<S, B> Service<InboundRequest<B>> for Read<S>
where
    S: Service<Call, Response = ServedResponse, Error = BoxError> + Clone,
    B: Body<Data = Bytes>,
{
    type Response = Reply;
    type Error = BoxError;
    type Future = Reading<S, B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // The services below are always ready: a request that has to wait waits in the queue, where
        // it can be refused.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: InboundRequest<B>) -> Self::Future {
        let (meta, body) = request.into_parts();
        let shared = &self.0.shared;
        let stage = match shared.read_head(&meta) {
            Ok(head) => Stage::Body {
                body: BodyReader::new(meta.head.headers(), body, &shared.config),
                head: Some(head),
            },
            Err(refusal) => Stage::Refused { refusal: Some(refusal) },
        };
        Reading {
            context: Arc::clone(&self.0),
            stage,
        }
    }
}

pin_project! {
    /// A request that is being read and then answered.
    #[derive(Debug)]
    pub struct Reading<S, B>
    where
        S: Service<Call>,
    {
        context: Arc<ConnectionContext<S>>,
        #[pin]
        stage: Stage<S::Future, B>,
    }
}

pin_project! {
    #[project = StageProjection]
    #[derive(Debug)]
    enum Stage<F, B> {
        Refused { refusal: Option<RequestError> },
        Body { #[pin] body: BodyReader<B>, head: Option<RequestHead> },
        Answer { #[pin] answer: F, preferences: response::ResponsePreferences },
    }
}

impl<S, B> Future for Reading<S, B>
where
    S: Service<Call, Response = ServedResponse, Error = BoxError> + Clone,
    B: Body<Data = Bytes>,
{
    type Output = Result<Reply, BoxError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Shared { config, budget, .. } = &*this.context.shared;
        loop {
            let answer = match this.stage.as_mut().project() {
                StageProjection::Refused { refusal } => {
                    let refusal = refusal.take().unwrap_or(RequestError::BodyBroken);
                    return Poll::Ready(Err(refusal.into()));
                }
                StageProjection::Answer { answer, preferences } => {
                    let served = ready!(answer.poll(context))?;
                    return Poll::Ready(Ok(Reply::Served(Box::new(served), std::mem::take(preferences))));
                }
                StageProjection::Body { body, head } => {
                    let received = ready!(body.poll(context, config, budget))?;
                    // Taken once, when the body is complete.
                    let mut head = head.take().ok_or(RequestError::BodyBroken)?;
                    let preferences = response::ResponsePreferences {
                        wait: head.caller.wait,
                        tag: std::mem::take(&mut head.tag),
                    };
                    Stage::Answer {
                        preferences,
                        answer: this.context.call(head, &received.bytes)?,
                    }
                }
            };
            this.stage.set(answer);
        }
    }
}

impl Shared {
    /// Parses the head, and rejects what can be rejected without the body.
    fn read_head(&self, meta: &RequestMeta) -> Result<RequestHead, RequestError> {
        let (uri, fields) = (meta.head.uri(), meta.head.headers());
        // The query is kept until the body has arrived.
        if uri.query().is_some_and(|query| query.len() > MAX_QUERY_BYTES) {
            return Err(RequestError::Fields);
        }
        let target = meta.target.clone().ok_or(RequestError::Path)?;
        let has_body = target.endpoint.operation.declaration().input != Input::Path;
        if has_body {
            check_type(fields)?;
        }
        if !meta.plain {
            check_codings(fields)?;
        }
        Ok(RequestHead {
            tag: if has_body {
                Tag::None
            } else {
                conditional(fields, meta.plain)
            },
            target,
            query: uri.query().map(Box::from),
            caller_token: self.config.authorization.read(fields)?,
            caller: Arc::new(self.caller(meta)),
            multiplexed: meta.head.version() >= http::Version::HTTP_2,
        })
    }

    fn preferences(&self, meta: &RequestMeta) -> RequestPreferences {
        if meta.plain {
            return RequestPreferences::default();
        }
        let fields = meta.head.headers();
        RequestPreferences {
            wait: prefer::wait(fields).map(|wait| wait.min(self.config.max_wait_limit)),
            urgency: priority::urgency(fields),
            cache_directives: cache_control::directives(fields),
        }
    }

    fn caller(&self, meta: &RequestMeta) -> Caller {
        let RequestPreferences {
            wait,
            urgency,
            cache_directives,
        } = self.preferences(meta);
        Caller {
            name: meta.caller.clone(),
            urgency,
            deadline: meta.at + wait.unwrap_or(self.config.max_wait),
            wait,
            cache_directives,
            request_id: meta.id.clone(),
            trace: meta.trace.clone(),
        }
    }
}

/// The caller's preferences in header fields.
#[derive(Default)]
struct RequestPreferences {
    wait: Option<Duration>,
    urgency: Urgency,
    cache_directives: CacheDirectives,
}

/// Accepts JSON in UTF-8 that is declared as such.
///
/// A missing type is rejected as well (415): a page of another site can make a browser send it
/// without a preflight request.
fn check_type(fields: &HeaderMap) -> Result<(), RequestError> {
    let mut types = fields.get_all(header::CONTENT_TYPE).iter();
    match (types.next().and_then(|media| media.to_str().ok()), types.next()) {
        (Some(media), None) if is_json(media) => Ok(()),
        _ => Err(RequestError::ContentType),
    }
}

/// Accepts bodies without a content coding. Requests with only [usual](crate::server::is_usual)
/// fields have none.
fn check_codings(fields: &HeaderMap) -> Result<(), RequestError> {
    let mut codings = fields.get_all(header::CONTENT_ENCODING).iter();
    if codings.any(|list| !list.as_bytes().split(|byte| *byte == b',').all(is_identity)) {
        return Err(RequestError::ContentEncoding);
    }
    if is_transfer_coded(fields) {
        return Err(RequestError::TransferEncoding);
    }
    Ok(())
}

/// Whether a coding changes nothing, or an element of a list is empty (RFC 9110 §5.6.1.2, §8.4.1).
fn is_identity(coding: &[u8]) -> bool {
    let coding = coding.trim_ascii();
    coding.is_empty() || coding.eq_ignore_ascii_case(b"identity")
}

/// Whether the response gets a tag, and which one the caller has.
fn conditional(fields: &HeaderMap, plain: bool) -> Tag {
    if plain || !fields.contains_key(header::IF_NONE_MATCH) {
        return Tag::Given;
    }
    let lines = fields.get_all(header::IF_NONE_MATCH).iter();
    let tags: Vec<_> = lines.filter_map(|line| line.to_str().ok()).collect();
    Tag::Unless(tags.join(",").into())
}

/// Whether a body has another transfer coding than `chunked`, or several: hyper decodes only the
/// former (RFC 9112 §6.1).
fn is_transfer_coded(fields: &HeaderMap) -> bool {
    let mut codings = fields.get_all(header::TRANSFER_ENCODING).iter();
    let is_chunked = |coding: &HeaderValue| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
    codings.next().is_some_and(|first| !is_chunked(first)) || codings.next().is_some()
}

/// Whether a media type is `application/json`, with any parameters except another character set
/// than UTF-8.
fn is_json(media: &str) -> bool {
    if media == "application/json" {
        return true;
    }
    let mut parts = media.split(';').map(str::trim);
    let json = parts
        .next()
        .is_some_and(|essence| essence.eq_ignore_ascii_case("application/json"));
    json && parts
        .filter_map(|parameter| parameter.split_once('='))
        .all(|(name, value)| {
            !name.trim().eq_ignore_ascii_case("charset") || value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Peer;
    use http::Request;
    use tokio::time::Instant;

    fn content(fields: &[(&'static str, &'static str)]) -> Result<(), RequestError> {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, value.parse().unwrap());
        }
        check_type(&map).and_then(|()| check_codings(&map))
    }

    #[test]
    fn json_may_have_parameters() {
        for good in [
            "application/json",
            "Application/JSON",
            "application/json; charset=utf-8",
            "application/json;charset=\"UTF-8\"; odata=x",
            "application/json;",
        ] {
            assert_eq!(content(&[("content-type", good)]), Ok(()), "{good}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for bad in [
            "",
            "text/plain",
            "application/jsonx",
            "application/json, text/plain",
            "application/json; charset=utf-16",
        ] {
            assert_eq!(
                content(&[("content-type", bad)]),
                Err(RequestError::ContentType),
                "{bad}"
            );
        }
        assert_eq!(content(&[]), Err(RequestError::ContentType));
        let json = ("content-type", "application/json");
        assert_eq!(content(&[json, json]), Err(RequestError::ContentType));
        assert_eq!(
            content(&[json, ("content-encoding", "gzip")]),
            Err(RequestError::ContentEncoding)
        );
        for identity in ["identity", "Identity", "", "identity, identity"] {
            assert_eq!(content(&[json, ("content-encoding", identity)]), Ok(()), "{identity}");
        }
        assert_eq!(
            content(&[json, ("content-encoding", "identity, gzip")]),
            Err(RequestError::ContentEncoding)
        );
    }

    fn caller(fields: &[(&'static str, &'static str)]) -> (Caller, Instant) {
        let mut request = Request::post("/").header("x-request-id", "id-1");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let peer = Peer::tcp("10.0.0.7:4711".parse().unwrap(), "10.0.0.1:80".parse().unwrap());
        let request = InboundRequest::new(request.body(()).unwrap(), peer);
        let meta = request.meta();
        (Layer::new(Config::default()).shared.caller(meta), meta.at)
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_without_preferences_gets_the_defaults() {
        let (caller, arrived) = caller(&[]);
        assert_eq!(caller.name.as_str(), "10.0.0.7");
        assert_eq!(caller.deadline, arrived + Config::default().max_wait);
        assert_eq!((caller.wait, caller.urgency.level()), (None, 3));
        assert_eq!(caller.request_id.as_str(), "id-1");
    }

    #[tokio::test(start_paused = true)]
    async fn the_callers_preferences_are_clamped() {
        let (caller, arrived) = caller(&[("prefer", "wait=99999"), ("priority", "u=1")]);
        let limit = Config::default().max_wait_limit;
        assert_eq!((caller.wait, caller.deadline), (Some(limit), arrived + limit));
        assert_eq!(caller.urgency.level(), 1);
    }
}
