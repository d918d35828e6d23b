//! Turns an HTTP request into a [`Call`]: reads the body within its limits and the preferences in
//! the header fields.
//!
//! Not here: what a valid body looks like (`scan`). Invariants: no body is read beyond its limit or
//! its deadline; incomplete bodies share one budget of memory; a field that cannot be parsed counts
//! as absent.

mod body;
mod connection_context;
mod preferences;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, header};
use hyper::body::Body;
use tower::Service;

use super::{InboundRequest, RequestMeta};
use crate::BoxError;
use crate::caller::Caller;
use crate::memory::{ALLOCATED_PER_BYTE, MemoryBudget};
use crate::operation::Input;
use crate::response::{Reply, RequestError, ResponsePreferences, Tag};
use crate::scan::{Call, CallerToken, ServedResponse};
use body::{check_codings, check_length, check_type};
use connection_context::{ConnectionContext, RequestHead};
use preferences::RequestPreferences;

/// The limits of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The largest body in bytes.
    pub max_body: usize,
    /// The longest time from the head to the end of the body.
    pub body_timeout: Duration,
    /// The most bytes of incomplete bodies at a time, over all requests. Requests beyond that are
    /// refused (503).
    pub body_budget: usize,
    /// How long a request may wait for a slot when it does not say.
    pub max_wait: Duration,
    /// The longest wait that a request may ask for.
    pub max_wait_limit: Duration,
    /// Whether callers may bring tokens of their own.
    pub authorization: Authorization,
}

impl Config {
    /// [`Config::body_timeout`]: for a full body over a slow link of 35 kB/s.
    pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);
}

#[cfg(test)]
impl Default for Config {
    fn default() -> Self {
        Self {
            max_body: 1024 * 1024,
            body_timeout: Self::BODY_TIMEOUT,
            body_budget: 64 * 1024 * 1024,
            max_wait: Duration::from_secs(20),
            max_wait_limit: Duration::from_mins(10),
            authorization: Authorization::Dropped,
        }
    }
}

/// What happens to the `Authorization` of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authorization {
    /// It is ignored, whatever it contains: calls use the gateway's token.
    Dropped,
    /// Its bearer token is used upstream instead of the gateway's.
    CallerToken,
}

impl Authorization {
    /// The caller's token; `None` to use the gateway's.
    fn read(self, fields: &HeaderMap) -> Result<Option<CallerToken>, RequestError> {
        match self {
            Self::Dropped => Ok(None),
            Self::CallerToken => caller_token(fields),
        }
    }
}

/// Everything but one valid bearer token is rejected: using the gateway's token instead would give
/// the caller rights that it did not ask for.
fn caller_token(fields: &HeaderMap) -> Result<Option<CallerToken>, RequestError> {
    let mut values = fields.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let single = values.next().is_none().then_some(value);
    let (scheme, token) = single
        .and_then(|value| value.to_str().ok()?.split_once(' '))
        .ok_or(RequestError::Authorization)?;
    // RFC 9110 §11.1: the scheme's case does not matter, and one or more spaces follow.
    let bearer = scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_matches(' '));
    let caller_token = bearer.and_then(CallerToken::new);
    caller_token.map(Some).ok_or(RequestError::Authorization)
}

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
struct Shared {
    config: Config,
    budget: Arc<MemoryBudget>,
    /// The memory of the last requests of all connections together.
    last_request_budget: Arc<MemoryBudget>,
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
    S: Service<Call, Response = ServedResponse, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    type Response = Reply;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Reply, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // The services below are always ready: a request that has to wait waits in the queue, where
        // it can be refused.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: InboundRequest<B>) -> Self::Future {
        let context = Arc::clone(&self.0);
        Box::pin(async move {
            let (answer, preferences) = read(&context, request).await?;
            Ok(Reply::Served(Box::new(answer.await?), preferences))
        })
    }
}

/// Reads a request and passes it on. Nothing of what was read is kept while it waits for its answer.
async fn read<S, B>(
    context: &ConnectionContext<S>,
    request: InboundRequest<B>,
) -> Result<(S::Future, ResponsePreferences), BoxError>
where
    S: Service<Call, Response = ServedResponse, Error = BoxError> + Clone,
    B: Body<Data = Bytes> + Unpin,
{
    let Shared { config, budget, .. } = &*context.shared;
    let (meta, body) = request.into_parts();
    let mut head = context.shared.read_head(&meta)?;
    check_length(&body, config)?;
    drop(meta);
    let received = body::read(body, config, budget).await?;
    let preferences = ResponsePreferences {
        wait: head.caller.wait,
        tag: std::mem::take(&mut head.tag),
    };
    Ok((context.call(head, &received.bytes)?, preferences))
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

    fn caller(&self, meta: &RequestMeta) -> Caller {
        let preferences = if meta.plain {
            RequestPreferences::default()
        } else {
            RequestPreferences::of(meta.head.headers())
        };
        let wait = preferences.wait.map(|wait| wait.min(self.config.max_wait_limit));
        Caller {
            name: meta.caller.clone(),
            urgency: preferences.urgency,
            deadline: meta.at + wait.unwrap_or(self.config.max_wait),
            wait,
            cache_directives: preferences.cache_directives,
            request_id: meta.id.clone(),
            trace: meta.trace.clone(),
            has_fallback: false,
        }
    }
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

#[cfg(test)]
mod tests {
    use http::Request;
    use tokio::time::Instant;

    use super::*;
    use crate::server::Peer;

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

    fn read_token(authorization: Authorization, values: &[&str]) -> Result<Option<String>, RequestError> {
        let mut fields = HeaderMap::new();
        for value in values {
            fields.append(header::AUTHORIZATION, value.parse().unwrap());
        }
        let read = authorization.read(&fields)?;
        Ok(read.map(|caller_token| caller_token.secret().expose().to_owned()))
    }

    #[test]
    fn unless_it_is_asked_for_nothing_is_read() {
        for value in ["Bearer abc", "Basic abc", ""] {
            assert_eq!(read_token(Authorization::Dropped, &[value]), Ok(None));
        }
    }

    #[test]
    fn a_bearer_token_is_taken_as_it_is() {
        for value in ["Bearer abc.DEF-1==", "bearer abc.DEF-1==", "BEARER  abc.DEF-1== "] {
            assert_eq!(
                read_token(Authorization::CallerToken, &[value]),
                Ok(Some("abc.DEF-1==".into())),
                "{value}"
            );
        }
        assert_eq!(read_token(Authorization::CallerToken, &[]), Ok(None));
    }

    #[test]
    fn anything_else_is_refused_and_never_replaced_by_the_gateways_token() {
        let long = format!("Bearer {}", "a".repeat(CallerToken::MAX_BYTES + 1));
        for value in [
            "",
            "Bearer",
            "Bearer ",
            "Basic YTpi",
            "abc",
            "Bearer a b",
            "Bearer a,b",
            "Bearer\tabc",
            &long,
        ] {
            assert_eq!(
                read_token(Authorization::CallerToken, &[value]),
                Err(RequestError::Authorization),
                "{value:.20}"
            );
        }
        let twice = read_token(Authorization::CallerToken, &["Bearer a", "Bearer a"]);
        assert_eq!(twice, Err(RequestError::Authorization));
    }
}
