//! The way in, exchanged between two requests.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use http::Response;
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tower::Service;

use super::context::BackgroundTasks;
use crate::response::Body;
use crate::server::InboundRequest;

/// Answers each request with the service that was the latest when the request came. Clones share
/// it.
///
/// Invariant: a request sees one configuration from its first to its last byte; what it needs lives
/// until it has ended.
#[derive(Debug)]
pub(super) struct Swap<S> {
    latest: Arc<Latest<S>>,
    /// This clone's own copy of the service: requests pay for a copy only after a change.
    own: S,
    /// The generation that it is of. Not held: what goes on in the background for it ends with the
    /// last request, not with the last idle connection.
    of: (u64, Weak<Generation<S>>),
}

#[derive(Debug)]
struct Latest<S> {
    generation: ArcSwap<Generation<S>>,
    /// The generation's number, for a look that costs nothing.
    number: AtomicU64,
}

/// A service and what has to go on in the background while it is used.
#[derive(Debug)]
struct Generation<S> {
    number: u64,
    service: S,
    _upkeep: BackgroundTasks,
}

impl<S: Clone> Swap<S> {
    pub(super) fn new(service: S, upkeep: BackgroundTasks) -> Self {
        let own = service.clone();
        let first = Arc::new(Generation {
            number: 0,
            service,
            _upkeep: upkeep,
        });
        Self {
            own,
            of: (0, Arc::downgrade(&first)),
            latest: Arc::new(Latest {
                generation: ArcSwap::new(first),
                number: AtomicU64::new(0),
            }),
        }
    }

    /// The requests that come from now on are answered by `service`. For one at a time.
    pub(super) fn exchange(&self, service: S, upkeep: BackgroundTasks) {
        let number = self.latest.generation.load().number + 1;
        self.latest.generation.store(Arc::new(Generation {
            number,
            service,
            _upkeep: upkeep,
        }));
        self.latest.number.store(number, Ordering::Release);
    }

    /// The latest generation, which is then that of this clone's own copy.
    fn current(&mut self) -> Arc<Generation<S>> {
        let (number, generation) = &self.of;
        if self.latest.number.load(Ordering::Acquire) == *number
            && let Some(generation) = generation.upgrade()
        {
            return generation;
        }
        let generation = self.latest.generation.load_full();
        if generation.number != *number {
            self.own = generation.service.clone();
            self.of = (generation.number, Arc::downgrade(&generation));
        }
        generation
    }
}

impl<S: Clone> Clone for Swap<S> {
    fn clone(&self) -> Self {
        Self {
            latest: Arc::clone(&self.latest),
            own: self.own.clone(),
            of: self.of.clone(),
        }
    }
}

impl<S> Service<InboundRequest<Incoming>> for Swap<S>
where
    S: Service<InboundRequest<Incoming>, Response = Response<Body>, Error = Infallible> + Clone,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering<S>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Which service it will be is found out when the request is there. All of them are always
        // ready.
        self.own.poll_ready(context)
    }

    fn call(&mut self, request: InboundRequest<Incoming>) -> Self::Future {
        let generation = self.current();
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
        S: Service<InboundRequest<Incoming>>,
    {
        #[pin]
        answer: S::Future,
        _generation: Arc<Generation<S>>,
    }
}

impl<S: Service<InboundRequest<Incoming>>> Future for Answering<S> {
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().answer.poll(context)
    }
}
