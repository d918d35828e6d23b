//! Splitting the answer to a batch, handing its parts to the members and the carrier, and pausing
//! batching when that fails repeatedly.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use crate::BoxError;
use crate::attempt::{Delivery, Failure, RetryHint};
use crate::memory::Exhausted;
use crate::net;
use crate::scan::{Endpoint, Merging, Request, ResponseKind, Rows, SplitError, UpstreamResponse};
use crate::single_flight::Shared;
use crate::single_flight::batch_role::MemberResponse;
use crate::single_flight::batch_share::BatchShare;
use crate::single_flight::batcher::{Batch, Batcher, State, fail, lacking, wait_again};
use crate::single_flight::driver::FlightDriver;
use crate::single_flight::flight::{Flight, Stage};
use crate::single_flight::waiter::{BatchKind, Leader};
use crate::telemetry::log;

/// After this many failed splits in a row batching is paused: the upstream does not answer in the
/// way that batching relies on.
const SPLIT_ERRORS: u32 = 3;

/// How long batching is paused. Then one more batch is tried, and one more failed split pauses it
/// again.
const PAUSE: Duration = Duration::from_mins(10);

impl Batcher {
    /// Splits the answer to a batch into rows.
    ///
    /// # Errors
    ///
    /// The reason why the members have to ask again.
    pub(super) fn split(&self, batch: &Batch, result: &Result<UpstreamResponse, BoxError>) -> Result<Rows, SplitError> {
        let rows = self.rows_of(&batch.request, result);
        // What was proven when the call left may have been contradicted since.
        let endpoint = batch.request.endpoint();
        let is_proven = || self.upstream_profile.merge_evidence().is_proven(endpoint);
        if self.merge.when == Merging::Auto && rows.is_ok() && !is_proven() {
            return Err(SplitError::Different);
        }
        let mut state = self.state();
        state.sizes[endpoint.index()].record_result(rows.as_ref().err().copied(), Instant::now());
        match &rows {
            Ok(_) => {
                (state.split_errors, state.refusals) = (0, 0);
                state.failed = false;
                if state.paused_until.take().is_some() {
                    tracing::info!("merging goes on: an answer could be taken apart again");
                    self.metrics.resume();
                }
            }
            Err(split_error) => {
                self.metrics.split_errors.of(*split_error).inc();
                match split_error {
                    // An answer that is longer than any before does not speak against batching, and
                    // earlier answers were not cut off by a page limit either.
                    SplitError::Longest => (state.split_errors, state.refusals) = (0, 0),
                    // Each member may fail alone as well, which would say nothing about batching,
                    // as little as a call that did not leave.
                    SplitError::Failed => state.failed |= unsent(result).is_none(),
                    SplitError::Refused => {
                        state.refusals += 1;
                        self.pause_if_repeated(&mut state, endpoint, *split_error);
                    }
                    _ => self.pause_if_repeated(&mut state, endpoint, *split_error),
                }
            }
        }
        rows
    }

    /// Records that a flight succeeded alone after a failed batch. If only the batch failed, that
    /// speaks against batching.
    pub(super) fn succeeded_alone(&self, endpoint: Endpoint) {
        let mut state = self.state();
        if std::mem::take(&mut state.failed) {
            self.pause_if_repeated(&mut state, endpoint, SplitError::Failed);
        }
    }

    /// Records that a flight was rejected alone after a failed batch, too. If the batch had been
    /// rejected, that was why, and speaks neither for nor against batching.
    pub(super) fn rejected_alone(&self) {
        let mut state = self.state();
        if let Some(left) = state.refusals.checked_sub(1) {
            state.refusals = left;
            state.split_errors = state.split_errors.saturating_sub(1);
        }
    }

    fn pause_if_repeated(&self, state: &mut State, endpoint: Endpoint, split_error: SplitError) {
        state.split_errors += 1;
        if state.split_errors >= SPLIT_ERRORS {
            tracing::warn!(reason = split_error.as_str(), rest = ?PAUSE, "merging rests: answers could not be taken apart with certainty");
            let until = Instant::now() + PAUSE;
            state.paused_until = Some(until);
            self.metrics.pause(until, split_error);
            // After the pause, a single failed split pauses batching again.
            state.split_errors = SPLIT_ERRORS - 1;
            if self.merge.when == Merging::Auto {
                self.upstream_profile.merge_evidence().contradict(endpoint, split_error);
            }
        }
    }

    fn rows_of(&self, request: &Request, result: &Result<UpstreamResponse, BoxError>) -> Result<Rows, SplitError> {
        let rows = attributed_rows(request, result)?;
        let complete = self.upstream_profile.complete(request.endpoint(), &rows);
        self.upstream_profile.learn(request, &rows);
        self.profile_changed.notify_waiters();
        complete.map(|()| rows)
    }
}

