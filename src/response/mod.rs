//! Turns every outcome into an HTTP response. No other module picks a status for the data listener;
//! hyper answers by itself what is not HTTP.
//!
//! - `table` says which [`Problem`] an error is; [`RequestError`] and [`Panicked`] are
//!   the errors of the HTTP layer itself.
//! - [`Layer`] turns a [`Reply`] or an error into a response with its header fields
//!   (`Cache-Status`, `RateLimit`, `Proxy-Status`, `X-Request-Id`, …).
//!
//! Not here: what is stored, which requests wait, what is logged. Invariant: every request gets
//! exactly one response, and an upstream answer keeps its status, body and content type, except for
//! an `@odata.nextLink`, which leads back to the gateway.

mod answer;
mod etag;
mod field;
mod header_template;
mod next_link;
mod outcome;
mod problem;
mod rate_limit;
mod table;

use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::uri::{self, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::Service;

use crate::BoxError;
use crate::caller::RequestId;
use crate::net::Network;
use crate::scan::{Endpoint, Operation, ServedResponse, TokenOwner};

use next_link::Base;

pub use answer::{Answered, Body, Config};
pub use etag::Tag;
pub use outcome::{Ended, ErrorCode, Outcome};
pub use problem::Problem;
pub use rate_limit::{Window, Windows, rate_limit_of};
pub use table::{Panicked, RequestError};

/// The result of the layers below when there was no error.
#[derive(Clone, Debug)]
pub enum Reply {
    /// An upstream answer, with the caller's preferences about the response.
    Served(Box<ServedResponse>, ResponsePreferences),
    /// The caller sent `OPTIONS`, about an operation or about the server.
    Options(Option<Operation>),
}

/// The caller's preferences about the response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResponsePreferences {
    /// How long the caller would have waited, if it said so.
    pub wait: Option<Duration>,
    /// Whether the response gets an entity tag.
    pub tag: Tag,
}

/// What writing a response needs to know about its request.
pub trait RequestInfo {
    /// The request's id.
    fn id(&self) -> RequestId;

    /// Its target.
    fn uri(&self) -> &Uri;

    /// The operation of its path, if it is one.
    fn endpoint(&self) -> Option<Endpoint>;

    /// Its header fields.
    fn headers(&self) -> &HeaderMap;

    /// Its `Host`, in memory of its own: a slice of the read buffer would keep the whole buffer alive
    /// as long as the request waits.
    fn host(&self) -> Option<HeaderValue>;

    /// The address that it came from; `None` over a Unix socket.
    fn peer(&self) -> Option<IpAddr>;
}

/// Answers every request: no error, panic or missing answer leaves this layer.
///
/// It reports how every request [`Ended`], except `OPTIONS`.
#[derive(Clone)]
pub struct Layer {
    /// One for all operations, or one for each: they differ in the quota whose windows are shown.
    configs: Arc<[Arc<Config>]>,
    passthrough: Option<PassthroughConfig>,
    trusted: Arc<[Network]>,
}

/// Requests with this field are charged to the quota of their own token.
#[derive(Clone)]
struct PassthroughConfig {
    field: HeaderName,
    config: Arc<Config>,
}

impl Layer {
    /// A layer with these settings: one for all operations, or one for each in their order.
    pub fn new(configs: impl IntoIterator<Item = Config>) -> Self {
        Self {
            configs: configs.into_iter().map(Arc::new).collect(),
            passthrough: None,
            trusted: Arc::default(),
        }
    }

    /// Answers requests that carry `field` without the `RateLimit` fields, because their calls
    /// count in another quota. All answers of the upstream say that they depend on the field: a
    /// cache on the way must not give one to whoever has no token, or another one.
    pub fn without_rate_limit_for(self, field: HeaderName) -> Self {
        let varying = |config: &Arc<Config>| Config {
            vary: Some(HeaderValue::from(field.clone())),
            ..Config::clone(config)
        };
        let config = Config {
            rate_limit: Arc::new(|_, _| {}),
            token_owner: TokenOwner::Caller,
            ..varying(&self.configs[0])
        };
        Self {
            configs: self.configs.iter().map(varying).map(Arc::new).collect(),
            passthrough: Some(PassthroughConfig {
                field,
                config: Arc::new(config),
            }),
            ..self
        }
    }

    /// Trusts requests from these addresses, or over a Unix socket if there are any, to name the
    /// scheme that the caller used.
    pub fn trusting(self, proxies: impl IntoIterator<Item = Network>) -> Self {
        Self {
            trusted: proxies.into_iter().collect(),
            ..self
        }
    }

    fn config_for(&self, request: &impl RequestInfo) -> &Arc<Config> {
        match &self.passthrough {
            Some(passthrough) if request.headers().contains_key(&passthrough.field) => &passthrough.config,
            _ => {
                let operation = request.endpoint().map_or(0, |endpoint| endpoint.operation as usize);
                &self.configs[operation % self.configs.len()]
            }
        }
    }
}

