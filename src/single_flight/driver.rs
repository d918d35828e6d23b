//! Drives one flight: it makes the call, repeats it where that helps the remaining waiters, and
//! ends when the flight is completed or has no waiters.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::StatusCode;
use tokio::sync::futures::Notified;
use tokio::time::{Instant, sleep, sleep_until};
use tower::{Service, ServiceExt as _};

use crate::BoxError;
use crate::attempt::{Attempt, Failure, LateBoundRequest, Retries, RetryHint};
use crate::scan::{Answer, CacheSink, Request, ResponseKind, Rows, SplitError, UpstreamProfile};
use crate::single_flight::Shared;
use crate::single_flight::batch_split::{count_rows, split_for};
use crate::single_flight::batcher::{Batch, Batcher, MemberOutcome, MemberResponse};
use crate::single_flight::flight::{Flight, Next, Stage};
use crate::single_flight::flight_result::{BatchKind, FlightResponse};
use crate::single_flight::flight_table::FlightTable;
use crate::single_flight::waiter::Leader;

/// One flight under way. However it ends, the flight is no longer in the table afterwards, and no
/// waiter is left waiting.
pub(super) struct FlightDriver {
    flight_table: Arc<FlightTable>,
    flight: Arc<Flight>,
    cache_sink: Arc<dyn CacheSink>,
    upstream_profile: Arc<UpstreamProfile>,
    /// All waiters have the result, and no request can join any more.
    completed: AtomicBool,
}

/// How one attempt ended.
enum StepResult {
    /// The call was made, for this flight alone or as the carrier of a batch.
    Completed(Result<Answer, BoxError>),
    /// The flight was a member of another flight's batch, with this outcome; `None` when it has to
    /// ask alone.
    Batched(Option<MemberOutcome>),
    /// No waiter is left.
    Abandoned,
}

impl FlightDriver {
    pub(super) fn new(
        flight_table: Arc<FlightTable>,
        flight: Arc<Flight>,
        cache_sink: Arc<dyn CacheSink>,
        upstream_profile: Arc<UpstreamProfile>,
    ) -> Self {
        Self {
            flight_table,
            flight,
            cache_sink,
            upstream_profile,
            completed: AtomicBool::new(false),
        }
    }

    pub(super) async fn run<S>(self, inner: S)
    where
        S: Service<Attempt, Response = Answer, Error = BoxError> + Clone + Send + 'static,
        S::Future: Send,
    {
        let mut next = self.flight.leader();
        let mut latest = None;
        while let Some(leader) = next {
            next = match self.attempt(&leader, inner.clone()).await {
                StepResult::Abandoned => None,
                StepResult::Batched(Some(MemberOutcome::Rejoin(rows))) => {
                    self.flight.rejoin(rows);
                    self.flight.leader()
                }
                StepResult::Batched(Some(MemberOutcome::Response(part))) => {
                    self.complete(part.answer, Some(part.asked), BatchKind::Member);
                    None
                }
                StepResult::Batched(None) => {
                    self.flight.leave_batch();
                    self.flight.leader()
                }
                StepResult::Completed(result) => {
                    let good = result.as_ref().is_ok_and(|answer| answer.status.is_success());
                    self.flight.end_trace(!good);
                    let batch = self.flight.split();
                    self.record_ids(batch.as_ref());
                    match batch {
                        Some(batch) => self.split(batch, &result),
                        None => self.handle_result(result, &leader),
                    }
                }
            };
            latest = Some(leader.caller);
        }
        // All waiters have their results; what follows is for later requests.
        if let Some(caller) = latest
            && let Some(batcher) = self.flight_table.batcher()
            && let Some(comparison) = batcher.begin_comparison(self.flight.request())
        {
            // On the heap, because hardly any flight gets here.
            Box::pin(batcher.compare(comparison, &caller, inner)).await;
        }
    }

