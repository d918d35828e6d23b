//! Uniting questions that wait at the same time into one call.
//!
//! A plain flight that waits for its slot lies in the pool. When one of them gets its slot, it takes others aboard, in the order of their
//! places, and asks for all their ids at once; the answer is taken apart again. Whenever that is not certain to give each what it would
//! have got alone, everybody aboard asks alone, once, in the old place.
//!
//! A flight for which the queue has no slot in time may still come along: it waits for a lift, as long as calls that will leave in time have
//! room for all who wait.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::StatusCode;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::BoxError;
use crate::attempt::Place;
use crate::scan::{Answer, Endpoint, Keep, Request, ResponseKind, Rows, SharedIds, SplitError, UpstreamProfile};
use crate::single_flight::batch_size::BatchSizer;
use crate::single_flight::flight::Flight;
use crate::single_flight::pending::PendingFlights;
use crate::single_flight::rejected_ids::RejectedIds;
use crate::single_flight::{Metrics, PredictedWait};

/// How questions are united.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchConfig {
    /// The most ids in one united call.
    pub max_ids: NonZeroUsize,
    /// How long a call waits for company before it asks for a slot. In the queue it gathers anyway.
    pub gather: Duration,
}

/// So many calls in doubt, one after the other, switch merging off: the upstream is not as it has to be for this.
const SPLIT_ERRORS: u32 = 3;

/// For how long. Then one more call is tried, and switches it off again if it is in doubt.
const REST: Duration = Duration::from_mins(10);

/// A call that leaves is answered within so long, as a rule.
const ANSWERED: Duration = Duration::from_millis(500);

/// The flights that may be taken aboard.
#[derive(Debug)]
pub(super) struct Batcher {
    pub(super) merge: BatchConfig,
    keep: Arc<dyn Keep>,
    pub(super) upstream_profile: Arc<UpstreamProfile>,
    pub(super) outlook: PredictedWait,
    metrics: Metrics,
    state: Mutex<State>,
    /// Tells those who wait for a lift that a slot is gone, used or not.
    pub(super) moved: Notify,
    /// Tells those who wait to know how much an answer holds.
    pub(super) learned: Notify,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// By endpoint.
    pub(super) rooms: [PendingFlights; Endpoint::COUNT],
    growth: [BatchSizer; Endpoint::COUNT],
    suspects: RejectedIds,
    doubts: u32,
    /// A united call has failed since anybody succeeded alone.
    failed: bool,
    pub(super) resting_until: Option<Instant>,
}

/// A united call: what is asked, and for whom.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) request: Arc<Request>,
    pub(super) members: Vec<BatchMember>,
    /// The ids that nobody waits for.
    pub(super) prefetched: Option<Request>,
}

/// A flight that is aboard of another.
#[derive(Debug)]
pub(super) struct BatchMember {
    pub(super) flight: Arc<Flight>,
    /// Dropped without a word, it sends the passenger off alone.
    pub(super) tell: oneshot::Sender<Told>,
}

/// What a passenger is told when the call is over.
#[derive(Debug)]
pub(super) enum Told {
    /// Its part of the answer.
    MemberResponse(MemberResponse),
    /// The call has not answered it; another one that is shared may. It was found to have so many rows, if any were counted.
    Rejoin(usize),
}

/// A passenger's part of an answer.
#[derive(Debug)]
pub(super) struct MemberResponse {
    pub(super) answer: Answer,
    /// When the united call left.
    pub(super) asked: Instant,
}

impl Batcher {
    pub(super) fn new(
        merge: BatchConfig,
        keep: Arc<dyn Keep>,
        upstream_profile: Arc<UpstreamProfile>,
        outlook: PredictedWait,
        metrics: Metrics,
    ) -> Self {
        Self {
            merge,
            keep,
            upstream_profile,
            outlook,
            metrics,
            state: Mutex::default(),
            moved: Notify::new(),
            learned: Notify::new(),
        }
    }

    /// Whether a question may share a call at all.
    pub(super) fn suits(&self, request: &Request) -> bool {
        request.is_whole()
            && request.ids().len() <= self.merge.max_ids.get()
            && !self.state().suspects.include(request, Instant::now())
    }

    /// Notes that the upstream refused a question that was asked alone: in company it would spoil the call for all.
    pub(super) fn reject(&self, request: &Request) {
        self.state().suspects.note(request, Instant::now());
    }

    /// Lets a waiting flight be taken aboard for as long as the berth is held.
    pub(super) fn enter(self: &Arc<Self>, flight: &Arc<Flight>, place: Place) -> PendingGuard {
        let endpoint = flight.request().endpoint();
        self.state().rooms[endpoint.index()].enter(place.order(), Arc::clone(flight));
        PendingGuard {
            pool: Arc::clone(self),
            endpoint,
            order: place.order(),
        }
    }

    /// `flight` has a place in the queue now, and will get its slot at `start`.
    pub(super) fn queues(&self, flight: &Flight, place: Place, start: Instant) {
        self.state().rooms[flight.request().endpoint().index()].queues(place.order(), start);
    }

