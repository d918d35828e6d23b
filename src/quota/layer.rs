//! The layer that pays: every attempt's charge ends here, whatever becomes of the attempt.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};
use pin_project_lite::pin_project;

use super::permit::Permit;
use super::throttle_hint::ThrottleHint;
use crate::attempt::{Admitted, Charged, Delivery, Failure, RetryHint};
use crate::clock::Wall;
use crate::scan::{Headers, UpstreamResponse};

/// Wraps a service that makes calls into one that makes paid calls.
#[derive(Clone, Debug)]
pub struct Layer {
    wall: Wall,
}

impl Layer {
    /// `wall` is for `Retry-After` dates.
    pub fn new(wall: Wall) -> Self {
        Self { wall }
    }
}

impl<S> tower::Layer<S> for Layer {
    type Service = Service<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Service {
            inner,
            wall: self.wall.clone(),
        }
    }
}

/// See [`Layer`].
#[derive(Clone, Debug)]
pub struct Service<S> {
    inner: S,
    wall: Wall,
}

impl<S> tower::Service<Admitted<Permit>> for Service<S>
where
    S: tower::Service<Charged, Response = UpstreamResponse, Error = Failure>,
{
    type Response = UpstreamResponse;
    type Error = Failure;
    type Future = Paying<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, granted: Admitted<Permit>) -> Self::Future {
        let Admitted { attempt, permit } = granted;
        let charged = Charged {
            request: attempt.request.bind(),
            trace: attempt.request.trace(),
            caller: attempt.caller,
            retries: attempt.retries,
        };
        Paying {
            answer: self.inner.call(charged),
            permit: Some(permit),
            wall: self.wall.clone(),
        }
    }
}

pin_project! {
    /// A call under way, with what it costs. Dropped before it was polled, it costs nothing.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct Paying<F> {
        #[pin]
        answer: F,
        permit: Option<Permit>,
        wall: Wall,
    }
}

impl<F> Future for Paying<F>
where
    F: Future<Output = Result<UpstreamResponse, Failure>>,
{
    type Output = Result<UpstreamResponse, Failure>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Some(permit) = this.permit {
            permit.leave();
        }
        let result = ready!(this.answer.poll(context));
        Poll::Ready(match this.permit.take() {
            Some(permit) => end(permit, result, this.wall),
            None => result,
        })
    }
}

/// Ends the charge of a call that has ended.
fn end(permit: Permit, result: Result<UpstreamResponse, Failure>, wall: &Wall) -> Result<UpstreamResponse, Failure> {
    match result {
        Ok(mut answer) if answer.status == StatusCode::TOO_MANY_REQUESTS => {
            let pause = permit.throttled(ThrottleHint::read(answer.headers.iter(), &answer.body, wall.now()));
            answer.headers = with_retry_after(&answer.headers, pause);
            let source = Box::new(Refused);
            Err(Failure {
                delivery: Delivery::Answered,
                again: RetryHint::WhenAllowed,
                answer: Some(answer),
                source,
            })
        }
        Ok(answer) => {
            permit.settle();
            Ok(answer)
        }
        Err(failure) => {
            match failure.delivery {
                Delivery::NotSent => permit.refund(),
                // Dropping a permit whose call has left keeps the charge until the call's timeout.
                Delivery::Unknown => drop(permit),
                Delivery::Answered => permit.settle(),
            }
            Err(failure)
        }
    }
}

/// Should the answer pass through to the caller, it says how long everybody waits, in whole
/// seconds, and says nothing else about it.
fn with_retry_after(fields: &Headers, pause: Duration) -> Headers {
    let seconds = pause.as_secs() + u64::from(pause.subsec_nanos() > 0);
    let others = fields.iter().filter(|(name, _)| !ThrottleHint::is_told_by(name));
    others
        .map(|(name, value)| (name.clone(), value.clone()))
        .chain([(RETRY_AFTER, HeaderValue::from(seconds.max(1)))])
        .collect()
}

/// A call took longer than the ledger allows for; the attempt timeout below should have ended it.
#[derive(Debug, thiserror::Error)]
#[error("the upstream call took longer than its charge is kept")]
pub struct DeadlineExceeded;

/// The upstream's own limiter refused a call.
#[derive(Debug, thiserror::Error)]
#[error("the upstream answered 429")]
pub struct Refused;
