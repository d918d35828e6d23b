//! The layer between typed values and HTTP.

use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::uri::Scheme;
use http::{HeaderMap, HeaderName, Uri, header, uri};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::Service;

use super::Panicked;
use super::answer::{self, Answered, Config};
use super::forwarded::{self, Network};
use super::outcome::TokenOwner;
use crate::BoxError;
use crate::caller::RequestId;
use crate::scan::{Operation, Served};

/// What the layers below answer when nothing went wrong.
#[derive(Clone, Debug)]
pub enum Reply {
    /// An answer of the upstream, for a caller who asked for it so.
    Served(Box<Served>, Asked),
    /// The caller asked what it may do with an operation, or at all.
    Options(Option<Operation>),
}

/// What the caller asked of the answer, besides what it is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// How long it would have waited, if it said so.
    pub wait: Option<Duration>,
    /// Whether the answer gets a tag.
    pub tag: Tag,
}

/// Whether an answer gets an entity tag (RFC 9110 §8.8.3), and what the caller has already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Tag {
    /// Answers to `POST` and `QUERY` have none.
    #[default]
    None,
    /// The caller has nothing.
    Given,
    /// The caller's `If-None-Match`, its lines joined by commas.
    Unless(Box<str>),
}

/// What writing an answer needs of its request.
pub trait RequestInfo {
    /// The request's name.
    fn id(&self) -> RequestId;

    /// Its target.
    fn uri(&self) -> &Uri;

    /// The operation that its path means, if it means one.
    fn operation(&self) -> Option<Operation>;

    /// Its fields.
    fn headers(&self) -> &HeaderMap;

    /// The address that it came from; `None` when it came over a Unix socket.
    fn peer(&self) -> Option<IpAddr>;
}

/// Answers every request: neither an error nor a panic nor a missing answer leaves it.
///
/// Says how every question [`Ended`](super::Ended) (`OPTIONS` is none).
#[derive(Clone, Debug)]
pub struct Layer {
    /// One for all operations, or one for each: they differ in the quota that they tell of.
    configs: Arc<[Arc<Config>]>,
    elsewhere: Option<PassthroughConfig>,
    trusted: Arc<[Network]>,
}

/// Requests with this field are paid for elsewhere.
#[derive(Clone, Debug)]
struct PassthroughConfig {
    field: HeaderName,
    config: Arc<Config>,
}

impl Layer {
    /// A layer that answers as `config` says.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self::by_quota([config])
    }

    /// A layer that answers as these say: one for all operations, or one for each in their order.
    #[must_use]
    pub fn by_quota(configs: impl IntoIterator<Item = Config>) -> Self {
        Self {
            configs: configs.into_iter().map(Arc::new).collect(),
            elsewhere: None,
            trusted: Arc::default(),
        }
    }

    /// Answers requests that carry `field` without the `RateLimit` fields: their calls count in another quota than the one that those
    /// fields would speak of.
    #[must_use]
    pub fn without_rate_limit_for(self, field: HeaderName) -> Self {
        let config = Config {
            rate_limit: Arc::new(|_, _| {}),
            token_owner: TokenOwner::Caller,
            ..Config::clone(&self.configs[0])
        };
        Self {
            elsewhere: Some(PassthroughConfig {
                field,
                config: Arc::new(config),
            }),
            ..self
        }
    }

    /// Believes requests from these addresses, or over a Unix socket if there are any, when they say over which scheme the caller came.
    #[must_use]
    pub fn trusting(self, proxies: impl IntoIterator<Item = Network>) -> Self {
        Self {
            trusted: proxies.into_iter().collect(),
            ..self
        }
    }

    fn config_for(&self, request: &impl RequestInfo) -> &Arc<Config> {
        match &self.elsewhere {
            Some(elsewhere) if request.headers().contains_key(&elsewhere.field) => &elsewhere.config,
            _ => {
                let operation = request.operation().map_or(0, |operation| operation as usize);
                &self.configs[operation % self.configs.len()]
            }
        }
    }
}

