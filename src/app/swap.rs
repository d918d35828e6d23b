//! The way in, exchanged between two requests.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use tower::{Service, ServiceExt as _};

use super::tended::Upkeep;
use crate::respond::Body;

/// Answers each request with the service that was the latest when the request came. Clones share it.
///
/// Invariant: a request sees one configuration from its first to its last byte; what it needs lives until it has ended.
#[derive(Debug)]
pub(super) struct Swap<S>(Arc<ArcSwap<Generation<S>>>);

/// A service and what has to go on in the background while it is used.
#[derive(Debug)]
struct Generation<S> {
    service: S,
    _upkeep: Upkeep,
}

impl<S> Swap<S> {
    pub(super) fn new(service: S, upkeep: Upkeep) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(Generation {
            service,
            _upkeep: upkeep,
        })))
    }

    /// The requests that come from now on are answered by `service`.
    pub(super) fn exchange(&self, service: S, upkeep: Upkeep) {
        self.0.store(Arc::new(Generation {
            service,
            _upkeep: upkeep,
        }));
    }
}

impl<S> Clone for Swap<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S> Service<Request<Incoming>> for Swap<S>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Readiness is that of the service which the request will meet.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let generation = self.0.load_full();
        Box::pin(async move { generation.service.clone().oneshot(request).await })
    }
}
