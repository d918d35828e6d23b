//! Whether a failed attempt is made again. Every attempt goes through the queue and is paid for.

use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::StatusCode;
use http::header::RETRY_AFTER;
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt as _};

use crate::BoxError;
use crate::attempt::{Again, Failure, Try};
use crate::scan::Answer;

/// Most attempts for one request, whatever happens: the net below the deadline, should a 429 ever fail to pause the quota.
const MAX_ATTEMPTS: u32 = 16;

/// The pause before another attempt after a 5xx or a lost connection is this long, up to twice as long by chance, so that many callers
/// who failed together do not come back together.
const PAUSE: Duration = Duration::from_millis(100);

/// A `Retry-After` on a 5xx is obeyed up to this long; a longer one is passed on to the caller.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Puts [`Retry`] in front of a service.
#[derive(Clone, Copy, Debug, Default)]
pub struct RetryLayer;

impl<S> Layer<S> for RetryLayer {
    type Service = Retry<S>;

    fn layer(&self, inner: S) -> Retry<S> {
        Retry { inner }
    }
}

/// Makes an attempt again when that is safe (reading scan history always is), worth it and inside the deadline.
///
/// One further attempt each after a 5xx answer and after what [`Again::Once`] marks; after [`Again::WhenAllowed`] (429) as often as the
/// deadline allows, the queue below refusing when the turn cannot come in time. Each attempt is the same [`Try`] with the same place.
/// When there is no further attempt, an answer at hand passes through, whatever its status; otherwise the failure is the error.
#[derive(Clone, Debug)]
pub struct Retry<S> {
    inner: S,
}

impl<S> Service<Try> for Retry<S>
where
    S: Service<Try, Response = Answer, Error = Failure> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Answer;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Answer, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // Each attempt waits for readiness itself.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, attempt: Try) -> Self::Future {
        let inner = self.inner.clone();
        Box::pin(run(inner, attempt))
    }
}

async fn run<S>(mut inner: S, attempt: Try) -> Result<Answer, BoxError>
where
    S: Service<Try, Response = Answer, Error = Failure>,
{
    let mut spent = Spent::default();
    loop {
        let result = match inner.ready().await {
            Ok(inner) => inner.call(attempt.clone()).await,
            Err(failure) => Err(failure),
        };
        let Some(pause) = spent.pause(&result) else {
            return settled(result);
        };
        // The deadline is the latest start of the call, so it is checked after the pause.
        if Instant::now() + pause > attempt.caller.deadline {
            return settled(result);
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

/// What the request has used up of what it may have.
#[derive(Debug, Default)]
struct Spent {
    attempts: u32,
    server_error: bool,
    once: bool,
}

impl Spent {
    /// How long to wait before another attempt; `None` when there is to be none.
    fn pause(&mut self, result: &Result<Answer, Failure>) -> Option<Duration> {
        self.attempts += 1;
        if self.attempts >= MAX_ATTEMPTS {
            return None;
        }
        match result {
            Ok(answer) if is_server_trouble(answer.status) && !self.server_error => {
                self.server_error = true;
                match answer.headers.get(RETRY_AFTER) {
                    Some(wanted) => wanted.to_str().ok()?.trim().parse().ok().map(Duration::from_secs),
                    None => Some(jittered()),
                }
                .filter(|pause| *pause <= LONGEST_PAUSE)
            }
            Ok(_) => None,
            Err(failure) => match failure.again {
                Again::Never | Again::InCompany => None,
                Again::Once if self.once => None,
                Again::Once => {
                    self.once = true;
                    Some(jittered())
                }
                // The quota has been paused; the queue below knows when the next turn is.
                Again::WhenAllowed => Some(Duration::ZERO),
            },
        }
    }
}

/// Statuses that the same question may not meet again.
pub(super) fn is_server_trouble(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

fn jittered() -> Duration {
    PAUSE.mul_f64(1.0 + rand::random::<f64>())
}

fn settled(result: Result<Answer, Failure>) -> Result<Answer, BoxError> {
    result.or_else(|mut failure| match failure.answer.take() {
        Some(answer) => Ok(answer),
        // As it is, so that whoever shares the call can see whether another one would help.
        None => Err(failure.into()),
    })
}
