//! The layer that puts each try on its limiter.

use std::fmt;
use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::{BoxFuture, Either};
use pin_project_lite::pin_project;
use tower::Layer as _;

use super::TokenLimiters;
use super::table::Limiter;
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
    type Future = Either<OnLimiter, Ready<Result<UpstreamResponse, Failure>>>;

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
                return Either::Right(ready(Err(failure)));
            }
        };
        let mut queued = queue::Layer::new(limiter.queue.clone()).layer(self.inner.clone());
        let answer = queued.call(attempt);
        Either::Left(OnLimiter { answer, limiter })
    }
}

pin_project! {
    /// An answer under way.
    #[must_use = "futures do nothing unless polled"]
    pub struct OnLimiter {
        #[pin]
        answer: BoxFuture<'static, Result<UpstreamResponse, Failure>>,
        // Held until the answer is there: a limiter that somebody is on is not forgotten.
        limiter: Arc<Limiter>,
    }
}

impl Future for OnLimiter {
    type Output = Result<UpstreamResponse, Failure>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().answer.poll(context)
    }
}

impl fmt::Debug for OnLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnLane")
            .field("limiter", &self.limiter)
            .finish_non_exhaustive()
    }
}
