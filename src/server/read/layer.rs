//! The layer that reads.

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

use super::body::Receiving;
use super::connection_context::{Asked, Line};
use super::{Config, cache_control, prefer, priority};
use crate::BoxError;
use crate::caller::{Caller, Freshness, Urgency};
use crate::memory::{ALLOCATED_PER_BYTE, MemoryBudget};
use crate::operation::Input;
use crate::response::{self, Refusal, Reply, Tag};
use crate::scan::{Call, Served};
use crate::server::{InboundRequest, Known};

/// Enough for the questions of some ten thousand callers who poll.
const REMEMBERED_BYTES: usize = 4 * 1024 * 1024;

/// Longest query. That of a link to a further page has some hundred bytes.
const MAX_QUERY_BYTES: usize = 8 * 1024;

/// Reads requests for the typed stack below.
#[derive(Clone, Debug)]
pub struct Layer {
    shared: Arc<Shared>,
}

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    config: Config,
    budget: Arc<MemoryBudget>,
    /// What the memos of all connections may hold together.
    pub(super) remembered: Arc<MemoryBudget>,
}

impl Layer {
    /// A layer with a body budget of its own, which all its services share.
    #[must_use]
    pub fn new(config: Config) -> Self {
        // At least one body of the largest size must fit.
        let budget = MemoryBudget::new(config.body_budget.max(config.max_body * ALLOCATED_PER_BYTE));
        Self {
            shared: Arc::new(Shared {
                config,
                budget,
                remembered: MemoryBudget::new(REMEMBERED_BYTES),
            }),
        }
    }
}

impl<S> tower::Layer<S> for Layer {
    type Service = Read<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Read(Line::new(Arc::clone(&self.shared), inner))
    }
}

/// The service of [`Layer`]. Each clone, of which every connection has one, remembers its own last question.
#[derive(Debug)]
pub struct Read<S>(Arc<Line<S>>);

impl<S: Clone> Clone for Read<S> {
    fn clone(&self) -> Self {
        Self(self.0.another())
    }
}

impl<S, B> Service<InboundRequest<B>> for Read<S>
where
    S: Service<Call, Response = Served, Error = BoxError> + Clone,
    B: Body<Data = Bytes>,
{
    type Response = Reply;
    type Error = BoxError;
    type Future = Reading<S, B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // The services below are always ready: where a question has to wait, it can be refused.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: InboundRequest<B>) -> Self::Future {
        let (known, body) = request.into_pieces();
        let shared = &self.0.shared;
        let stage = match shared.ask(&known) {
            Ok(asked) => Stage::Body {
                body: Receiving::new(known.head.headers(), body, &shared.config),
                asked: Some(asked),
            },
            Err(refusal) => Stage::Refused { refusal: Some(refusal) },
        };
        Reading {
            line: Arc::clone(&self.0),
            stage,
        }
    }
}

pin_project! {
    /// A request that is being read, and then answered.
    #[derive(Debug)]
    pub struct Reading<S, B>
    where
        S: Service<Call>,
    {
        line: Arc<Line<S>>,
        #[pin]
        stage: Stage<S::Future, B>,
    }
}

