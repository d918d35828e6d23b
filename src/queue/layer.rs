//! How an attempt waits for its slot and is made with it.

use tower::{Service, ServiceExt as _};

use super::fair_queue::{PermitSource, Queue};
use super::refused::{Reason, Refused};
use crate::attempt::{Admitted, Attempt, Delivery, Failure, RetryHint};
use crate::scan::UpstreamResponse;

impl<Q: PermitSource> Queue<Q> {
    /// Waits for a slot, and makes the attempt with it. `inner` need not be ready: an answer from
    /// before the turn has come could be outdated by then.
    ///
    /// # Errors
    /// [`Failure`] of `inner`, or from a [`Refused`].
    pub async fn serve<S>(self, attempt: Attempt, mut inner: S) -> Result<UpstreamResponse, Failure>
    where
        S: Service<Admitted<Q::Permit>, Response = UpstreamResponse, Error = Failure>,
    {
        let waiting = self.enter(&attempt).map_err(failure)?;
        attempt.request.queues(attempt.position, waiting.predicted_start());
        let permit = waiting.turn().await.map_err(failure)?;
        let granted = Admitted {
            attempt: attempt.clone(),
            permit,
        };
        let answer = inner.ready().await?.call(granted).await;
        // The call has bound what is asked; only now is it known who benefits.
        self.split_cost(&attempt);
        self.answered(&attempt);
        answer
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
