//! The layer that pays: every attempt's charge ends here, whatever becomes of the attempt.

use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt as _, service_fn};

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

impl<S> tower::Layer<S> for Layer
where
    S: Service<Charged, Response = UpstreamResponse, Error = Failure> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    type Service = BoxCloneSyncService<Admitted<Permit>, UpstreamResponse, Failure>;

    fn layer(&self, inner: S) -> Self::Service {
        let wall = self.wall.clone();
        BoxCloneSyncService::new(service_fn(move |admitted| pay(admitted, inner.clone(), wall.clone())))
    }
}

/// Makes a call and ends its charge.
///
/// # Cancel safety
/// Dropped before the call has left, it costs nothing; later, the charge stays.
async fn pay<S>(admitted: Admitted<Permit>, mut inner: S, wall: Wall) -> Result<UpstreamResponse, Failure>
where
    S: Service<Charged, Response = UpstreamResponse, Error = Failure>,
{
    let Admitted { attempt, mut permit } = admitted;
    let ready = inner.ready().await?;
    let charged = Charged {
        request: attempt.request.bind(),
        trace: attempt.request.trace(),
        caller: attempt.caller,
        retries: attempt.retries,
    };
    permit.leave();
    let result = ready.call(charged).await;
    end(permit, result, &wall)
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
