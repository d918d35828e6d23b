//! The way in, exchanged between two requests.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use http::Response;
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tower::Service;

use super::tended::Upkeep;
use crate::respond::Body;
use crate::server::Arrival;

/// Answers each request with the service that was the latest when the request came. Clones share it.
///
/// Invariant: a request sees one configuration from its first to its last byte; what it needs lives until it has ended.
#[derive(Debug)]
pub(super) struct Swap<S> {
    latest: Arc<ArcSwap<Generation<S>>>,
    /// This clone's own copy of the service, of the generation with this number: requests pay for a copy only after a change.
    own: S,
    number: u64,
}

/// A service and what has to go on in the background while it is used.
#[derive(Debug)]
struct Generation<S> {
    number: u64,
    service: S,
    _upkeep: Upkeep,
}

impl<S: Clone> Swap<S> {
    pub(super) fn new(service: S, upkeep: Upkeep) -> Self {
        Self {
            own: service.clone(),
            number: 0,
            latest: Arc::new(ArcSwap::from_pointee(Generation {
                number: 0,
                service,
                _upkeep: upkeep,
            })),
        }
    }

    /// The requests that come from now on are answered by `service`. For one at a time.
    pub(super) fn exchange(&self, service: S, upkeep: Upkeep) {
        self.latest.store(Arc::new(Generation {
            number: self.latest.load().number + 1,
            service,
            _upkeep: upkeep,
        }));
    }
}

impl<S: Clone> Clone for Swap<S> {
    fn clone(&self) -> Self {
        Self {
            latest: Arc::clone(&self.latest),
            own: self.own.clone(),
            number: self.number,
        }
    }
}

impl<S> Service<Arrival<Incoming>> for Swap<S>
where
    S: Service<Arrival<Incoming>, Response = Response<Body>, Error = Infallible> + Clone,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering<S>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Which service it will be is found out when the request is there. All of them are always ready.
        self.own.poll_ready(context)
    }

    fn call(&mut self, request: Arrival<Incoming>) -> Self::Future {
        let generation = self.latest.load_full();
        if generation.number != self.number {
            (self.own, self.number) = (generation.service.clone(), generation.number);
        }
        Answering {
            answer: self.own.call(request),
            _generation: generation,
        }
    }
}

pin_project! {
    /// An answer under way, and what it needs until it is there.
    pub(super) struct Answering<S>
    where
        S: Service<Arrival<Incoming>>,
    {
        #[pin]
        answer: S::Future,
        _generation: Arc<Generation<S>>,
    }
}

impl<S: Service<Arrival<Incoming>>> Future for Answering<S> {
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().answer.poll(context)
    }
}
