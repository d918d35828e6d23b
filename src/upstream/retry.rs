//! Whether a failed attempt is repeated. Every attempt goes through the queue and is charged.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use crate::BoxError;
use crate::attempt::{Asked, Attempt, Delivery, Failure, Retries, RetryHint};
use crate::caller::Caller;
use crate::middleware::{Middleware, Next};
use crate::net::retry_after;
use crate::scan::{UpstreamResponse, is_unavailable};

/// The most attempts for one request, as a safeguard besides the deadline, in case a 429 ever fails
/// to pause the quota.
const MAX_ATTEMPTS: u32 = 16;

/// How often a request is sent to another host because its host was given up: two silent hosts are
/// possible, as several may be in one place.
const MOST_MOVES: u32 = 2;

/// The pause before another attempt after a 5xx or a lost connection, added to what a `Retry-After`
/// says; a random part of up to the same length is added, so that many callers that failed together
/// do not come back together.
const PAUSE: Duration = Duration::from_millis(100);

/// A `Retry-After` on a 5xx is obeyed up to this length; a longer one is passed on to the caller.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Repeats an attempt when that is safe (reading scan history always is), worth its cost and within
/// the deadline.
///
/// One further attempt each after a response that says that no answer can be given (5xx and the
/// like) and after [`RetryHint::Once`]; two after [`RetryHint::OtherHost`], also a moment past the
/// deadline, because the host took the time; after [`RetryHint::WhenAllowed`] (429) as often as the
/// deadline allows, while the queue below refuses when there is no slot in time. Each attempt is
/// the same [`Attempt`] at the same place. When there is no further attempt, an answer passes
/// through, whatever its status; otherwise the failure is the error. Where only the deadline
/// forbids another attempt, the error is a failure that has the answer in it: who shares the call
/// may have more time.
#[derive(Clone, Copy, Debug)]
pub struct Retry;

impl Middleware<Attempt, Next<Attempt>, UpstreamResponse, BoxError> for Retry {
    async fn call(&self, mut attempt: Attempt, next: &Next<Attempt>) -> Result<UpstreamResponse, BoxError> {
        let deadline = attempt.caller.deadline;
        let mut spent = Spent::default();
        loop {
            // Past its deadline this is its last attempt.
            attempt.retries = if attempt.caller.deadline > deadline {
                Retries::Exhausted
            } else {
                spent.retries()
            };
            let result = next.call(attempt.clone()).await;
            let Some(pause) = spent.pause(&result) else {
                return settled(result);
            };
            attempt.position = attempt.position.again(Asked::Ended);
            // The deadline is the latest start of the call, so it is checked after the pause.
            let again_at = Instant::now() + pause;
            if again_at > deadline {
                if !is_for_other_host(&result) || again_at > deadline + Attempt::GRACE {
                    return Err(out_of_time(result).into());
                }
                attempt.caller = Arc::new(Caller {
                    deadline: deadline + Attempt::GRACE,
                    ..Caller::clone(&attempt.caller)
                });
            }
            let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
            tracing::debug!(
                request_id = attempt.caller.request_id.as_str(),
                pause_ms,
                "another attempt"
            );
            tokio::time::sleep(pause).await;
        }
    }
}

/// The attempts that the request has used up, by kind.
#[derive(Debug, Default)]
struct Spent {
    attempts: u32,
    server_error: bool,
    once: bool,
    moves: u32,
}

impl Spent {
    /// Whether an attempt that is given up would be followed by another one.
    fn retries(&self) -> Retries {
        if self.moves < MOST_MOVES && self.attempts + 1 < MAX_ATTEMPTS {
            Retries::Left
        } else {
            Retries::Exhausted
        }
    }

    /// How long to wait before another attempt; `None` when there is none.
    fn pause(&mut self, result: &Result<UpstreamResponse, Failure>) -> Option<Duration> {
        // An attempt that was not sent has only waited, which the deadline bounds.
        let is_unsent = matches!(
            result,
            Err(Failure {
                delivery: Delivery::NoSlot | Delivery::NotSent,
                ..
            })
        );
        self.attempts += u32::from(!is_unsent);
        if self.attempts >= MAX_ATTEMPTS {
            return None;
        }
        match result {
            // A 429 that arrives as an answer is not for this layer: the quota has handled it.
            Ok(answer)
                if is_unavailable(answer.status)
                    && answer.status != StatusCode::TOO_MANY_REQUESTS
                    && answer.status != StatusCode::NOT_IMPLEMENTED
                    && !self.server_error =>
            {
                self.server_error = true;
                // What cannot be read is as if it were not there.
                let wanted = retry_after::wait(answer.headers.iter(), None).unwrap_or_default();
                (wanted <= LONGEST_PAUSE).then(|| wanted + jittered())
            }
            Ok(_) => None,
            Err(failure) => match failure.again {
                RetryHint::Never | RetryHint::InBatch => None,
                RetryHint::Once if self.once => None,
                RetryHint::Once => {
                    self.once = true;
                    Some(jittered())
                }
                RetryHint::OtherHost if self.moves >= MOST_MOVES => None,
                RetryHint::OtherHost => {
                    self.moves += 1;
                    Some(Duration::ZERO)
                }
                // The quota is paused, and the queue below knows when the next slot comes; or the
                // wait for a token goes on.
                RetryHint::WhenAllowed => Some(Duration::ZERO),
            },
        }
    }
}

/// Whether the attempt's host was given up.
fn is_for_other_host(result: &Result<UpstreamResponse, Failure>) -> bool {
    matches!(result, Err(failure) if failure.again == RetryHint::OtherHost)
}

/// The failure of an attempt that would be followed by another one if there were more time.
fn out_of_time(result: Result<UpstreamResponse, Failure>) -> Failure {
    match result {
        Ok(answer) => Failure {
            delivery: Delivery::Answered,
            again: RetryHint::Once,
            answer: Some(answer),
            source: "no time is left for another attempt".into(),
        },
        Err(failure) => failure,
    }
}

fn jittered() -> Duration {
    PAUSE.mul_f64(1.0 + rand::random::<f64>())
}

fn settled(result: Result<UpstreamResponse, Failure>) -> Result<UpstreamResponse, BoxError> {
    result.or_else(|mut failure| match failure.answer.take() {
        Some(answer) => Ok(answer),
        // The error itself, so that waiters of a shared call can see whether another attempt would
        // help.
        None => Err(failure.into()),
    })
}
