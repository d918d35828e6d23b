//! How a flight gets its slot: it waits for company, asks the queue, and, when the queue has no slot
//! for it, waits for a batch to join or for an equal flight that is answered in time.

use std::sync::Arc;

use tokio::sync::futures::Notified;
use tokio::time::{Instant, sleep_until};

use crate::BoxError;
use crate::attempt::{Asked, Attempt, Failure, Retries, RetryHint};
use crate::scan::UpstreamResponse;
use crate::single_flight::batcher::Batcher;
use crate::single_flight::driver::{Below, FlightDriver, StepResult, is_refused};
use crate::single_flight::flight::Stage;
use crate::single_flight::flight_table::QueuedFlight;
use crate::single_flight::pending::PROFILE_WAIT;
use crate::single_flight::waiter::Leader;

impl FlightDriver {
    /// Queues for a slot and makes the call, unless the flight is cancelled or becomes a member
    /// before that.
    pub(super) async fn attempt(&self, leader: &Leader, inner: Below) -> StepResult {
        let batcher = self.flight.batcher.as_ref().filter(|_| self.flight.can_batch());
        let attempt = Attempt {
            request: Arc::new(QueuedFlight {
                flight_table: Arc::clone(&self.flight_table),
                flight: Arc::clone(&self.flight),
            }),
            caller: Arc::clone(&leader.caller),
            position: leader.place,
            retries: Retries::default(),
        };
        let outcome = {
            let call = async {
                let Some(batcher) = batcher else {
                    return self.queue_for_answer(None, inner, attempt).await;
                };
                let rejoined = self.flight.rejoined();
                let deadline = attempt.caller.deadline;
                if let Some(rows) = rejoined {
                    let until = deadline.min(Instant::now() + PROFILE_WAIT);
                    self.flight.stays_back(until);
                    batcher.wait_for_profile(&self.flight, rows, until).await;
                }
                let _pending = batcher.add_pending(&self.flight, leader.place);
                // A caller without time to wait, such as one with `wait=0`, goes at once, and so
                // does a flight that has already waited in a batch.
                if rejoined.is_none()
                    && let Some(gather) = batcher.gather_delay(&self.flight, &attempt.caller.name)
                    && let until = Instant::now() + gather
                    && until < deadline
                {
                    self.flight.stays_back(until);
                    sleep_until(until).await;
                }
                self.queue_for_answer(Some(batcher), inner, attempt).await
            };
            tokio::select! {
                biased;
                () = self.flight.cancelled() => None,
                result = call => Some(result),
            }
        };
        // The flight is no longer pending, so no carrier can take it any more; one may have done so
        // just before.
        match (self.flight.take_response_receiver(), outcome) {
            (Some(receiver), _) => {
                self.flight.withdraw_refusal();
                // An attempt of its own may have left before, without an answer.
                self.flight.end_trace(true);
                StepResult::Batched(receiver.await.ok())
            }
            (None, Some(result)) => StepResult::Completed(result),
            (None, None) => StepResult::Abandoned,
        }
    }

    /// Queues for a slot and, when the queue has none for it, waits for the answer to an equal
    /// flight that has one in time: one that is less urgent, or whose caller may still wait.
    async fn queue_for_answer(
        &self,
        batcher: Option<&Arc<Batcher>>,
        inner: Below,
        mut attempt: Attempt,
    ) -> Result<UpstreamResponse, BoxError> {
        loop {
            let result = match batcher {
                Some(batcher) => self.queue_for_batch(batcher, inner.clone(), attempt.clone()).await,
                None => inner.call(attempt.clone()).await,
            };
            if !is_refused(&result) || self.flight.stage() != Stage::Waiting {
                return result;
            }
            self.flight.wait_again(Instant::now(), None);
            // A flight that is taken along is cancelled here. Otherwise it asks the queue again,
            // which knows when a retry makes sense.
            if !self.wait_for_equal(attempt.caller.deadline).await {
                return result;
            }
            attempt.position = attempt.position.again(Asked::Refused);
        }
    }

    /// Waits as long as an equal flight will leave in time, which takes this one along. `false`, at
    /// once, when there is none.
    async fn wait_for_equal(&self, deadline: Instant) -> bool {
        let mut has_waited = false;
        loop {
            // Subscribed before the others are looked at, so that no end is missed.
            let ended = self.flight_table.ended.notified();
            let others = self.flight_table.others(&self.flight);
            let is_awaited = others.iter().any(|other| other.leaves_by(deadline));
            if !is_awaited || Instant::now() >= deadline {
                return has_waited;
            }
            has_waited = true;
            self.flight.withdraw_refusal();
            wait_for(ended, deadline).await;
        }
    }

    /// Queues for a slot and, when the queue has none in time, waits to join a batch instead.
    async fn queue_for_batch(
        &self,
        batcher: &Batcher,
        inner: Below,
        mut attempt: Attempt,
    ) -> Result<UpstreamResponse, BoxError> {
        let (place, deadline) = (attempt.position, attempt.caller.deadline);
        let mut is_refused = false;
        loop {
            // Subscribed before the queue is asked, so that no released slot is missed.
            let slot_released = batcher.slot_released.notified();
            if is_refused
                && batcher.expects_call(&self.flight, deadline)
                && let Some(again) = batcher.can_join_batch(&self.flight, place, deadline)
            {
                wait_for(slot_released, again).await;
                continue;
            }
            let result = inner.call(attempt.clone()).await;
            if !lacks_slot(&result) {
                return result;
            }
            // A throttled carrier waits for no batch: first its members have to know.
            if !self.flight.can_batch() {
                return result;
            }
            // Its call may have left before, without an answer.
            self.flight.end_trace(true);
            self.flight.wait_again(Instant::now(), None);
            batcher.not_queued(&self.flight, place);
            let Some(again) = batcher.can_join_batch(&self.flight, place, deadline) else {
                return result;
            };
            is_refused = true;
            attempt.position = attempt.position.again(Asked::Refused);
            self.flight.withdraw_refusal();
            // A flight that becomes a member is cancelled here. Otherwise, when a call left without
            // it or its time is up, it asks the queue again, which knows when a retry makes sense.
            wait_for(slot_released, again).await;
        }
    }
}

/// Whether the queue had no slot in time, and nothing else was wrong.
fn lacks_slot(result: &Result<UpstreamResponse, BoxError>) -> bool {
    let failure = result.as_ref().err().and_then(|error| error.downcast_ref::<Failure>());
    failure.is_some_and(|failure| failure.again == RetryHint::InBatch)
}

/// Waits until something has happened, but no longer than `until`.
async fn wait_for(happened: Notified<'_>, until: Instant) {
    tokio::select! {
        () = happened => {}
        () = sleep_until(until) => {}
    }
}
