//! The layer that reads.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, header};
use hyper::body::Body;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tower::{Service, ServiceExt as _};

use super::{Config, body, cache_control, prefer, priority};
use crate::BoxError;
use crate::caller::{Caller, Name};
use crate::respond::{Refusal, Reply, RequestId};
use crate::scan::{self, Call, Served, Version};
use crate::server::Peer;
use crate::telemetry::trace::Trace;

/// Reads requests for the typed stack below.
#[derive(Clone, Debug)]
pub struct Layer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    /// One permit per byte.
    budget: Semaphore,
}

impl Layer {
    /// A layer with a body budget of its own, which all its services share.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let budget = config.body_budget.clamp(config.max_body, Semaphore::MAX_PERMITS);
        Self {
            shared: Arc::new(Shared {
                config,
                budget: Semaphore::new(budget),
            }),
        }
    }
}

impl<S> tower::Layer<S> for Layer {
    type Service = Read<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Read {
            inner,
            shared: Arc::clone(&self.shared),
        }
    }
}

/// The service of [`Layer`].
#[derive(Clone, Debug)]
pub struct Read<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S, B> Service<Request<B>> for Read<S>
where
    S: Service<Call, Response = Served, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Send,
{
    type Response = Reply;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Reply, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // The service below is asked when the question is complete, in the clone that will be called.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let arrived = Instant::now();
        let (inner, shared) = (self.inner.clone(), Arc::clone(&self.shared));
        Box::pin(async move {
            let call = shared.read(request, arrived).await?;
            let caller = Arc::clone(&call.caller);
            let served = inner.oneshot(call).await?;
            Ok(Reply::Served(Box::new(served), caller))
        })
    }
}

impl Shared {
    async fn read<B>(&self, request: Request<B>, arrived: Instant) -> Result<Call, BoxError>
    where
        B: Body<Data = Bytes>,
    {
        let (head, body) = request.into_parts();
        check_content(&head.headers)?;
        let version = Version::from_path(head.uri.path()).ok_or(Refusal::Path)?;
        let delegated = self.config.authorization.read(&head.headers)?;
        let received = body::read(&head.headers, body, &self.config, &self.budget).await?;
        let question = scan::Request::parse(version, head.uri.query(), &received.bytes)?;
        let question = match delegated {
            Some(delegated) => question.with_token(delegated),
            None => question,
        };
        let caller = self.caller(&head, arrived);
        Ok(Call {
            request: Arc::new(question),
            caller: Arc::new(caller),
        })
    }

    fn caller(&self, head: &http::request::Parts, arrived: Instant) -> Caller {
        let fields = &head.headers;
        let wait = prefer::wait(fields).map(|wait| wait.min(self.config.max_wait_limit));
        let header = self.config.caller_header.as_ref();
        let given = header.and_then(|header| fields.get(header)?.to_str().ok());
        let name = given.map(Name::new).filter(|name| !name.as_str().is_empty());
        let peer = || {
            head.extensions
                .get::<Peer>()
                .map_or_else(|| Name::new("local"), Peer::name)
        };
        Caller {
            name: name.unwrap_or_else(peer),
            urgency: priority::urgency(fields),
            deadline: arrived + wait.unwrap_or(self.config.max_wait),
            wait,
            freshness: cache_control::freshness(fields),
            request_id: head
                .extensions
                .get::<RequestId>()
                .map_or_else(|| "".into(), RequestId::share),
            trace: head.extensions.get::<Trace>().cloned().unwrap_or_default(),
        }
    }
}

/// JSON, said so, in UTF-8, as it is.
///
/// A missing type is refused as well (415): it is what a page on another site can make a browser send without asking first.
fn check_content(fields: &HeaderMap) -> Result<(), Refusal> {
    let mut types = fields.get_all(header::CONTENT_TYPE).iter();
    match (types.next().and_then(|media| media.to_str().ok()), types.next()) {
        (Some(media), None) if is_json(media) => {}
        _ => return Err(Refusal::ContentType),
    }
    let encoded = fields
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .any(|coding| coding != "identity");
    if encoded { Err(Refusal::ContentEncoding) } else { Ok(()) }
}

/// `application/json`, with any parameters, except for another character set than JSON's only one.
fn is_json(media: &str) -> bool {
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

    fn content(fields: &[(&'static str, &'static str)]) -> Result<(), Refusal> {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, value.parse().unwrap());
        }
        check_content(&map)
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
        let mut request = Request::post("/");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let mut request = request.body(()).unwrap();
        request.extensions_mut().insert(RequestId::from_caller("id-1").unwrap());
        request.extensions_mut().insert(Peer::Tcp {
            remote: "10.0.0.7:4711".parse().unwrap(),
            local: "10.0.0.1:80".parse().unwrap(),
        });
        let arrived = Instant::now();
        (
            Layer::new(Config::default())
                .shared
                .caller(&request.into_parts().0, arrived),
            arrived,
        )
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_who_says_nothing_gets_the_defaults() {
        let (caller, arrived) = caller(&[]);
        assert_eq!(caller.name.as_str(), "10.0.0.7");
        assert_eq!(caller.deadline, arrived + Config::default().max_wait);
        assert_eq!((caller.wait, caller.urgency.level()), (None, 3));
        assert_eq!(&*caller.request_id, "id-1");
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_caller_asks_for_is_clamped() {
        let (caller, arrived) = caller(&[("x-caller", " nightly "), ("prefer", "wait=99999"), ("priority", "u=1")]);
        let limit = Config::default().max_wait_limit;
        assert_eq!(caller.name.as_str(), "nightly");
        assert_eq!((caller.wait, caller.deadline), (Some(limit), arrived + limit));
        assert_eq!(caller.urgency.level(), 1);
    }

    #[test]
    fn an_empty_name_is_no_name() {
        assert_eq!(caller(&[("x-caller", "  ")]).0.name.as_str(), "10.0.0.7");
    }
}