pin_project! {
    #[project = StageProjection]
    #[derive(Debug)]
    enum Stage<F, B> {
        Refused { refusal: Option<Refusal> },
        Body { #[pin] body: Receiving<B>, asked: Option<Asked> },
        Answer { #[pin] answer: F, wishes: response::Asked },
    }
}

impl<S, B> Future for Reading<S, B>
where
    S: Service<Call, Response = Served, Error = BoxError> + Clone,
    B: Body<Data = Bytes>,
{
    type Output = Result<Reply, BoxError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Shared { config, budget, .. } = &*this.line.shared;
        loop {
            let answer = match this.stage.as_mut().project() {
                StageProjection::Refused { refusal } => {
                    let refusal = refusal.take().unwrap_or(Refusal::BodyBroken);
                    return Poll::Ready(Err(refusal.into()));
                }
                StageProjection::Answer { answer, wishes } => {
                    let served = ready!(answer.poll(context))?;
                    return Poll::Ready(Ok(Reply::Served(Box::new(served), std::mem::take(wishes))));
                }
                StageProjection::Body { body, asked } => {
                    let received = ready!(body.poll(context, config, budget))?;
                    // Taken once, when the body is complete.
                    let mut asked = asked.take().ok_or(Refusal::BodyBroken)?;
                    let wishes = response::Asked {
                        wait: asked.caller.wait,
                        tag: std::mem::take(&mut asked.tag),
                    };
                    Stage::Answer {
                        wishes,
                        answer: this.line.ask(asked, &received.bytes)?,
                    }
                }
            };
            this.stage.set(answer);
        }
    }
}

impl Shared {
    /// Reads the head; what can be refused without the body, is.
    fn ask(&self, known: &Known) -> Result<Asked, Refusal> {
        let (uri, fields) = (known.head.uri(), known.head.headers());
        // It is kept until the body is there.
        if uri.query().is_some_and(|query| query.len() > MAX_QUERY_BYTES) {
            return Err(Refusal::Fields);
        }
        let target = known.target.clone().ok_or(Refusal::Path)?;
        let has_body = target.endpoint.operation.declaration().input != Input::Path;
        if has_body {
            check_type(fields)?;
        }
        if !known.plain {
            check_codings(fields)?;
        }
        Ok(Asked {
            tag: if has_body {
                Tag::None
            } else {
                conditional(fields, known.plain)
            },
            target,
            query: uri.query().map(Box::from),
            delegated: self.config.authorization.read(fields)?,
            caller: Arc::new(self.caller(known)),
            multiplexed: known.head.version() >= http::Version::HTTP_2,
        })
    }

    fn wishes(&self, known: &Known) -> RequestPreferences {
        if known.plain {
            return RequestPreferences::default();
        }
        let fields = known.head.headers();
        RequestPreferences {
            wait: prefer::wait(fields).map(|wait| wait.min(self.config.max_wait_limit)),
            urgency: priority::urgency(fields),
            freshness: cache_control::freshness(fields),
        }
    }

    fn caller(&self, known: &Known) -> Caller {
        let RequestPreferences {
            wait,
            urgency,
            freshness,
        } = self.wishes(known);
        Caller {
            name: known.caller.clone(),
            urgency,
            deadline: known.at + wait.unwrap_or(self.config.max_wait),
            wait,
            freshness,
            request_id: known.id.clone(),
            trace: known.trace.clone(),
        }
    }
}

/// What a caller can ask for in its fields.
#[derive(Default)]
struct RequestPreferences {
    wait: Option<Duration>,
    urgency: Urgency,
    freshness: Freshness,
}

/// JSON, said so, in UTF-8, as it is.
///
/// A missing type is refused as well (415): it is what a page on another site can make a browser send without asking first.
///
fn check_type(fields: &HeaderMap) -> Result<(), Refusal> {
    let mut types = fields.get_all(header::CONTENT_TYPE).iter();
    match (types.next().and_then(|media| media.to_str().ok()), types.next()) {
        (Some(media), None) if is_json(media) => Ok(()),
        _ => Err(Refusal::ContentType),
    }
}

/// The body as it is. Requests with [usual](crate::server::is_usual) fields only have none for another coding.
fn check_codings(fields: &HeaderMap) -> Result<(), Refusal> {
    let is_coded = |fields: &HeaderMap| {
        let mut codings = fields.get_all(header::CONTENT_ENCODING).iter();
        codings.any(|coding| coding != "identity")
    };
    if is_coded(fields) {
        return Err(Refusal::ContentEncoding);
    }
    if is_transfer_coded(fields) {
        return Err(Refusal::TransferEncoding);
    }
    Ok(())
}

/// Whether the answer gets a tag, and which one the caller has.
fn conditional(fields: &HeaderMap, plain: bool) -> Tag {
    if plain || !fields.contains_key(header::IF_NONE_MATCH) {
        return Tag::Given;
    }
    let known = fields.get_all(header::IF_NONE_MATCH).iter();
    let known: Vec<_> = known.filter_map(|line| line.to_str().ok()).collect();
    Tag::Unless(known.join(",").into())
}

/// Whether a body comes in another coding than `chunked`, or in several: that was taken off, and the others were not (RFC 9112 §6.1).
fn is_transfer_coded(fields: &HeaderMap) -> bool {
    let mut codings = fields.get_all(header::TRANSFER_ENCODING).iter();
    let is_chunked = |coding: &HeaderValue| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
    codings.next().is_some_and(|first| !is_chunked(first)) || codings.next().is_some()
}

/// `application/json`, with any parameters, except for another character set than JSON's only one.
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

    fn content(fields: &[(&'static str, &'static str)]) -> Result<(), Refusal> {
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
            assert_eq!(content(&[("content-type", bad)]), Err(Refusal::ContentType), "{bad}");
        }
        assert_eq!(content(&[]), Err(Refusal::ContentType));
        let json = ("content-type", "application/json");
        assert_eq!(content(&[json, json]), Err(Refusal::ContentType));
        assert_eq!(
            content(&[json, ("content-encoding", "gzip")]),
            Err(Refusal::ContentEncoding)
        );
        assert_eq!(content(&[json, ("content-encoding", "identity")]), Ok(()));
    }

    fn caller(fields: &[(&'static str, &'static str)]) -> (Caller, Instant) {
        let mut request = Request::post("/").header("x-request-id", "id-1");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let peer = Peer::tcp("10.0.0.7:4711".parse().unwrap(), "10.0.0.1:80".parse().unwrap());
        let arrival = InboundRequest::new(request.body(()).unwrap(), peer);
        let known = arrival.known();
        (Layer::new(Config::default()).shared.caller(known), known.at)
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_who_says_nothing_gets_the_defaults() {
        let (caller, arrived) = caller(&[]);
        assert_eq!(caller.name.as_str(), "10.0.0.7");
        assert_eq!(caller.deadline, arrived + Config::default().max_wait);
        assert_eq!((caller.wait, caller.urgency.level()), (None, 3));
        assert_eq!(caller.request_id.as_str(), "id-1");
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_caller_asks_for_is_clamped() {
        let (caller, arrived) = caller(&[("prefer", "wait=99999"), ("priority", "u=1")]);
        let limit = Config::default().max_wait_limit;
        assert_eq!((caller.wait, caller.deadline), (Some(limit), arrived + limit));
        assert_eq!(caller.urgency.level(), 1);
    }
}
