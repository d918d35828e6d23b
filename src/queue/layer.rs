//! The layer in which an attempt waits for its slot.

use super::fair_queue::{PermitSource, Queue};
use super::refused::Refused;
use crate::attempt::{Admitted, Attempt, Delivery, Failure, RetryHint};
use crate::middleware::{Middleware, Next};
use crate::scan::UpstreamResponse;

fn failure(refused: Refused) -> Failure {
    Failure {
        delivery: Delivery::NotSent,
        again: if refused.reason.is_for_time() {
            // Only a slot is missing.
            RetryHint::InBatch
        } else {
            RetryHint::Never
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Reason;
    use std::time::Duration;

    #[test]
    fn whoever_only_lacks_a_slot_may_join_a_batch() {
        for (reason, again) in [
            (Reason::Late, RetryHint::InBatch),
            (Reason::Promised, RetryHint::InBatch),
            (Reason::Displaced, RetryHint::InBatch),
            (Reason::PausedPastDeadline, RetryHint::InBatch),
            (Reason::Full, RetryHint::Never),
            (Reason::CallerFull, RetryHint::Never),
            (Reason::ShuttingDown, RetryHint::Never),
            (Reason::StoreLost, RetryHint::Never),
        ] {
            assert_eq!(failure(Refused::new(reason, Duration::ZERO)).again, again, "{reason:?}");
        }
    }
}