    /// Queues for a slot and makes the call, unless the flight is cancelled or becomes a member
    /// before that.
    async fn attempt<S>(&self, leader: &Leader, inner: S) -> StepResult
    where
        S: Service<Attempt, Response = Answer, Error = BoxError> + Clone,
    {
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
                    return inner.oneshot(attempt).await;
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
                self.queue_for_batch(batcher, inner, attempt).await
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
            (Some(receiver), _) => StepResult::Batched(receiver.await.ok()),
            (None, Some(result)) => StepResult::Completed(result),
            (None, None) => StepResult::Abandoned,
        }
    }

    /// Queues for a slot and, when the queue has none in time, waits to join a batch instead.
    async fn queue_for_batch<S>(&self, batcher: &Batcher, inner: S, attempt: Attempt) -> Result<Answer, BoxError>
    where
        S: Service<Attempt, Response = Answer, Error = BoxError> + Clone,
    {
        let (place, deadline) = (attempt.position, attempt.caller.deadline);
        let mut is_refused = false;
        loop {
            // Subscribed before the queue is asked, so that no released slot is missed.
            let slot_released = batcher.slot_released();
            if is_refused
                && batcher.expects_call(&self.flight, deadline)
                && let Some(again) = batcher.can_join_batch(&self.flight, deadline)
            {
                wait_for(slot_released, again).await;
                continue;
            }
            let result = inner.clone().oneshot(attempt.clone()).await;
            let lacks_slot = result.as_ref().err().and_then(|error| error.downcast_ref::<Failure>());
            if !lacks_slot.is_some_and(|failure| failure.again == RetryHint::InBatch) {
                return result;
            }
            batcher.not_queued(&self.flight, place);
            let Some(again) = batcher.can_join_batch(&self.flight, deadline) else {
                return result;
            };
            is_refused = true;
            // A flight that becomes a member is cancelled here. Otherwise, when a call left without
            // it or its time is up, it asks the queue again, which knows when a retry makes sense.
            wait_for(slot_released, again).await;
        }
    }

    /// Splits the answer to a batch among its members. If the answer may have been cut off, all of
    /// them join another, smaller batch; if it cannot be split for any other reason, all ask alone.
    fn split(&self, batch: Batch, result: &Result<Answer, BoxError>) -> Option<Leader> {
        let Some(batcher) = self.flight.batcher() else {
            return self.request_alone();
        };
        match (batcher.split(&batch, result), result, self.flight.stage()) {
            (Ok(rows), Ok(answer), Stage::Departed(asked)) => self.distribute(batch, batcher, &rows, (answer, asked)),
            (Err(SplitError::Longest | SplitError::FullPage | SplitError::NextLink), ..)
                if !batch.members.is_empty() =>
            {
                for member in batch.members {
                    // A member whose task ended with the runtime needs no outcome.
                    let _ = member.sender.send(MemberOutcome::Rejoin(0));
                }
                self.flight.rejoin(0);
                self.flight.leader()
            }
            _ => {
                // The members see that their senders are dropped, and ask alone.
                drop(batch);
                self.request_alone()
            }
        }
    }

    fn distribute(
        &self,
        batch: Batch,
        batcher: &Batcher,
        rows: &Rows,
        (answer, asked): (&Answer, Instant),
    ) -> Option<Leader> {
        let whole = Arc::clone(&batch.request);
        self.keep_rows(&batch, rows, answer, asked);
        let own = count_rows(&whole, self.flight.request(), rows);
        let late = batcher.claim_covered(&whole, rows, asked);
        let has_other_callers = !batch.members.is_empty() || !late.is_empty();
        let members = batch.members.into_iter().chain(late);
        let members: Vec<_> = members
            .map(|member| (count_rows(&whole, member.flight.request(), rows), member))
            .collect();
        // Asked alone, a request with more rows than any answer before might be cut off. The one
        // with the most rows asks alone and finds out for the others.
        let longest = members.iter().map(|(rows, _)| *rows).chain([own]).max().unwrap_or(own);
        let is_own_sure = batcher.fits(&self.flight, own);
        let mut is_asked = !is_own_sure && own == longest;
        let mut answered = if is_own_sure { self.flight.waiter_count() } else { 0 };
        for (count, member) in members {
            let told = if batcher.fits(&member.flight, count) {
                answered += member.flight.waiter_count();
                let answer = split_for(&whole, member.flight.request(), rows, answer);
                MemberOutcome::Response(MemberResponse { answer, asked })
            } else if count == longest && !std::mem::replace(&mut is_asked, true) {
                // Its sender is dropped, so it asks alone.
                continue;
            } else {
                MemberOutcome::Rejoin(count)
            };
            let _ = member.sender.send(told);
        }
        if has_other_callers {
            batcher.record_batch(answered);
        }
        if is_own_sure {
            let batch_kind = if has_other_callers {
                BatchKind::Carrier
            } else {
                BatchKind::None
            };
            self.complete(
                split_for(&whole, self.flight.request(), rows, answer),
                Some(asked),
                batch_kind,
            );
            return None;
        }
        if own == longest {
            return self.request_alone();
        }
        self.flight.rejoin(own);
        self.flight.leader()
    }

    /// Stores the rows of a batch's answer by id, except those of flights that must not be stored.
    /// The rows are stored as one answer, so that their order stays known.
    fn keep_rows(&self, batch: &Batch, rows: &Rows, answer: &Answer, asked: Instant) {
        let whole = &batch.request;
        let flights = batch.members.iter().map(|member| &member.flight);
        let (kept, not): (Vec<_>, Vec<_>) = flights.chain([&self.flight]).partition(|flight| flight.is_storable());
        if not.is_empty() {
            self.cache_sink
                .keep_rows(whole, batch.prefetched.as_ref(), answer, asked);
            return;
        }
        let ids = kept.iter().flat_map(|flight| flight.request().ids());
        let ids = ids.chain(batch.prefetched.iter().flat_map(Request::ids));
        if let Ok(part) = Request::all(whole.endpoint(), ids) {
            let answer = split_for(whole, &part, rows, answer);
            self.cache_sink
                .keep_rows(&part, batch.prefetched.as_ref(), &answer, asked);
        }
    }

    fn request_alone(&self) -> Option<Leader> {
        self.flight.leave_batch();
        self.flight.leader()
    }

    /// Completes the flight with the answer to its own request, or decides how to go on after a
    /// failure.
    fn handle_result(&self, result: Result<Answer, BoxError>, leader: &Leader) -> Option<Leader> {
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
                None
            }
            Err(error) => match self.flight.fail(&Shared::new(error), leader, Instant::now()) {
                Next::Again(next) => Some(next),
                Next::Over => None,
            },
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
    fn record_status(&self, answer: &Answer) {
        let Some(batcher) = self.flight.batcher() else { return };
        match answer.status {
            // Only Defender's own error counts: an error page of a proxy in front of it says
            // nothing about an id.
            StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND
                if ResponseKind::of(self.flight.request().endpoint(), answer).is_answer() =>
            {
                batcher.reject(self.flight.request());
            }
            StatusCode::OK if self.flight.never_batches() => {
                batcher.succeeded_alone(self.flight.request().endpoint());
            }
            _ => {}
        }
    }

    /// Learns from the answer to a request that was asked alone.
    fn learn(&self, answer: &Answer, asked: Option<Instant>) {
        let request = self.flight.request();
        if answer.status == StatusCode::OK
            && answer.may_be_json()
            && request.is_whole()
            && let Some(rows) = Rows::certain(request, &answer.body)
        {
            if request.asks_for_all() {
                self.upstream_profile.learn_all(request.endpoint(), &rows);
            } else {
                self.upstream_profile.learn(request.endpoint(), &rows);
            }
            if let Some((batcher, asked)) = self.flight_table.batcher().zip(asked) {
                batcher.observe(request, &rows, &answer.body, asked);
            }
            if let Some(batcher) = self.flight.batcher() {
                batcher.notify_profile_change();
            }
        }
    }

    fn complete(&self, answer: Answer, asked: Option<Instant>, batch_kind: BatchKind) {
        let kept = asked
            .filter(|_| self.flight.is_storable())
            .and_then(|asked| self.cache_sink.keep(self.flight.request(), &answer, asked));
        self.flight_table.remove(&self.flight);
        self.flight.complete(FlightResponse {
            answer,
            kept,
            batch_kind,
        });
        self.completed.store(true, Ordering::Relaxed);
    }
}

/// Waits until a slot is released, but no longer than `until`.
async fn wait_for(slot_released: Notified<'_>, until: Instant) {
    tokio::select! {
        () = slot_released => {}
        () = sleep_until(until) => {}
    }
}

impl Drop for FlightDriver {
    fn drop(&mut self) {
        if !*self.completed.get_mut() {
            self.flight_table.remove(&self.flight);
            self.flight.close();
        }
    }
}
