//! The layer that puts each try on its lane.

use std::fmt;
use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::{BoxFuture, Either};
use pin_project_lite::pin_project;
use tower::Layer as _;

use super::Lanes;
use super::table::Lane;
use crate::attempt::{Again, Failure, Fate, Granted, Try};
use crate::scan::Answer;
use crate::{queue, quota};

/// Wraps a service that needs a slot into one that waits for it, in the queue of the token that the call will be made with.
#[derive(Clone, Debug)]
pub struct Layer(Lanes);

impl Layer {
    /// Slots come from `lanes`.
    #[must_use]
    pub fn new(lanes: Lanes) -> Self {
        Self(lanes)
    }
}

impl<S> tower::Layer<S> for Layer {
    type Service = Service<S>;

    fn layer(&self, inner: S) -> Service<S> {
        Service {
            lanes: self.0.clone(),
            inner,
        }
    }
}

/// See [`Layer`].
#[derive(Clone, Debug)]
pub struct Service<S> {
    lanes: Lanes,
    inner: S,
}

impl<S> tower::Service<Try> for Service<S>
where
    S: tower::Service<Granted<quota::Permit>, Response = Answer, Error = Failure> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Answer;
    type Error = Failure;
    type Future = Either<OnLane, Ready<Result<Answer, Failure>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        // As in the queue: readiness below is awaited after the turn has come.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, attempt: Try) -> Self::Future {
        let lane = match self.lanes.enter(attempt.load.payer()) {
            Ok(lane) => lane,
            Err(refused) => {
                let failure = Failure {
                    fate: Fate::Unsent,
                    again: Again::Never,
                    answer: None,
                    source: refused.into(),
                };
                return Either::Right(ready(Err(failure)));
            }
        };
        let mut queued = queue::Layer::new(lane.queue.clone()).layer(self.inner.clone());
        let answer = queued.call(attempt);
        Either::Left(OnLane { answer, lane })
    }
}

pin_project! {
    /// An answer under way.
    #[must_use = "futures do nothing unless polled"]
    pub struct OnLane {
        #[pin]
        answer: BoxFuture<'static, Result<Answer, Failure>>,
        // Held until the answer is there: a lane that somebody is on is not forgotten.
        lane: Arc<Lane>,
    }
}

impl Future for OnLane {
    type Output = Result<Answer, Failure>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().answer.poll(context)
    }
}

impl fmt::Debug for OnLane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnLane")
            .field("lane", &self.lane)
            .finish_non_exhaustive()
    }
}
