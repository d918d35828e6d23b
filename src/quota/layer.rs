//! The layer below the queue: every attempt's charge ends here, whatever becomes of the attempt.

use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};

use super::handle::Permit;
use super::throttle_hint::ThrottleHint;
use crate::BoxError;
use crate::attempt::{Admitted, Charged, Delivery, Failure, RetryHint};
use crate::clock::Wall;
use crate::middleware::{Middleware, Next};
use crate::net::retry_after::is_told_by;
use crate::scan::{Headers, UpstreamResponse};

/// Ends the charge of each attempt: its slot was charged when the queue granted it.
#[derive(Clone, Debug)]
pub struct Charging {
    /// For `Retry-After` dates.
    pub wall: Wall,
    /// Which of the gateway's app registrations the calls below are made as, as
    /// [`Quota::forget_refusals`](super::Quota::forget_refusals) numbers them.
    pub registration: u64,
}

impl Middleware<Admitted<Permit>, Next<Charged>> for Charging {
    /// # Cancel safety
    ///
    /// Dropped before it was polled, the call costs nothing; later it costs its slot.
    async fn call(&self, granted: Admitted<Permit>, next: &Next<Charged>) -> Result<UpstreamResponse, Failure> {
        let Admitted { attempt, mut permit } = granted;
        if permit.may_have_ended() {
            return Err(not_sent(RetryHint::WhenAllowed, SlotEnded));
        }
        let Some(request) = attempt.request.bind() else {
            return Err(not_sent(RetryHint::Never, NotNeeded));
        };
        let charged = Charged {
            request,
            trace: attempt.request.trace(),
            caller: attempt.caller,
            retries: attempt.retries,
        };
        permit.made_as(self.registration);
        permit.leave();
        let result = next.call(charged).await;
        end(permit, result, &self.wall)
    }
}

/// Why the slot goes back.
fn not_sent(again: RetryHint, why: impl Into<BoxError>) -> Failure {
    Failure {
        delivery: Delivery::NotSent,
        again,
        answer: None,
        source: why.into(),
    }
}

/// Ends the charge of a call that has ended.
fn end(permit: Permit, result: Result<UpstreamResponse, Failure>, wall: &Wall) -> Result<UpstreamResponse, Failure> {
    match result {
        Ok(mut answer) if answer.status == StatusCode::TOO_MANY_REQUESTS => {
            let pause = permit.throttled(ThrottleHint::read(answer.headers.iter(), &answer.body, wall.now()));
            answer.headers = with_retry_after(&answer.headers, pause.unwrap_or_default());
            Err(Failure {
                delivery: Delivery::Answered,
                // A registration that is not used any more has no pause to wait for here.
                again: pause.map_or(RetryHint::Never, |_| RetryHint::WhenAllowed),
                answer: Some(answer),
                source: Box::new(Refused),
            })
        }
        Ok(answer) => {
            permit.settle();
            Ok(answer)
        }
        Err(failure) => {
            match failure.delivery {
                Delivery::NoSlot | Delivery::NotSent => permit.refund(),
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
    let others = fields.iter().filter(|(name, _)| !is_told_by(name));
    others
        .map(|(name, value)| (name.clone(), value.clone()))
        .chain([(RETRY_AFTER, HeaderValue::from(seconds.max(1)))])
        .collect()
}

/// Nobody waits for a call of its own any more when its slot comes. Whoever asked knows that, and
/// no caller sees it.
#[derive(Debug, thiserror::Error)]
#[error("the call is not needed any more")]
pub struct NotNeeded;

/// The machine was suspended between a slot and its call, so the slot is not used.
#[derive(Debug, thiserror::Error)]
#[error("the slot may have ended while the machine was suspended")]
pub struct SlotEnded;

/// The upstream's own limiter refused a call.
#[derive(Debug, thiserror::Error)]
#[error("the upstream answered 429")]
pub struct Refused;