    /// What `carrier`, whose slot has just been granted, asks for: its own ids, and those of the flights that it takes aboard.
    pub(super) fn depart(&self, carrier: &Flight) -> Arc<Request> {
        let now = Instant::now();
        let own = carrier.request();
        // The pool is locked until all is settled: no two flights can take each other aboard.
        let mut state = self.state();
        if !carrier.depart(now) {
            return carrier.question();
        }
        let endpoint = own.endpoint();
        state.rooms[endpoint.index()].clear(|flight| std::ptr::eq(flight, carrier));
        if state.resting_until.is_none_or(|until| until <= now) {
            let most = self.most_ids(endpoint, &mut state, now);
            let members = pick(own, &state.rooms[endpoint.index()], most, now);
            state.rooms[endpoint.index()].clear(Flight::is_member);
            drop(state);
            self.attach(carrier, members, now);
        } else {
            drop(state);
        }
        self.moved.notify_waiters();
        carrier.question()
    }

    fn attach(&self, carrier: &Flight, members: Vec<BatchMember>, now: Instant) {
        let own = carrier.request();
        let endpoint = own.endpoint();
        let ids = members.iter().flat_map(|member| member.flight.request().ids());
        // Passengers who are let go here ask alone.
        let united = Request::all(endpoint, own.ids().chain(ids));
        let Some(united) = united.ok().filter(Request::is_whole) else {
            return;
        };
        let (request, prefetched) = self.fill(united, now);
        if members.is_empty() && prefetched.is_none() {
            return;
        }
        let expected = self
            .upstream_profile
            .rows_for(endpoint, request.ids().len())
            .unwrap_or(0);
        self.state().growth[endpoint.index()].leaves(expected, self.upstream_profile.longest(endpoint), now);
        carrier.attach(Batch {
            request: Arc::new(request),
            members,
            prefetched,
        });
    }

    /// Fills what room is left with ids that will be wanted, up to what answers are known to hold: a cut answer would be of use to nobody.
    fn fill(&self, united: Request, now: Instant) -> (Request, Option<Request>) {
        let endpoint = united.endpoint();
        let safe = self
            .upstream_profile
            .ids_for(endpoint, BatchSizer::safe(self.upstream_profile.longest(endpoint)));
        let allowed = self.state().growth[endpoint.index()].ids(self.merge.max_ids.get(), now);
        let most = safe.unwrap_or(0).min(allowed);
        let left = most.saturating_sub(united.ids().len());
        if left == 0 {
            return (united, None);
        }
        let until = now + (self.outlook.scarcity)(united.payer()).interval + ANSWERED;
        let wanted = self.keep.worth_prefetching(&united, left, now, until);
        let wanted: Vec<Request> = wanted
            .iter()
            .filter_map(|id| Request::plain(endpoint, [&**id]).ok())
            .collect();
        let mut ids = SharedIds::new(&united);
        let mut more = Vec::new();
        for one in &wanted {
            if ids.more_with(one) > 0 && ids.admit(one) {
                ids.add(one);
                more.extend(one.ids());
            }
        }
        let prefetched = Request::all(endpoint, more.iter().copied()).ok();
        let filled = Request::all(endpoint, united.ids().chain(more))
            .ok()
            .filter(Request::is_whole);
        match filled {
            Some(filled) if prefetched.is_some() => (filled, prefetched),
            _ => (united, None),
        }
    }

    /// Takes in those who came while a call was under way that asks for all that they ask for: its answer is here.
    pub(super) fn catch_up(&self, request: &Request, rows: &Rows, asked: Instant) -> Vec<BatchMember> {
        let ids: HashSet<&str> = request.ids().collect();
        let mut state = self.state();
        let room = &mut state.rooms[request.endpoint().index()];
        let covered = |flight: &&Arc<Flight>| {
            let part = flight.request();
            part.ids().all(|id| ids.contains(id)) && self.upstream_profile.fits(part, count(request, part, rows))
        };
        let late: Vec<BatchMember> = room
            .flights()
            .filter(covered)
            .filter_map(|flight| {
                let tell = flight.take_result_sender(asked)?;
                let flight = Arc::clone(flight);
                Some(BatchMember { flight, tell })
            })
            .collect();
        room.clear(Flight::is_member);
        drop(state);
        if !late.is_empty() {
            self.moved.notify_waiters();
        }
        late
    }

    /// How many ids a call may name that leaves now.
    pub(super) fn most_ids(&self, endpoint: Endpoint, state: &mut State, now: Instant) -> usize {
        let most = state.growth[endpoint.index()].ids(self.merge.max_ids.get(), now);
        let wanted = state.rooms[endpoint.index()].ids().min(most);
        let Some(wanted) = self.upstream_profile.rows_for(endpoint, wanted) else {
            return most;
        };
        let rows = state.growth[endpoint.index()].rows(wanted, self.upstream_profile.longest(endpoint), now);
        let ids = self.upstream_profile.ids_for(endpoint, rows);
        ids.map_or(most, |ids| ids.clamp(1, most))
    }

