//! Drives one flight: it makes the call, repeats it where that helps the remaining waiters, and
//! ends when the flight is completed or has no waiters.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::sync::futures::Notified;
use tokio::time::{Instant, sleep, sleep_until};

use crate::BoxError;
use crate::attempt::{Asked, Attempt, Delivery, Failure, LateBoundRequest, Retries, RetryHint};
use crate::memory::AnswerMemory;
use crate::middleware::Next;
use crate::scan::{ResponseKind, Rows, UpstreamResponse};
use crate::single_flight::Shared;
use crate::single_flight::batch_role::{MemberOutcome, MemberResponse};
use crate::single_flight::batch_split::is_throttled;
use crate::single_flight::batcher::{Batch, Batcher};
use crate::single_flight::flight::{Flight, Stage};
use crate::single_flight::flight_table::FlightTable;
use crate::single_flight::waiter::{BatchKind, FlightResponse, Leader};

/// How often a flight without a place in the queue asks again, once its time is up and the call
/// that will answer it is under way.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The service that makes calls.
pub(super) type Below = Next<Attempt, UpstreamResponse, BoxError>;

/// One flight under way. However it ends, the flight is no longer in the table afterwards, and no
/// waiter is left waiting.
pub(super) struct FlightDriver {
    pub(super) flight_table: Arc<FlightTable>,
    pub(super) flight: Arc<Flight>,
    /// For the parts of answers to batches.
    pub(super) memory: Option<AnswerMemory>,
}

/// How one attempt ended.
enum StepResult {
    /// The call was made, for this flight alone or as the carrier of a batch.
    Completed(Result<UpstreamResponse, BoxError>),
    /// The flight was a member of another flight's batch, with this outcome; `None` when it has to
    /// ask alone.
    Batched(Option<MemberOutcome>),
    /// No waiter is left.
    Abandoned,
}

impl FlightDriver {
    pub(super) async fn run(self, inner: Below) {
        let mut next = self.flight.leader();
        let mut before: Option<Leader> = None;
        while let Some(mut leader) = next {
            if before.is_some_and(|before| Arc::ptr_eq(&before.caller, &leader.caller)) {
                leader.place = leader.place.again(Asked::Ended);
            }
            let step = self.attempt(&leader, inner.clone()).await;
            next = match step {
                StepResult::Abandoned => None,
                StepResult::Batched(outcome) => self.handle_outcome(outcome, &leader).await,
                StepResult::Completed(result) => {
                    let good = result.as_ref().is_ok_and(|answer| answer.status.is_success());
                    self.flight.end_trace(!good);
                    let batch = self.flight.take_batch();
                    self.record_ids(batch.as_ref());
                    match batch {
                        // A throttled call that got no other slot in its leader's time says nothing
                        // about merging, and members may have more time.
                        Some(batch) if is_refused(&result) => {
                            self.flight.withdraw_refusal();
                            batch.release();
                            self.flight.released();
                            self.flight.leader()
                        }
                        Some(batch) if is_throttled(&batch.request, &result) => {
                            batch.release();
                            self.handle_result(result, &leader)
                        }
                        Some(batch) => self.split(batch, result, &leader).await,
                        None => self.handle_result(result, &leader),
                    }
                }
            };
            before = Some(leader);
        }
        // All waiters have their results; what follows is for later requests.
        if let Some(batcher) = &self.flight_table.batcher
            && let Some(comparison) = batcher.begin_comparison(self.flight.request())
        {
            batcher.compare(comparison, inner).await;
        }
    }

    /// What becomes of a flight that was a member of another flight's batch.
    async fn handle_outcome(&self, outcome: Option<MemberOutcome>, leader: &Leader) -> Option<Leader> {
        match outcome {
            Some(MemberOutcome::Share(share)) => return self.take(*share, BatchKind::Member, leader).await,
            Some(MemberOutcome::Response(part)) => return self.finish(Some(part), BatchKind::Member, leader),
            Some(MemberOutcome::Equal(equal)) => return self.finish(Some(equal), BatchKind::Equal, leader),
            Some(MemberOutcome::NoMemory) => return self.finish(None, BatchKind::Member, leader),
            Some(MemberOutcome::Released) => self.flight.released(),
            Some(MemberOutcome::Rejoin(rows)) => self.flight.rejoin(rows),
            None => self.flight.leave_batch(),
        }
        self.flight.leader()
    }

