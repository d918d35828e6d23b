//! Drives one flight: it makes the call, repeats it where that helps the remaining waiters, and
//! ends when the flight is completed or has no waiters.

use std::sync::Arc;

use http::StatusCode;
use tokio::time::Instant;

use crate::BoxError;
use crate::attempt::{Asked, Attempt, Delivery, Failure};
use crate::memory::AnswerMemory;
use crate::middleware::Next;
use crate::scan::{ResponseKind, Rows, UpstreamResponse};
use crate::single_flight::Shared;
use crate::single_flight::batch_role::{MemberOutcome, MemberResponse};
use crate::single_flight::batch_split::is_throttled;
use crate::single_flight::batcher::{Batch, fail, release};
use crate::single_flight::flight::{Flight, Stage};
use crate::single_flight::flight_table::FlightTable;
use crate::single_flight::waiter::{BatchKind, FlightResponse, Leader};

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
pub(super) enum StepResult {
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
                StepResult::Completed(result) => self.completed(result, &leader).await,
            };
            self.flight.release_equals();
            before = Some(leader);
        }
        // All waiters have their results; what follows is for later requests.
        if let Some(batcher) = &self.flight_table.batcher
            && let Some(comparison) = batcher.begin_comparison(&self.flight.request)
        {
            batcher.compare(comparison, inner).await;
        }
    }

    /// What becomes of a flight that was a member of another flight's batch.
    async fn handle_outcome(&self, outcome: Option<MemberOutcome>, leader: &Leader) -> Option<Leader> {
        match outcome {
            Some(MemberOutcome::Share(share)) => return self.take(*share, BatchKind::Member, leader).await,
            Some(MemberOutcome::Response(joined)) => {
                let joined = joined.counted(self.memory.as_ref()).await;
                return self.finish(joined, BatchKind::Member, leader);
            }
            Some(MemberOutcome::Equal(equal)) => return self.finish(Some(equal), BatchKind::Equal, leader),
            Some(MemberOutcome::Failed(outcome)) => {
                return self.shared_call_failed(&outcome, BatchKind::Equal, Flight::released);
            }
            Some(MemberOutcome::WaitsAgain) => {}
            None => self.flight.leave_batch(),
        }
        self.flight.leader()
    }

    /// What becomes of a flight whose call, its own or another's, failed for all that share it. If
    /// its leader still has time, it waits again as `how` says. Otherwise it fares as who had joined
    /// the call: it would ask for a slot too late, and all that shared the call would do so at once.
    pub(super) fn shared_call_failed(
        &self,
        outcome: &Result<UpstreamResponse, Shared>,
        batch_kind: BatchKind,
        how: impl Fn(&Flight),
    ) -> Option<Leader> {
        let now = Instant::now();
        let leader = self.flight.leader();
        let next = match leader {
            Some(leader) if !self.flight.has_time(now) => {
                let result = outcome.clone().map(|answer| {
                    Arc::new(FlightResponse {
                        answer,
                        kept: None,
                        batch_kind,
                    })
                });
                // Waiters with more time than their leader had go on.
                self.flight.fail(&result, &leader, now)
            }
            leader => leader,
        };
        how(&self.flight);
        self.fail_equals(outcome);
        next
    }

    /// Goes on after a call that was made for this flight, or for its batch.
    async fn completed(&self, result: Result<UpstreamResponse, BoxError>, leader: &Leader) -> Option<Leader> {
        let (result, is_out_of_time) = answered(result);
        let good = result.as_ref().is_ok_and(|answer| answer.status.is_success());
        self.flight.end_trace(!good);
        let batch = self.flight.take_batch();
        self.record_ids(batch.as_ref());
        match batch {
            // A throttled call that got no other slot in its leader's time says nothing about
            // merging, and members may have more time.
            Some(batch) if is_refused(&result) => {
                self.flight.withdraw_refusal();
                release(batch.members);
                self.flight.released();
                self.flight.leader()
            }
            Some(batch) if is_throttled(&batch.request, &result) => {
                let answer = result.as_ref().ok().cloned();
                let next = self.handle_result(result, is_out_of_time, leader);
                if let Some(answer) = answer {
                    fail(batch.members, &Ok(answer), Flight::released);
                }
                next
            }
            Some(batch) => self.split(batch, result, leader).await,
            None => self.handle_result(result, is_out_of_time, leader),
        }
    }

    /// Completes the flight with the answer to its own request, or decides how to go on after a
    /// failure, or after an answer that another attempt would have followed if the leader were not
    /// out of time.
    fn handle_result(
        &self,
        result: Result<UpstreamResponse, BoxError>,
        is_out_of_time: bool,
        leader: &Leader,
    ) -> Option<Leader> {
        match result {
            Ok(answer) if is_out_of_time => {
                let response = FlightResponse {
                    answer: answer.clone(),
                    kept: None,
                    batch_kind: BatchKind::None,
                };
                let next = self.flight.fail(&Ok(Arc::new(response)), leader, Instant::now());
                self.fail_equals(&Ok(answer));
                next
            }
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
                if let Some(batcher) = &self.flight.batcher {
                    batcher.complete_pending(&self.flight.request);
                }
                None
            }
            Err(error) => {
                let error = Shared::new(error);
                let next = self.flight.fail(&Err(error.clone()), leader, Instant::now());
                // What the queue refuses is about one name: the others ask it themselves.
                let failure = error.find::<Failure>();
                if failure.is_none_or(|failure| failure.delivery != Delivery::NoSlot) {
                    self.fail_equals(&Err(error));
                }
                next
            }
        }
    }

    /// Counts the ids that a call asked for because somebody waits for them.
    fn record_ids(&self, batch: Option<&Batch>) {
        let request = batch.map_or(&self.flight.request, |batch| &batch.request);
        let has_left = matches!(self.flight.stage(), Stage::Departed(_));
        if has_left && request.endpoint().operation.declaration().is_by_id() {
            let prefetched = batch.and_then(|batch| batch.prefetched.as_ref());
            let prefetched = prefetched.map_or(0, |request| request.ids().len());
            let metrics = &self.flight_table.metrics;
            metrics.calls_by_id.inc();
            metrics.asked_ids.inc_by((request.ids().len() - prefetched) as u64);
        }
    }

    /// Tells the batcher how a request fared that was asked alone.
    fn record_status(&self, answer: &UpstreamResponse) {
        let request = &self.flight.request;
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
        let request = &self.flight.request;
        if answer.status == StatusCode::OK
            && answer.may_be_json()
            && request.is_whole()
            && let Ok(rows) = Rows::split(request, &answer.body)
        {
            self.flight_table.upstream_profile.learn(request, &rows);
            if let Some((batcher, asked)) = self.flight_table.batcher.as_ref().zip(asked) {
                batcher.observe(request, &rows, &answer.body, asked);
            }
            if let Some(batcher) = &self.flight.batcher {
                batcher.profile_changed.notify_waiters();
            }
        }
    }

    pub(super) fn complete(&self, answer: UpstreamResponse, asked: Option<Instant>, batch_kind: BatchKind) {
        let kept = asked
            .filter(|_| self.flight.is_storable())
            .and_then(|asked| self.flight.cache_sink.keep(&self.flight.request, &answer, asked));
        if let Some(asked) = asked {
            self.answer_equals(&answer, asked);
        }
        let endpoint = self.flight.request.endpoint();
        let is_answer = answer.status.is_success() || ResponseKind::of(endpoint, &answer).is_answer();
        self.flight_table.remove(&self.flight, asked.is_some() && is_answer);
        self.flight.complete(FlightResponse {
            answer,
            kept,
            batch_kind,
        });
    }

    /// Answers the flights for the same request that the call took along. A response that is no
    /// answer serves only who asked for it, and who has no time for another call.
    fn answer_equals(&self, answer: &UpstreamResponse, asked: Instant) {
        if !ResponseKind::of(self.flight.request.endpoint(), answer).is_answer() {
            return self.fail_equals(&Ok(answer.clone()));
        }
        for equal in self.flight.take_equals() {
            let answer = answer.clone();
            // A flight whose task ended with the runtime needs no outcome.
            let _ = equal
                .sender
                .send(MemberOutcome::Equal(MemberResponse { answer, asked }));
        }
    }

    /// Ends a call that brought no answer for the flights for the same request.
    pub(super) fn fail_equals(&self, outcome: &Result<UpstreamResponse, Shared>) {
        fail(self.flight.take_equals(), outcome, Flight::released);
    }
}

/// Takes the answer out of a failure that has one: then its leader had no time for another attempt.
fn answered(result: Result<UpstreamResponse, BoxError>) -> (Result<UpstreamResponse, BoxError>, bool) {
    let mut result = result;
    let failure = result.as_mut().err().and_then(|error| error.downcast_mut::<Failure>());
    match failure.and_then(|failure| failure.answer.take()) {
        Some(answer) => (Ok(answer), true),
        None => (result, false),
    }
}

/// Whether the queue had no slot, or no room, for it.
pub(super) fn is_refused(result: &Result<UpstreamResponse, BoxError>) -> bool {
    let failure = result.as_ref().err().and_then(|error| error.downcast_ref::<Failure>());
    failure.is_some_and(|failure| failure.delivery == Delivery::NoSlot)
}

impl Drop for FlightDriver {
    fn drop(&mut self) {
        self.flight_table.remove(&self.flight, false);
        self.flight.close();
    }
}