impl<S> tower::Layer<S> for Layer {
    type Service = ResponseService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ResponseService {
            inner,
            layer: self.clone(),
        }
    }
}

/// The service of [`Layer`].
#[derive(Clone)]
pub struct ResponseService<S> {
    inner: S,
    layer: Layer,
}

impl<S, R> Service<R> for ResponseService<S>
where
    S: Service<R, Response = Reply, Error = BoxError>,
    R: RequestInfo,
{
    type Response = Answered;
    type Error = Infallible;
    type Future = Responding<S::Future>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The layers below are always ready. A request that has to wait waits in the queue, where
        // it can be refused.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> Self::Future {
        let (config, id) = (Arc::clone(self.layer.config_for(&request)), request.id());
        let origin = Origin::of(&request, &self.layer.trusted);
        // A panic costs one request, not the connection with its other requests. The state behind
        // the stack is shared: it is kept behind locks that are never held while foreign code runs,
        // so a panic cannot leave it half changed. The service that panicked belongs to its
        // connection and keeps nothing between calls. So it is sound to go on.
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
    /// A result that is about to be written as a response.
    pub struct Responding<F> {
        // `None` after a panic: it must not be polled again.
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
        let base = || this.origin.base();
        let now = Instant::now();
        Poll::Ready(Ok(match reply {
            Ok(Reply::Served(served, asked)) => answer::served(this.config, *served, &asked, (this.id, now), base),
            Ok(Reply::Options(operation)) => answer::options(operation, this.id, now),
            Err(error) => answer::failed(this.config, &error, (this.id, now), base),
        }))
    }
}

/// The address that the caller used.
#[derive(Debug)]
struct Origin {
    scheme: Scheme,
    target: Option<uri::Authority>,
    host: Option<HeaderValue>,
    endpoint: Option<Endpoint>,
}

impl Origin {
    fn of(request: &impl RequestInfo, trusted: &[Network]) -> Self {
        let is_trusted = !trusted.is_empty()
            && request
                .peer()
                .is_none_or(|peer| trusted.iter().any(|network| network.contains(peer)));
        let said = |parameter, instead| {
            let first = is_trusted.then(|| forwarded(request.headers(), parameter, instead));
            first.flatten()
        };
        Self {
            // The gateway itself speaks cleartext. A proxy that terminates TLS names the scheme in
            // a header field, in HTTP/2's `:scheme` or in an absolute target.
            scheme: said("proto", X_FORWARDED_PROTO)
                .and_then(scheme)
                .or_else(|| request.uri().scheme().cloned())
                .unwrap_or(Scheme::HTTP),
            // A proxy may put another name into `Host`: the one that it knows the gateway by.
            target: said("host", X_FORWARDED_HOST)
                .and_then(authority)
                .or_else(|| request.uri().authority().cloned()),
            host: request.host(),
            endpoint: request.endpoint(),
        }
    }

    /// What links in the answer are relative to.
    fn base(&self) -> Base {
        let host = self.host.as_ref().and_then(|host| str::from_utf8(host.as_bytes()).ok());
        let authority = self
            .target
            .as_ref()
            .map(uri::Authority::as_str)
            .or(host)
            .unwrap_or("localhost");
        Base {
            origin: format!("{}://{authority}", self.scheme),
            path: self.endpoint.map(|endpoint| endpoint.path(None)),
        }
    }
}

const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// What the first proxy on the way, which is the first one listed, says of the caller's request in
/// this parameter of `Forwarded` (RFC 7239), or else in the field that was there before it.
fn forwarded<'a>(fields: &'a HeaderMap, parameter: &str, instead: HeaderName) -> Option<&'a str> {
    let text = |name| fields.get(name).and_then(|value| value.to_str().ok());
    let named = text(header::FORWARDED)
        .and_then(|elements| of_first(elements, parameter))
        .or_else(|| text(instead));
    Some(named?.split(',').next().unwrap_or_default().trim())
}

/// The parameter of the first element. Commas and semicolons inside quoted strings occur only in
/// addresses, so they need no attention here.
fn of_first<'a>(elements: &'a str, parameter: &str) -> Option<&'a str> {
    let first = elements.split(',').next()?;
    let mut pairs = first.split(';').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case(parameter))?;
    Some(value.trim().trim_matches('"'))
}

/// A scheme, if it is one that a caller can have used.
fn scheme(text: &str) -> Option<Scheme> {
    [Scheme::HTTP, Scheme::HTTPS]
        .into_iter()
        .find(|scheme| scheme.as_str().eq_ignore_ascii_case(text))
}

/// A host, with or without a port.
fn authority(text: &str) -> Option<uri::Authority> {
    let authority = text.parse::<uri::Authority>().ok()?;
    (!authority.as_str().contains('@')).then_some(authority)
}

#[cfg(test)]
pub(crate) mod tests;
