//! The layer that rejects requests that are not addressed to this gateway.

use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::{HeaderValue, Request, header};
use tower::Service;

use super::origin::may_be_cross_site;
use super::{Host, Hosts, refuse_cross_site};
use crate::BoxError;
use crate::response::RequestError;
use crate::server::{Config, InboundRequest, RequestMeta};

/// Rejects requests without exactly one valid host (400), for other hosts (421), from other sites
/// (403), and with too many header fields (431), which HTTP/2 would let through; and those that the
/// connection has already refused.
#[derive(Clone, Debug)]
pub struct Layer {
    hosts: Arc<Hosts>,
}

impl Layer {
    /// A guard that accepts requests for `hosts`.
    pub fn new(hosts: Hosts) -> Self {
        Self { hosts: Arc::new(hosts) }
    }

    /// The accepted hosts.
    pub fn hosts(&self) -> Arc<Hosts> {
        Arc::clone(&self.hosts)
    }
}

impl<S> tower::Layer<S> for Layer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Guard {
            inner,
            hosts: Arc::clone(&self.hosts),
        }
    }
}

/// The service of [`Layer`].
#[derive(Clone, Debug)]
pub struct Guard<S> {
    inner: S,
    hosts: Arc<Hosts>,
}

impl<S, B> Service<InboundRequest<B>> for Guard<S>
where
    S: Service<InboundRequest<B>, Error = BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Either<S::Future, Ready<Result<S::Response, BoxError>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: InboundRequest<B>) -> Self::Future {
        match check(request.meta(), &self.hosts) {
            Ok(()) => Either::Left(self.inner.call(request)),
            Err(refusal) => Either::Right(ready(Err(refusal.into()))),
        }
    }
}

fn check(meta: &RequestMeta, hosts: &Arc<Hosts>) -> Result<(), RequestError> {
    if let Some(refusal) = &meta.refused {
        return Err(refusal.clone());
    }
    let (request, peer) = (&meta.head, &meta.peer);
    if request.headers().len() > Config::MAX_HEADERS {
        return Err(RequestError::Fields);
    }
    let field = only_host(request);
    if let Some(field) = field
        && peer.is_accepted(field, hosts)
        && (meta.plain || !may_be_cross_site(request.headers()))
    {
        return Ok(());
    }
    let host = Host::of(request)?;
    if !hosts.accept(&host, Some(peer)) {
        let host = match host {
            Host::Name(name) => name,
            Host::Ip(address) => address.to_string(),
        };
        return Err(RequestError::ForeignHost { host });
    }
    refuse_cross_site(request.headers(), &host)?;
    if let Some(field) = field {
        peer.accept(field, hosts);
    }
    Ok(())
}

/// The `Host` field, if nothing else in the request names a host.
fn only_host(request: &Request<()>) -> Option<&HeaderValue> {
    if request.uri().authority().is_some() {
        return None;
    }
    let mut fields = request.headers().get_all(header::HOST).iter();
    match (fields.next(), fields.next()) {
        (Some(host), None) => Some(host),
        _ => None,
    }
}