/// The rows of an answer, each with its id. Whether the answer may be cut off is not decided here.
pub(super) fn attributed_rows(
    request: &Request,
    result: &Result<UpstreamResponse, BoxError>,
) -> Result<Rows, SplitError> {
    let answer = result.as_ref().map_err(|_| SplitError::Failed)?;
    // A response that is no answer of the API, such as a proxy's error page, does not speak
    // against batching.
    let unless_rubbish = |split_error| match ResponseKind::of(request.endpoint(), answer) {
        ResponseKind::Answer => split_error,
        ResponseKind::Throttled | ResponseKind::Fault(_) => SplitError::Failed,
    };
    if answer.status != StatusCode::OK || !answer.may_be_json() {
        return Err(unless_rubbish(SplitError::Refused));
    }
    Rows::split(request, &answer.body).map_err(unless_rubbish)
}

/// Whether the call was refused with 429, and not repeated.
pub(super) fn is_throttled(request: &Request, result: &Result<UpstreamResponse, BoxError>) -> bool {
    let kind = result
        .as_ref()
        .map(|answer| ResponseKind::of(request.endpoint(), answer));
    matches!(kind, Ok(ResponseKind::Throttled))
}

/// The failure of a call that did not leave.
fn unsent(result: &Result<UpstreamResponse, BoxError>) -> Option<&Failure> {
    let failure = result.as_ref().err()?.downcast_ref::<Failure>()?;
    (failure.delivery == Delivery::NotSent).then_some(failure)
}

/// How those who still have time wait again after a call that failed. One that did not leave in its
/// leader's time may well leave in theirs, for all of them; otherwise each asks alone.
fn how_to_go_on(result: &Result<UpstreamResponse, BoxError>) -> fn(&Flight) {
    match unsent(result) {
        Some(failure) if failure.again != RetryHint::Never => Flight::released,
        _ => Flight::leave_batch,
    }
}

/// Whether the answer was longer than the gateway reads: that of each member may be short enough.
fn is_too_long(result: &Result<UpstreamResponse, BoxError>) -> bool {
    let mut causes = result
        .as_ref()
        .err()
        .into_iter()
        .flat_map(|error| log::causes(error.as_ref()));
    let error = causes.find_map(|cause| cause.downcast_ref::<net::Error>());
    error.is_some_and(|error| matches!(error.kind(), net::Kind::BodyTooLarge { .. }))
}

impl FlightDriver {
    /// Splits the answer to a batch among its members. If the answer may have been cut off, all of
    /// them join another, smaller batch; if it cannot be split for any other reason, all ask alone.
    pub(super) async fn split(
        &self,
        batch: Batch,
        result: Result<UpstreamResponse, BoxError>,
        leader: &Leader,
    ) -> Option<Leader> {
        let Some(batcher) = &self.flight.batcher else {
            return self.request_alone();
        };
        match (batcher.split(&batch, &result), result, self.flight.stage()) {
            (Ok(rows), Ok(answer), Stage::Departed(asked)) => {
                let answer = BatchShare {
                    whole: Arc::clone(&batch.request),
                    rows: Arc::new(rows),
                    answer,
                    asked,
                };
                self.distribute(batch, batcher, answer, leader).await
            }
            (Err(SplitError::Longest | SplitError::FullPage | SplitError::NextLink), ..)
                if !batch.members.is_empty() =>
            {
                self.rejoin(batch)
            }
            (Err(SplitError::Failed), result, _) if !is_too_long(&result) => {
                let how = how_to_go_on(&result);
                let outcome = result.map_err(Shared::new);
                let next = self.shared_call_failed(&outcome, BatchKind::None, how);
                fail(batch.members, &outcome, how);
                next
            }
            _ => {
                let next = self.request_alone();
                wait_again(batch.members, Flight::leave_batch);
                next
            }
        }
    }

    /// Lets the members join other batches, and the carrier too.
    pub(super) fn rejoin(&self, batch: Batch) -> Option<Leader> {
        self.flight.rejoin(0);
        wait_again(batch.members, |member| member.rejoin(0));
        self.flight.leader()
    }