impl<S> tower::Layer<S> for Layer {
    type Service = Respond<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Respond {
            inner,
            layer: self.clone(),
        }
    }
}

/// The service of [`Layer`].
#[derive(Clone, Debug)]
pub struct Respond<S> {
    inner: S,
    layer: Layer,
}

impl<S, R> Service<R> for Respond<S>
where
    S: Service<R, Response = Reply, Error = BoxError>,
    R: RequestInfo,
{
    type Response = Answered;
    type Error = Infallible;
    type Future = Responding<S::Future>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The layers below are always ready; where a request has to wait, it waits in the queue, where it can be refused.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> Self::Future {
        let (config, id) = (Arc::clone(self.layer.config_for(&request)), request.id());
        let origin = Origin::of(&request, &self.layer.trusted);
        // A panic costs one request, not the connection with the others on it. The state behind the stack is shared, and may have been left
        // half changed: it is kept behind locks that are never held while foreign code runs. The panicking service itself is its
        // connection's own, and keeps nothing from one call to the next. So going on is sound.
        let reply = catch_unwind(AssertUnwindSafe(|| self.inner.call(request))).ok();
        Responding {
            reply,
            config,
            id,
            origin,
        }
    }
}

pin_project! {
    /// A reply that will be written as an answer.
    #[derive(Debug)]
    pub struct Responding<F> {
        // `None` once it has panicked: it must not be polled again.
        #[pin]
        reply: Option<F>,
        config: Arc<Config>,
        id: RequestId,
        origin: Origin,
    }
}

impl<F> Future for Responding<F>
where
    F: Future<Output = Result<Reply, BoxError>>,
{
    type Output = Result<Answered, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let reply = this.reply.as_mut().as_pin_mut();
        let polled = reply.and_then(|reply| catch_unwind(AssertUnwindSafe(|| reply.poll(context))).ok());
        let reply = if let Some(polled) = polled {
            ready!(polled)
        } else {
            this.reply.set(None);
            this.config.panics.inc();
            Err(Panicked.into())
        };
        let origin = || this.origin.to_string();
        let now = Instant::now();
        Poll::Ready(Ok(match reply {
            Ok(Reply::Served(served, asked)) => answer::served(this.config, *served, &asked, (this.id, now), origin),
            Ok(Reply::Options(operation)) => answer::options(operation, this.id, now),
            Err(error) => answer::failed(this.config, &error, (this.id, now), origin),
        }))
    }
}

/// The address that the caller used.
#[derive(Debug)]
struct Origin {
    scheme: Scheme,
    target: Option<uri::Authority>,
    /// Copied: a slice of the read buffer would keep all of that as long as the request waits.
    host: Option<Bytes>,
}

impl Origin {
    fn of(request: &impl RequestInfo, trusted: &[Network]) -> Self {
        let host = request.headers().get(header::HOST);
        let is_trusted = !trusted.is_empty()
            && request
                .peer()
                .is_none_or(|peer| trusted.iter().any(|network| network.contains(peer)));
        let said = is_trusted.then(|| forwarded::scheme(request.headers())).flatten();
        Self {
            // The gateway speaks cleartext; a front that terminates TLS says so in a field, in HTTP/2's `:scheme` or an absolute target.
            scheme: said.or_else(|| request.uri().scheme().cloned()).unwrap_or(Scheme::HTTP),
            target: request.uri().authority().cloned(),
            host: host.map(|host| Bytes::copy_from_slice(host.as_bytes())),
        }
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let host = self.host.as_ref().and_then(|host| str::from_utf8(host).ok());
        let authority = self
            .target
            .as_ref()
            .map(uri::Authority::as_str)
            .or(host)
            .unwrap_or("localhost");
        write!(f, "{}://{authority}", self.scheme)
    }
}
