//! The way in, exchanged between two requests.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

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
    latest: Arc<ArcSwap<Generation<S>>>,
    /// Made by the first request: a clone that never answers one, as the listeners' are, must not
    /// keep the first configuration's cache for as long as the gateway runs.
    own: Option<Own<S>>,
}

/// A clone's own copy of the service, because requests pay for a copy only after a change, and of
/// which generation it is. That is not held: what goes on in the background for it ends with the
/// last request, not with the last idle connection.
type Own<S> = (Weak<Generation<S>>, S);

/// A service and what has to go on in the background while it is used.
#[derive(Debug)]
struct Generation<S> {
    service: S,
    _upkeep: BackgroundTasks,
}

impl<S: Clone> Swap<S> {
    pub(super) fn new(service: S, upkeep: BackgroundTasks) -> Self {
        let first = Generation {
            service,
            _upkeep: upkeep,
        };
        Self {
            own: None,
            latest: Arc::new(ArcSwap::from_pointee(first)),
        }
    }

    /// The requests that come from now on are answered by `service`.
    pub(super) fn exchange(&self, service: S, upkeep: BackgroundTasks) {
        self.latest.store(Arc::new(Generation {
            service,
            _upkeep: upkeep,
        }));
    }

    /// The latest generation, and this clone's own copy of its service.
    fn current(&mut self) -> (Arc<Generation<S>>, &mut S) {
        let generation = self.latest.load_full();
        let own = match self.own.take() {
            Some(own) if own.0.as_ptr() == Arc::as_ptr(&generation) => own,
            _ => (Arc::downgrade(&generation), generation.service.clone()),
        };
        (generation, &mut self.own.insert(own).1)
    }
}

impl<S> Clone for Swap<S> {
    fn clone(&self) -> Self {
        Self {
            latest: Arc::clone(&self.latest),
            own: None,
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

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Which service it will be is found out when the request is there. All of them are always
        // ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: InboundRequest<Incoming>) -> Self::Future {
        let (generation, service) = self.current();
        let ready = service.poll_ready(&mut Context::from_waker(Waker::noop()));
        debug_assert!(ready.is_ready(), "the stack is always ready");
        Answering {
            answer: service.call(request),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_without_requests_does_not_keep_the_configuration_before() {
        let first = Arc::new(());
        let before = Arc::downgrade(&first);
        let swap = Swap::new(first, BackgroundTasks::default());
        let (listener, mut connection) = (swap.clone(), swap.clone());
        assert!(Weak::ptr_eq(&Arc::downgrade(connection.current().1), &before));

        let second = Arc::new(());
        swap.exchange(Arc::clone(&second), BackgroundTasks::default());
        assert!(Arc::ptr_eq(connection.current().1, &second));
        assert!(before.upgrade().is_none(), "the first is kept by {listener:?}");
    }
}