    async fn distribute(&self, batch: Batch, batcher: &Batcher, answer: BatchShare, leader: &Leader) -> Option<Leader> {
        self.keep_rows(&batch, &answer);
        let late = batcher.claim_covered(&answer.whole, &answer.rows, answer.asked);
        let completed = batcher.complete_pending(&answer.whole);
        let is_alone = batch.members.is_empty() && late.is_empty() && completed == 0;
        let batch_kind = if is_alone { BatchKind::None } else { BatchKind::Carrier };
        let (joining, members): (Vec<_>, Vec<_>) = batch
            .members
            .into_iter()
            .chain(late)
            .partition(|member| member.stored.is_some());
        let joined = batch.stored.as_deref().map(|stored| answer.joined(stored));
        let own_rows = match &joined {
            Some(_) => 0,
            None => answer.count(&self.flight.request),
        };
        let is_answered = match &joined {
            Some(joined) => joined.is_some(),
            None => batcher.fits(&self.flight, own_rows),
        };
        let members: Vec<_> = members
            .into_iter()
            .map(|member| (answer.count(&member.flight.request), member))
            .collect();
        // Asked alone, a request with more rows than any answer before might be cut off. The one
        // with the most rows asks alone and finds out for the others.
        let longest = members.iter().map(|(rows, _)| *rows).fold(own_rows, usize::max);
        let finds_out = !is_answered && joined.is_none() && own_rows == longest;
        let own_waiters = if is_answered { self.flight.waiter_count() } else { 0 };
        let mut answered = completed + own_waiters;
        answered += joining.into_iter().map(|member| answer.join(member)).sum::<usize>();
        answered += answer.tell(batcher, members, (!finds_out).then_some(longest));
        if !is_alone {
            batcher.metrics.merged_calls.inc();
            batcher.metrics.merged_requests.inc_by(answered as u64);
        }
        match joined {
            Some(Some(response)) => {
                // The memory of the whole may be what it waits for.
                drop(answer);
                let response = response.counted(self.memory.as_ref()).await;
                return self.finish(response, batch_kind, leader);
            }
            Some(None) => {
                self.flight.ask_for_all();
                self.flight.rejoin(0);
            }
            None if is_answered => return self.take(answer, batch_kind, leader).await,
            None if finds_out => return self.request_alone(),
            None => self.flight.rejoin(own_rows),
        }
        self.flight.leader()
    }

    /// Stores the rows of a batch's answer by id, except those of flights that must not be stored.
    /// The rows are stored as one answer, so that their order stays known.
    fn keep_rows(&self, batch: &Batch, answer: &BatchShare) {
        let whole = &answer.whole;
        let members = batch.members.iter().map(|member| (&member.flight, member.lacking()));
        let own = (&self.flight, lacking(&self.flight, batch.stored.as_deref()));
        let (kept, not): (Vec<_>, Vec<_>) = members.chain([own]).partition(|(flight, _)| flight.is_storable());
        let prefetched = batch.prefetched.as_ref();
        if not.is_empty() {
            self.flight
                .cache_sink
                .keep_rows(whole, prefetched, &answer.answer, answer.asked);
            return;
        }
        let requests = kept.iter().filter_map(|(_, lacking)| *lacking).chain(prefetched);
        if let Ok(part) = Request::all(whole.endpoint(), requests.flat_map(Request::ids)) {
            let MemberResponse { answer, asked } = answer.part(&part);
            self.flight.cache_sink.keep_rows(&part, prefetched, &answer, asked);
        }
    }

    /// Completes the flight with its part of the answer to the batch; that of a member once there is
    /// memory for it.
    pub(super) async fn take(&self, share: BatchShare, batch_kind: BatchKind, leader: &Leader) -> Option<Leader> {
        let request = &self.flight.request;
        let part = match &self.memory {
            Some(memory) if batch_kind == BatchKind::Member => share.counted_part(request, memory).await,
            Some(memory) => Some(share.own_part(request, memory)),
            None => Some(share.part(request)),
        };
        drop(share);
        self.finish(part, batch_kind, leader)
    }

    /// Completes the flight with its response. Without memory for that, its waiters are told to come
    /// again: another call, for the same rows, would spend a slot and find no more memory.
    pub(super) fn finish(
        &self,
        response: Option<MemberResponse>,
        batch_kind: BatchKind,
        leader: &Leader,
    ) -> Option<Leader> {
        if let Some(MemberResponse { answer, asked }) = response {
            self.complete(answer, Some(asked), batch_kind);
            return None;
        }
        let no_memory = Failure {
            delivery: Delivery::Answered,
            again: RetryHint::Never,
            answer: None,
            source: Exhausted { of: "answers" }.into(),
        };
        let error = Shared::new(no_memory.into());
        let next = self.flight.fail(&Err(error.clone()), leader, Instant::now());
        self.fail_equals(&Err(error));
        next
    }

    fn request_alone(&self) -> Option<Leader> {
        self.flight.leave_batch();
        self.flight.leader()
    }
}