    /// Takes the answer to a united call apart.
    ///
    /// # Errors
    ///
    /// The reason why everybody has to ask alone.
    pub(super) fn split(&self, batch: &Batch, result: &Result<Answer, BoxError>) -> Result<Rows, SplitError> {
        let rows = self.examine(&batch.request, result);
        let mut state = self.state();
        state.growth[batch.request.endpoint().index()].learn(rows.as_ref().err().copied(), Instant::now());
        match &rows {
            Ok(_) => {
                state.doubts = 0;
                state.failed = false;
                if state.resting_until.take().is_some() {
                    tracing::info!("merging goes on: an answer could be taken apart again");
                    self.metrics.go_on();
                }
            }
            Err(split_error) => {
                self.metrics.split_error(*split_error);
                match split_error {
                    // A record says nothing against merging, and that answers so far ended where they did meant nothing either.
                    SplitError::Longest => state.doubts = 0,
                    // Perhaps each of them fails alone as well.
                    SplitError::Failed => state.failed = true,
                    _ => self.rest_if_repeated(&mut state, *split_error),
                }
            }
        }
        rows
    }

    /// A flight that was sent off alone has been answered well: if what failed was the united call, that was against merging.
    pub(super) fn succeeded_alone(&self) {
        let mut state = self.state();
        if std::mem::take(&mut state.failed) {
            self.rest_if_repeated(&mut state, SplitError::Failed);
        }
    }

    fn rest_if_repeated(&self, state: &mut State, split_error: SplitError) {
        state.doubts += 1;
        if state.doubts >= SPLIT_ERRORS {
            tracing::warn!(reason = split_error.as_str(), rest = ?REST, "merging rests: answers could not be taken apart with certainty");
            let until = Instant::now() + REST;
            state.resting_until = Some(until);
            self.metrics.rest(until, split_error);
            // One more doubt after the rest is enough for the next.
            state.doubts = SPLIT_ERRORS - 1;
        }
    }

    fn examine(&self, request: &Request, result: &Result<Answer, BoxError>) -> Result<Rows, SplitError> {
        let answer = result.as_ref().map_err(|_| SplitError::Failed)?;
        // What is no answer at all is nothing against merging.
        let unless_rubbish = |split_error| match ResponseKind::of(request.endpoint(), answer) {
            ResponseKind::Answer => split_error,
            ResponseKind::Throttled | ResponseKind::Fault(_) => SplitError::Failed,
        };
        if answer.status != StatusCode::OK || !answer.may_be_json() {
            return Err(unless_rubbish(SplitError::Refused));
        }
        let rows = Rows::split(request, &answer.body).map_err(unless_rubbish)?;
        let complete = self.upstream_profile.complete(request.endpoint(), &rows);
        self.upstream_profile.learn_all(request.endpoint(), &rows);
        self.learned.notify_waiters();
        complete.map(|()| rows)
    }

    /// Counts a united call that went well.
    pub(super) fn count(&self, requests: usize) {
        self.metrics.merged(requests);
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics halfway through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes flights aboard, first come first, as long as there is room for so many ids. None comes along with an id that could be one of
/// those aboard in another spelling: the upstream might give rows to one of the two only.
fn pick(own: &Request, room: &PendingFlights, most_ids: usize, now: Instant) -> Vec<BatchMember> {
    let mut ids = SharedIds::new(own);
    let mut members = Vec::new();
    for flight in room.flights() {
        let more = ids.more_with(flight.request());
        if ids.len() + more > most_ids || more > 0 && !ids.admit(flight.request()) {
            continue;
        }
        if let Some(tell) = flight.take_result_sender(now) {
            ids.add(flight.request());
            members.push(BatchMember {
                flight: Arc::clone(flight),
                tell,
            });
        }
    }
    members
}

/// How many rows of the answer to `whole` are those of `part`.
pub(super) fn count(whole: &Request, part: &Request, rows: &Rows) -> usize {
    let part: HashSet<&str> = part.ids().collect();
    let wanted: Vec<bool> = whole.ids().map(|id| part.contains(id)).collect();
    rows.iter().filter(|(id, ..)| wanted.get(*id) == Some(&true)).count()
}

/// What the answer to `whole` means for `part`, whose ids are all among those of `whole`.
pub(super) fn share(whole: &Request, part: &Request, rows: &Rows, answer: &Answer) -> Answer {
    let part: HashSet<&str> = part.ids().collect();
    let wanted: Vec<bool> = whole.ids().map(|id| part.contains(id)).collect();
    Answer {
        status: answer.status,
        headers: answer.headers.clone(),
        body: rows.only(|id| wanted.get(id).copied().unwrap_or(false)),
    }
}

/// A flight's presence in the pool.
pub(super) struct PendingGuard {
    pool: Arc<Batcher>,
    endpoint: Endpoint,
    order: u64,
}

impl Drop for PendingGuard {
    fn drop(&mut self) {
        let missed = self.pool.state().rooms[self.endpoint.index()].leave(self.order);
        if missed {
            self.pool.moved.notify_waiters();
        }
    }
}
