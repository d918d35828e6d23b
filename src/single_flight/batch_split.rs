//! Splitting the answer to a batch, handing its parts to the members and the carrier, and pausing
//! batching when that fails repeatedly.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::time::{Instant, timeout};

use crate::BoxError;
use crate::memory::{AnswerMemory, LARGE_ANSWER};
use crate::net::MEMORY_WAIT;
use crate::scan::{Endpoint, Merging, Request, ResponseKind, Rows, SplitError, StoredRows, UpstreamResponse};
use crate::single_flight::batch_role::{MemberOutcome, MemberResponse};
use crate::single_flight::batcher::{Batch, BatchMember, Batcher, State, lacking};
use crate::single_flight::driver::FlightDriver;
use crate::single_flight::flight::Stage;
use crate::single_flight::waiter::{BatchKind, Leader};

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
                self.metrics.record_split_error(*split_error);
                match split_error {
                    // An answer that is longer than any before does not speak against batching, and
                    // earlier answers were not cut off by a page limit either.
                    SplitError::Longest => (state.split_errors, state.refusals) = (0, 0),
                    // Each member may fail alone as well, which would say nothing about batching.
                    SplitError::Failed => state.failed = true,
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

/// Whether the id with this number among those of `whole` is one of `part`.
fn is_of(whole: &Request, part: &Request) -> impl Fn(usize) -> bool {
    let part: HashSet<&str> = part.ids().collect();
    let wanted: Vec<bool> = whole.ids().map(|id| part.contains(id)).collect();
    move |id| wanted.get(id) == Some(&true)
}

/// How many rows of the answer to `whole` belong to the ids of `part`.
pub(super) fn count_rows(whole: &Request, part: &Request, rows: &Rows) -> usize {
    let is_wanted = is_of(whole, part);
    rows.iter().filter(|(id, ..)| is_wanted(*id)).count()
}

/// An answer to a batch, split into rows. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct BatchShare {
    whole: Arc<Request>,
    rows: Arc<Rows>,
    answer: UpstreamResponse,
    asked: Instant,
}

impl BatchShare {
    /// How many rows belong to the ids of a request.
    fn count(&self, request: &Request) -> usize {
        count_rows(&self.whole, request, &self.rows)
    }

    /// The answer to a request whose ids are all among those of the batch.
    fn part(&self, request: &Request) -> MemberResponse {
        MemberResponse {
            answer: UpstreamResponse {
                body: self.rows.only(is_of(&self.whole, request)),
                ..self.answer.clone()
            },
            asked: self.asked,
        }
    }

    /// The same, once there is memory for it; `None` when there is none in time. Members may be
    /// many, and each of their parts almost as long as the whole.
    async fn counted_part(&self, request: &Request, memory: &AnswerMemory) -> Option<MemberResponse> {
        let bytes = self.rows.bytes_of(is_of(&self.whole, request));
        let reserved = timeout(MEMORY_WAIT, memory.of(bytes).reserve(bytes)).await.ok()?;
        let MemberResponse { answer, asked } = self.part(request);
        let body = reserved.hold(answer.body);
        let answer = UpstreamResponse { body, ..answer };
        Some(MemberResponse { answer, asked })
    }

    /// The same, joined with rows that had come before; `None` when they cannot be joined.
    fn joined(&self, stored: &dyn StoredRows) -> Option<MemberResponse> {
        let rest = stored.missing().map(|missing| self.part(missing).answer);
        let (answer, asked) = stored.complete(rest.as_ref())?;
        Some(MemberResponse { answer, asked })
    }

    /// Answers a member from these rows and those that had come before; returns the number of its
    /// waiters. If they cannot be joined, it asks for all of its ids in another batch.
    fn join(&self, member: BatchMember) -> usize {
        let BatchMember { flight, stored, sender } = member;
        let (told, answered) = if let Some(response) = stored.and_then(|stored| self.joined(&*stored)) {
            (MemberOutcome::Response(response), flight.waiter_count())
        } else {
            flight.ask_for_all();
            (MemberOutcome::Rejoin(0), 0)
        };
        // A member whose task ended with the runtime needs no outcome.
        let _ = sender.send(told);
        answered
    }

    /// Answers the members for which it is certain that they would get as many rows alone; returns
    /// the number of their waiters. Of the others, one with `longest` rows, if given, asks alone,
    /// and the rest join another batch.
    fn tell(&self, batcher: &Batcher, members: Vec<(usize, BatchMember)>, mut longest: Option<usize>) -> usize {
        let mut answered = 0;
        for (count, BatchMember { flight, sender, .. }) in members {
            let told = if batcher.fits(&flight, count) {
                answered += flight.waiter_count();
                MemberOutcome::Share(Box::new(self.clone()))
            } else if longest.take_if(|longest| *longest == count).is_some() {
                // Its sender is dropped, so it asks alone.
                continue;
            } else {
                MemberOutcome::Rejoin(count)
            };
            let _ = sender.send(told);
        }
        answered
    }
}