    /// Queues for a slot and makes the call, unless the flight is cancelled or becomes a member
    /// before that.
    async fn attempt(&self, leader: &Leader, inner: Below) -> StepResult {
        let batcher = self.flight.batcher().filter(|_| self.flight.can_batch());
        let attempt = Attempt {
            request: Arc::clone(&self.flight) as Arc<dyn LateBoundRequest>,
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
                if let Some(rows) = rejoined {
                    batcher.wait_for_profile(&self.flight, rows).await;
                }
                let _pending = batcher.add_pending(&self.flight, leader.place);
                // A caller without time to wait, such as one with `wait=0`, goes at once, and so
                // does a flight that has already waited in a batch.
                if rejoined.is_none()
                    && let Some(gather) = batcher.gather_delay(&self.flight, &attempt.caller.name)
                    && Instant::now() + gather < attempt.caller.deadline
                {
                    sleep(gather).await;
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
            // A flight that is answered is cancelled here. Otherwise it asks the queue again, which
            // knows when a retry makes sense.
            if !self.wait_for_equal(attempt.caller.deadline).await {
                return result;
            }
            attempt.position = attempt.position.again(Asked::Refused);
        }
    }

    /// Waits as long as an equal flight will answer in time. `false`, at once, when there is none.
    async fn wait_for_equal(&self, deadline: Instant) -> bool {
        let until = deadline.max(Instant::now() + LOOK_AGAIN);
        let mut has_waited = false;
        loop {
            // Subscribed before the others are looked at, so that no end is missed.
            let ended = self.flight_table.ended.notified();
            let others = self.flight_table.others(&self.flight);
            let is_awaited = others.iter().any(|other| other.answers_in_time(&self.flight, deadline));
            if !is_awaited || Instant::now() >= until {
                return has_waited;
            }
            has_waited = true;
            self.flight.withdraw_refusal();
            wait_for(ended, until).await;
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

    /// Completes the flight with the answer to its own request, or decides how to go on after a
    /// failure.
    fn handle_result(&self, result: Result<UpstreamResponse, BoxError>, leader: &Leader) -> Option<Leader> {
        match result {
            Ok(answer) => {
                let asked = match self.flight.stage() {
                    Stage::Departed(asked) => Some(asked),
                    Stage::Waiting | Stage::Over => None,
                };
                self.record_status(&answer);
                // The profile learns before any waiter has the answer: a waiter that combines its
                // rows with others must know what it says about their order.
                self.learn(&answer, asked);
                self.complete(answer, asked, BatchKind::None);
                if let Some(batcher) = self.flight.batcher() {
                    batcher.complete_pending(self.flight.request(), self.memory.as_ref());
                }
                None
            }
            Err(error) => self.flight.fail(&Shared::new(error), leader, Instant::now()),
        }
    }

    /// Counts the ids that a call asked for because somebody waits for them.
    fn record_ids(&self, batch: Option<&Batch>) {
        let request = batch.map_or(self.flight.request(), |batch| &batch.request);
        let has_left = matches!(self.flight.stage(), Stage::Departed(_));
        if has_left && request.endpoint().operation.declaration().is_by_id() {
            let prefetched = batch.and_then(|batch| batch.prefetched.as_ref());
            let prefetched = prefetched.map_or(0, |request| request.ids().len());
            self.flight_table.metrics.record_ids(request.ids().len() - prefetched);
        }
    }

    /// Tells the batcher how a request fared that was asked alone.
    fn record_status(&self, answer: &UpstreamResponse) {
        let request = self.flight.request();
        // That of a request that shares no calls, too: it may be one that was rejected before.
        let batcher = self.flight_table.batcher.as_ref().filter(|_| request.is_whole());
        let Some(batcher) = batcher else { return };
        let has_left_batch = self.flight.never_batches();
        match answer.status {
            // Only Defender's own error counts: an error page of a proxy in front of it says
            // nothing about an id.
            StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND
                if ResponseKind::of(request.endpoint(), answer).is_answer() =>
            {
                batcher.reject(request, answer);
                if has_left_batch {
                    batcher.rejected_alone();
                }
            }
            StatusCode::OK => {
                batcher.accept(request);
                if has_left_batch {
                    batcher.succeeded_alone(request.endpoint());
                }
            }
            _ => {}
        }
    }

    /// Learns from the answer to a request that was asked alone.
    fn learn(&self, answer: &UpstreamResponse, asked: Option<Instant>) {
        let request = self.flight.request();
        if answer.status == StatusCode::OK
            && answer.may_be_json()
            && request.is_whole()
            && let Ok(rows) = Rows::split(request, &answer.body)
        {
            self.flight_table.upstream_profile.learn(request, &rows);
            if let Some((batcher, asked)) = self.flight_table.batcher.as_ref().zip(asked) {
                batcher.observe(request, &rows, &answer.body, asked);
            }
            if let Some(batcher) = self.flight.batcher() {
                batcher.profile_changed.notify_waiters();
            }
        }
    }

    pub(super) fn complete(&self, answer: UpstreamResponse, asked: Option<Instant>, batch_kind: BatchKind) {
        let kept = asked
            .filter(|_| self.flight.is_storable())
            .and_then(|asked| self.flight.cache_sink().keep(self.flight.request(), &answer, asked));
        if let Some(asked) = asked {
            self.answer_equal(&answer, asked);
        }
        let endpoint = self.flight.request().endpoint();
        let is_answer = answer.status.is_success() || ResponseKind::of(endpoint, &answer).is_answer();
        self.flight_table.remove(&self.flight, asked.is_some() && is_answer);
        self.flight.complete(FlightResponse {
            answer,
            kept,
            batch_kind,
        });
    }

    /// Answers the flights for the same request that still wait, unless theirs may be a better
    /// answer. Their callers pay nothing for it: no slot went to them, and who asks for what others
    /// ask for gains no slot either.
    fn answer_equal(&self, answer: &UpstreamResponse, asked: Instant) {
        let others = self.flight_table.others(&self.flight);
        if others.is_empty() || !ResponseKind::of(self.flight.request().endpoint(), answer).is_answer() {
            return;
        }
        let has_stored_rows = self.flight.has_stored_rows();
        for other in others {
            if let Some(sender) = other.take_equal_sender(asked, has_stored_rows) {
                let answer = answer.clone();
                // A flight whose task ended with the runtime needs no outcome.
                let _ = sender.send(MemberOutcome::Equal(MemberResponse { answer, asked }));
            }
        }
    }
}

/// Whether the queue had no slot in time, and nothing else was wrong.
fn lacks_slot(result: &Result<UpstreamResponse, BoxError>) -> bool {
    let failure = result.as_ref().err().and_then(|error| error.downcast_ref::<Failure>());
    failure.is_some_and(|failure| failure.again == RetryHint::InBatch)
}

/// Whether the queue had no slot, or no room, for it.
fn is_refused(result: &Result<UpstreamResponse, BoxError>) -> bool {
    let failure = result.as_ref().err().and_then(|error| error.downcast_ref::<Failure>());
    failure.is_some_and(|failure| failure.delivery == Delivery::NoSlot)
}

/// Waits until something has happened, but no longer than `until`.
async fn wait_for(happened: Notified<'_>, until: Instant) {
    tokio::select! {
        () = happened => {}
        () = sleep_until(until) => {}
    }
}

impl Drop for FlightDriver {
    fn drop(&mut self) {
        self.flight_table.remove(&self.flight, false);
        self.flight.close();
    }
}
