//! The layer in which an attempt waits for its slot.

use std::sync::Arc;

use http::HeaderValue;
use http::header::RETRY_AFTER;
use tokio::time::Instant;

use super::refused::{Reason, Refused};
use super::{PermitSource, Queue};
use crate::attempt::{Admitted, Attempt, Delivery, Failure, Refusal, RetryHint};
use crate::caller::Caller;
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
        Arc::clone(&attempt.request).queues(attempt.position, waiting.predicted_start());
        let turn = waiting.turn().await;
        let permit = turn.map_err(|refused| failure(self, &attempt, refused))?;
        let is_paid_here = self.is_paid_here(&permit, &attempt.caller);
        let granted = Admitted {
            attempt: attempt.clone(),
            permit,
        };
        let mut answer = next.call(granted).await;
        // The call has bound what is asked; only now is it known who benefits. A slot that went
        // back costs nobody.
        let cost_sharers = match &answer {
            Err(failure) if failure.delivery == Delivery::NotSent => Some(Vec::new()),
            _ => attempt.request.cost_sharers(),
        };
        if let Some(cost_sharers) = cost_sharers.filter(|names| is_paid_here && names.len() != 1) {
            self.split_cost(&attempt.caller, &cost_sharers);
        }
        self.answered(&attempt);
        if let Err(failure) = &mut answer {
            self.keep_place(&attempt, failure);
        }
        answer
    }
}

impl<S: PermitSource> Queue<S> {
    /// A call that the upstream refused is repeated as long as its caller may wait. Who may not any
    /// more is handed the upstream's answer, and told in it when its next turn comes, as somebody
    /// whom the queue refused.
    fn keep_place(&self, attempt: &Attempt, failure: &mut Failure) {
        let now = Instant::now();
        let is_told = failure.again == RetryHint::WhenAllowed && attempt.caller.deadline <= now;
        let Some(answer) = failure.answer.as_mut().filter(|_| is_told) else {
            return;
        };
        let mut state = self.0.lock();
        let retry_after = state.send_back(&attempt.caller, now, &self.0.source);
        self.0.tell(&state);
        drop(state);
        let others = answer.headers.iter().filter(|(name, _)| *name != RETRY_AFTER);
        let others = others.map(|(name, value)| (name.clone(), value.clone()));
        let seconds = HeaderValue::from(retry_after.as_secs());
        answer.headers = others.chain([(RETRY_AFTER, seconds)]).collect();
    }
}

/// A refusal of which it is not decided yet whether its caller is told. Counts it on drop, unless
/// it was withdrawn.
#[derive(Debug)]
struct Untold<S: PermitSource> {
    queue: Queue<S>,
    caller: Arc<Caller>,
    due: Option<Instant>,
    /// `None` once it is withdrawn.
    reason: Option<Reason>,
}

impl<S: PermitSource> Untold<S> {
    fn new(queue: Queue<S>, caller: &Arc<Caller>, refused: &Refused) -> Self {
        Self {
            queue,
            caller: Arc::clone(caller),
            due: refused.due,
            reason: Some(refused.reason),
        }
    }
}

impl<S: PermitSource> Refusal for Untold<S> {
    fn withdraw(mut self: Box<Self>) {
        self.reason = None;
        if let Some(due) = self.due {
            let state = &mut *self.queue.0.lock();
            let (name, urgency, order) = (&self.caller.name, self.caller.urgency, &mut state.order);
            state.expectations.withdraw(name, urgency, due, Instant::now(), order);
            self.queue.0.tell(state);
        }
    }
}

impl<S: PermitSource> Drop for Untold<S> {
    fn drop(&mut self) {
        if let Some(reason) = self.reason {
            self.queue.0.count_told(reason);
        }
    }
}
