//! The layer in which an attempt waits for its slot.

use super::{PermitSource, Queue};
use super::refused::Refused;
use super::untold::Untold;
use crate::attempt::{Admitted, Attempt, Delivery, Failure, RetryHint};
use crate::middleware::{Middleware, Next};
use crate::scan::UpstreamResponse;

/// The failure of an attempt that was refused.
fn failure<S: PermitSource>(queue: &Queue<S>, attempt: &Attempt, refused: Refused) -> Failure {
    if refused.reason.is_for_time() {
        attempt
            .request
            .refused(Box::new(Untold::new(queue.clone(), &attempt.caller, &refused)));
    }
    Failure {
        delivery: Delivery::NoSlot,
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
        let waiting = self
            .enter(&attempt)
            .map_err(|refused| failure(self, &attempt, refused))?;
        attempt.request.queues(attempt.position, waiting.predicted_start());
        let turn = waiting.turn().await;
        let permit = turn.map_err(|refused| failure(self, &attempt, refused))?;
        let is_paid_here = self.is_paid_here(&permit, &attempt.caller);
        let granted = Admitted {
            attempt: attempt.clone(),
            permit,
        };
        let answer = next.call(granted).await;
        // The call has bound what is asked; only now is it known who benefits. A slot that went back
        // costs nobody.
        let cost_sharers = match &answer {
            Err(failure) if failure.delivery == Delivery::NotSent => Some(Vec::new()),
            _ => attempt.request.cost_sharers(),
        };
        if let Some(cost_sharers) = cost_sharers.filter(|names| is_paid_here && names.len() != 1) {
            self.split_cost(&attempt.caller, &cost_sharers);
        }
        self.answered(&attempt);
        answer
    }
}
