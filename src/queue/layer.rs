//! The layer in which a try waits for its slot.

use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tower::ServiceExt as _;

use super::fair_queue::{PermitSource, Queue};
use super::refused::{Reason, Refused};
use crate::attempt::{Admitted, Attempt, Delivery, Failure, RetryHint};
use crate::scan::UpstreamResponse;

/// Wraps a service that needs a slot into one that waits for it.
#[derive(Debug)]
pub struct Layer<Q: PermitSource>(Queue<Q>);

impl<Q: PermitSource> Layer<Q> {
    /// Slots come from `queue`.
    pub fn new(queue: Queue<Q>) -> Self {
        Self(queue)
    }
}

impl<Q: PermitSource, S> tower::Layer<S> for Layer<Q> {
    type Service = Service<Q, S>;

    fn layer(&self, inner: S) -> Self::Service {
        Service {
            queue: self.0.clone(),
            inner,
        }
    }
}

/// See [`Layer`].
#[derive(Debug)]
pub struct Service<Q: PermitSource, S> {
    queue: Queue<Q>,
    inner: S,
}

impl<Q: PermitSource, S: Clone> Clone for Service<Q, S> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
            inner: self.inner.clone(),
        }
    }
}

fn failure(refused: Refused) -> Failure {
    Failure {
        delivery: Delivery::NotSent,
        again: match refused.reason {
            // Only a slot is missing.
            Reason::Late | Reason::Promised | Reason::Displaced => RetryHint::InBatch,
            _ => RetryHint::Never,
        },
        answer: None,
        source: Box::new(refused),
    }
}

impl<Q, S> tower::Service<Attempt> for Service<Q, S>
where
    Q: PermitSource,
    S: tower::Service<Admitted<Q::Permit>, Response = UpstreamResponse, Error = Failure> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = UpstreamResponse;
    type Error = Failure;
    type Future = BoxFuture<'static, Result<UpstreamResponse, Failure>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        // Readiness below is awaited after the turn has come: an early answer could be outdated by
        // then.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, attempt: Attempt) -> Self::Future {
        let queue = self.queue.clone();
        let mut inner = self.inner.clone();
        Box::pin(async move {
            let waiting = queue.enter(&attempt).map_err(failure)?;
            attempt.request.queues(attempt.position, waiting.predicted_start());
            let permit = waiting.turn().await.map_err(failure)?;
            let granted = Admitted {
                attempt: attempt.clone(),
                permit,
            };
            let answer = inner.ready().await?.call(granted).await;
            // The call has bound what is asked; only now is it known who benefits.
            queue.split_cost(&attempt);
            queue.answered(&attempt);
            answer
        })
    }
}
