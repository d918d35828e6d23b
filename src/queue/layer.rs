//! The layer in which an attempt waits for its slot.

use super::fair_queue::{PermitSource, Queue};
use super::refused::{Reason, Refused};
use crate::attempt::{Admitted, Attempt, Delivery, Failure, RetryHint};
use crate::middleware::{Middleware, Next};
use crate::scan::UpstreamResponse;

fn failure(refused: Refused) -> Failure {
    Failure {
        delivery: Delivery::NoSlot,
        again: match refused.reason {
            // Only a slot is missing.
            Reason::Late | Reason::Promised | Reason::Displaced => RetryHint::InBatch,
            _ => RetryHint::Never,
        },
        answer: None,
        source: Box::new(refused),
    }
}

impl<S: PermitSource> Middleware<Attempt, Next<Admitted<S::Permit>>> for Queue<S> {
    async fn call(&self, attempt: Attempt, next: &Next<Admitted<S::Permit>>) -> Result<UpstreamResponse, Failure> {
        let waiting = self.enter(&attempt).map_err(failure)?;
        attempt.request.queues(attempt.position, waiting.predicted_start());
        let permit = waiting.turn().await.map_err(failure)?;
        let granted = Admitted {
            attempt: attempt.clone(),
            permit,
        };
        let answer = next.call(granted).await;
        // The call has bound what is asked; only now is it known who benefits.
        self.split_cost(&attempt);
        self.answered(&attempt);
        answer
    }
}