impl FlightDriver {
    /// Splits the answer to a batch among its members. If the answer may have been cut off, all of
    /// them join another, smaller batch; if it cannot be split for any other reason, all ask alone.
    pub(super) fn split(&self, batch: Batch, result: &Result<UpstreamResponse, BoxError>) -> Option<Leader> {
        let Some(batcher) = self.flight.batcher() else {
            return self.request_alone();
        };
        match (batcher.split(&batch, result), result, self.flight.stage()) {
            (Ok(rows), Ok(answer), Stage::Departed(asked)) => {
                let answer = BatchShare {
                    whole: Arc::clone(&batch.request),
                    rows: Arc::new(rows),
                    answer: answer.clone(),
                    asked,
                };
                self.distribute(batch, batcher, &answer)
            }
            (Err(SplitError::Longest | SplitError::FullPage | SplitError::NextLink), ..)
                if !batch.members.is_empty() =>
            {
                self.rejoin(batch)
            }
            _ => {
                // The members see that their senders are dropped, and ask alone.
                drop(batch);
                self.request_alone()
            }
        }
    }

    /// Lets the members join other batches, and the carrier too.
    pub(super) fn rejoin(&self, batch: Batch) -> Option<Leader> {
        for member in batch.members {
            // A member whose task ended with the runtime needs no outcome.
            let _ = member.sender.send(MemberOutcome::Rejoin(0));
        }
        self.flight.rejoin(0);
        self.flight.leader()
    }

    fn distribute(&self, batch: Batch, batcher: &Batcher, answer: &BatchShare) -> Option<Leader> {
        self.keep_rows(&batch, answer);
        let late = batcher.claim_covered(&answer.whole, &answer.rows, answer.asked);
        let completed = batcher.complete_pending(&answer.whole);
        let is_alone = batch.members.is_empty() && late.is_empty() && completed == 0;
        let batch_kind = if is_alone { BatchKind::None } else { BatchKind::Carrier };
        let (joining, members): (Vec<_>, Vec<_>) = batch
            .members
            .into_iter()
            .chain(late)
            .partition(|member| member.stored.is_some());
        let own_rows = match &batch.stored {
            Some(_) => 0,
            None => answer.count(self.flight.request()),
        };
        let own = match &batch.stored {
            Some(stored) => answer.joined(&**stored),
            None if batcher.fits(&self.flight, own_rows) => Some(answer.part(self.flight.request())),
            None => None,
        };
        let members: Vec<_> = members
            .into_iter()
            .map(|member| (answer.count(member.flight.request()), member))
            .collect();
        // Asked alone, a request with more rows than any answer before might be cut off. The one
        // with the most rows asks alone and finds out for the others.
        let longest = members.iter().map(|(rows, _)| *rows).fold(own_rows, usize::max);
        let finds_out = own.is_none() && batch.stored.is_none() && own_rows == longest;
        let own_waiters = own.as_ref().map_or(0, |_| self.flight.waiter_count());
        let mut answered = completed + own_waiters;
        answered += joining.into_iter().map(|member| answer.join(member)).sum::<usize>();
        answered += answer.tell(batcher, members, (!finds_out).then_some(longest));
        if !is_alone {
            batcher.metrics.record_batch(answered);
        }
        match own {
            Some(MemberResponse { answer, asked }) => {
                self.complete(answer, Some(asked), batch_kind);
                return None;
            }
            None if batch.stored.is_some() => {
                self.flight.ask_for_all();
                self.flight.rejoin(0);
            }
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
                .cache_sink()
                .keep_rows(whole, prefetched, &answer.answer, answer.asked);
            return;
        }
        let requests = kept.iter().filter_map(|(_, lacking)| *lacking).chain(prefetched);
        if let Ok(part) = Request::all(whole.endpoint(), requests.flat_map(Request::ids)) {
            let MemberResponse { answer, asked } = answer.part(&part);
            self.flight.cache_sink().keep_rows(&part, prefetched, &answer, asked);
        }
    }

    /// Completes a member with its part of the answer to the batch. Where there is no memory for it,
    /// it asks alone, and its answer waits for memory again.
    pub(super) async fn take(&self, share: BatchShare) -> Option<Leader> {
        let request = self.flight.request();
        let part = match &self.memory {
            Some(memory) => share.counted_part(request, memory).await,
            None => Some(share.part(request)),
        };
        drop(share);
        let Some(MemberResponse { answer, asked }) = part else {
            return self.request_alone();
        };
        self.complete(answer, Some(asked), BatchKind::Member);
        None
    }

    /// The answer with memory reserved for its body, if that is large and was put together here,
    /// and there is memory. All waiters share the body, so none of them could reserve it.
    pub(super) fn counted(&self, answer: UpstreamResponse) -> UpstreamResponse {
        let bytes = answer.body.len();
        let memory = self.memory.as_ref().map(|memory| &memory.large);
        let reserved = memory
            .filter(|memory| bytes > LARGE_ANSWER && !memory.holds(&answer.body))
            .and_then(|memory| memory.try_reserve(bytes));
        match reserved {
            Some(reserved) => {
                let body = reserved.hold(answer.body);
                UpstreamResponse { body, ..answer }
            }
            None => answer,
        }
    }

    fn request_alone(&self) -> Option<Leader> {
        self.flight.leave_batch();
        self.flight.leader()
    }
}
