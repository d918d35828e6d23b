//! The layer that puts each try on its limiter.

use std::future::ready;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tower::Layer as _;

use super::TokenLimiters;
use crate::attempt::{Admitted, Attempt, Delivery, Failure, RetryHint};
use crate::scan::UpstreamResponse;
use crate::{queue, quota};

/// Wraps a service that needs a slot into one that waits for it, in the queue of the token that the
/// call will be made with.
#[derive(Clone, Debug)]
pub struct Layer(TokenLimiters);

impl Layer {
    /// Slots come from `token_limiters`.
    pub fn new(token_limiters: TokenLimiters) -> Self {
        Self(token_limiters)
    }
}

impl<S> tower::Layer<S> for Layer {
    type Service = Service<S>;

    fn layer(&self, inner: S) -> Service<S> {
        Service {
            token_limiters: self.0.clone(),
            inner,
        }
    }
}

/// See [`Layer`].
#[derive(Clone, Debug)]
pub struct Service<S> {
    token_limiters: TokenLimiters,
    inner: S,
}

impl<S> tower::Service<Attempt> for Service<S>
where
    S: tower::Service<Admitted<quota::Permit>, Response = UpstreamResponse, Error = Failure> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = UpstreamResponse;
    type Error = Failure;
    type Future = BoxFuture<'static, Result<UpstreamResponse, Failure>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        // As in the queue: readiness below is awaited after the turn has come.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, attempt: Attempt) -> Self::Future {
        let limiter = match self.token_limiters.enter(attempt.request.payer()) {
            Ok(limiter) => limiter,
            Err(refused) => {
                let failure = Failure {
                    delivery: Delivery::NotSent,
                    again: RetryHint::Never,
                    answer: None,
                    source: refused.into(),
                };
                return Box::pin(ready(Err(failure)));
            }
        };
        let mut queued = queue::Layer::new(limiter.queue.clone()).layer(self.inner.clone());
        let answer = queued.call(attempt);
        Box::pin(async move {
            let answered = answer.await;
            // Held until the answer is there: a limiter that somebody is on is not forgotten.
            drop(limiter);
            answered
        })
    }
}
