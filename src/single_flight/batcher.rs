//! Batching: one upstream call for the different requests of several flights.
//!
//! A flight that waits for its slot is pending here. When one of the pending flights gets its slot,
//! it becomes the carrier: it takes other pending flights as members, in the order of their places,
//! asks for all their ids at once, and the answer is split again. If the answer may have been cut
//! off, all of them join another, smaller batch; whenever it is not certain for any other reason
//! that each member gets exactly what it would have got alone, all ask alone, once, at their old
//! places. Of a call that brought no answer, those whose time is over are told so instead.
//!
//! Rows that other calls bring while a flight waits are not asked for again: the flight's part of a
//! call, as its carrier or as a member, is the ids that are left, and its answer is joined from
//! both.
//!
//! A flight for which the queue has no slot in time may still become a member: it stays pending as
//! long as calls that will leave in time have room for all pending ids.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::attempt::QueuePosition;
use crate::scan::{Endpoint, Merging, Request, SharedIds, StoredRows, UpstreamProfile, UpstreamResponse};
use crate::single_flight::batch_role::MemberOutcome;
use crate::single_flight::batch_size::BatchSizer;
use crate::single_flight::flight::{Departure, Flight};
use crate::single_flight::pending::PendingFlights;
use crate::single_flight::rejected::Rejected;
use crate::single_flight::{Metrics, PredictedWait, Shared};

/// The settings of batching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchConfig {
    /// Which requests are batched: all that can be, those for which it has been found out that it
    /// changes no answer, or none.
    pub when: Merging,
    /// The most ids in one batch.
    pub max_ids: NonZeroUsize,
    /// The least time that a call waits for others to share it before it asks for a slot, while
    /// slots are scarce. In the queue it stays pending anyway.
    pub gather: Duration,
}

impl BatchConfig {
    /// Whether the same requests share calls with these settings.
    pub(super) fn is_equivalent(&self, other: &Self) -> bool {
        self == other || self.when == Merging::Off && other.when == Merging::Off
    }
}

/// How soon a call that leaves is usually answered.
const ANSWERED: Duration = Duration::from_millis(500);

/// The pending flights, and what has been learned about batches of them.
#[derive(Debug)]
pub(super) struct Batcher {
    pub(super) merge: BatchConfig,
    pub(super) upstream_profile: Arc<UpstreamProfile>,
    pub(super) predicted_wait: PredictedWait,
    pub(super) metrics: Metrics,
    state: Mutex<State>,
    /// Notified when a slot is gone, used or not, for flights without a slot that wait to join a
    /// batch.
    pub(super) slot_released: Notify,
    /// Notified when the profile has learned how many rows an answer holds.
    pub(super) profile_changed: Notify,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// Indexed by endpoint.
    pub(super) pending: [PendingFlights; Endpoint::COUNT],
    pub(super) sizes: [BatchSizer; Endpoint::COUNT],
    rejected: Rejected,
    /// Failed splits in a row that speak against batching.
    pub(super) split_errors: u32,
    /// Those among them that may yet turn out to be due to a member.
    pub(super) refusals: u32,
    /// A batch has failed since the last request that succeeded alone after a failed batch.
    pub(super) failed: bool,
    pub(super) paused_until: Option<Instant>,
}

/// A call for several flights: the united request and its members besides the carrier.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) request: Arc<Request>,
    pub(super) members: Vec<BatchMember>,
    /// What the carrier takes from the rows that other calls brought while it waited.
    pub(super) stored: Option<Box<dyn StoredRows>>,
    /// The ids that no flight waits for; their rows go into the cache.
    pub(super) prefetched: Option<Request>,
}

/// Lets flights that shared a call wait for slots themselves.
pub(super) fn release(members: Vec<BatchMember>) {
    wait_again(members, Flight::released);
}

/// Lets flights that shared a call wait again as `how` says. All do before the first of them asks
/// for a slot: one that is granted at once takes the others along that it can.
pub(super) fn wait_again(members: Vec<BatchMember>, how: impl Fn(&Flight)) {
    for member in &members {
        how(&member.flight);
    }
    for member in members {
        // A member whose task ended with the runtime needs no outcome.
        let _ = member.sender.send(MemberOutcome::WaitsAgain);
    }
}

/// Ends a call that failed for the flights that shared it: those whose time is over are told
/// `outcome`, and the others wait again as `how` says.
pub(super) fn fail(members: Vec<BatchMember>, outcome: &Result<UpstreamResponse, Shared>, how: impl Fn(&Flight)) {
    let now = Instant::now();
    let (in_time, late): (Vec<_>, Vec<_>) = members.into_iter().partition(|member| member.flight.has_time(now));
    wait_again(in_time, how);
    for member in late {
        let _ = member.sender.send(MemberOutcome::Failed(outcome.clone()));
    }
}

impl Batch {
    /// The same without the ids of members that have left it; `None` when it is none any more.
    pub(super) fn of_the_rest(self, carrier: &Flight) -> Option<Self> {
        let own = lacking(carrier, self.stored.as_deref());
        let of_members = self.members.iter().filter_map(BatchMember::lacking);
        let asked = of_members.chain(own).chain(&self.prefetched).flat_map(Request::ids);
        let rest = Request::all(self.request.endpoint(), asked).ok()?;
        let is_batch = !self.members.is_empty() || self.prefetched.is_some() || self.stored.is_some();
        is_batch.then(|| Self {
            request: Arc::new(rest),
            ..self
        })
    }
}

/// A flight that another flight's call is also made for.
#[derive(Debug)]
pub(super) struct BatchMember {
    pub(super) flight: Arc<Flight>,
    /// What it takes from the rows that other calls brought while it waited.
    pub(super) stored: Option<Box<dyn StoredRows>>,
    /// Where its outcome goes. Dropped without sending, it makes the member ask alone.
    pub(super) sender: oneshot::Sender<MemberOutcome>,
}

impl BatchMember {
    /// The ids that the call asks for because of this member; `None` when the rows of all have come
    /// already.
    pub(super) fn lacking(&self) -> Option<&Request> {
        lacking(&self.flight, self.stored.as_deref())
    }
}

/// The ids of a flight without those whose rows are `stored`; `None` when none are left.
pub(super) fn lacking<'a>(flight: &'a Flight, stored: Option<&'a dyn StoredRows>) -> Option<&'a Request> {
    match stored {
        Some(stored) => stored.missing(),
        None => Some(&flight.request),
    }
}

impl Batcher {
    pub(super) fn new(
        merge: BatchConfig,
        upstream_profile: Arc<UpstreamProfile>,
        predicted_wait: PredictedWait,
        metrics: Metrics,
    ) -> Self {
        Self {
            merge,
            upstream_profile,
            predicted_wait,
            metrics,
            state: Mutex::default(),
            slot_released: Notify::new(),
            profile_changed: Notify::new(),
        }
    }

    /// Whether a request may be batched at all.
    pub(super) fn accepts(&self, request: &Request) -> bool {
        request.is_whole()
            && request.ids().len() <= self.merge.max_ids.get()
            && self.may_batch(request)
            && !self.state().rejected.include(request, Instant::now())
    }

    /// Whether it is certain enough that batching changes no answer.
    pub(super) fn may_batch(&self, request: &Request) -> bool {
        self.merge.when == Merging::On || self.upstream_profile.may_merge(request)
    }

    /// Records that the upstream rejected a request that was asked alone. In a batch, it would make
    /// the whole call fail.
    pub(super) fn reject(&self, request: &Request, answer: &UpstreamResponse) {
        if request.ids().len() <= self.merge.max_ids.get() {
            self.state().rejected.note(request, answer, Instant::now());
        }
    }

    /// Records that the upstream answered a request that was asked alone.
    pub(super) fn accept(&self, request: &Request) {
        self.state().rejected.forget(request);
    }

    /// Makes a waiting flight available as a member for as long as the guard lives.
    pub(super) fn add_pending(self: &Arc<Self>, flight: &Arc<Flight>, place: QueuePosition) -> PendingGuard {
        let endpoint = flight.request.endpoint();
        self.state().pending[endpoint.index()].add_pending(place.order(), Arc::clone(flight));
        PendingGuard {
            batcher: Arc::clone(self),
            endpoint,
            order: place.order(),
        }
    }

    /// Records that `flight` is in the queue and is predicted to get its slot at `start`. It is
    /// pending, again if its call had left without an answer.
    pub(super) fn queues(&self, flight: &Arc<Flight>, place: QueuePosition, start: Instant) {
        self.state().pending[flight.request.endpoint().index()].queues(place.order(), flight, start);
    }

    /// The request that `carrier`, whose slot has just been granted, sends: its own ids and those
    /// of the members that it takes. `None` when it needs no call of its own any more.
    pub(super) fn start(&self, carrier: &Flight) -> Option<Arc<Request>> {
        let now = Instant::now();
        let own = &carrier.request;
        // The lock is held until all members are chosen, so that no two flights can become members
        // of each other.
        let mut state = self.state();
        match carrier.start(now) {
            Departure::First => {}
            Departure::Repeated => return Some(carrier.request_to_send()),
            Departure::Cancelled => return None,
        }
        let endpoint = own.endpoint();
        state.pending[endpoint.index()].clear(|flight| std::ptr::eq(flight, carrier));
        if state.paused_until.is_none_or(|until| until <= now) && self.may_batch(own) {
            let most = self.most_ids(endpoint, &mut state, now);
            let stored = carrier.stored_for_carrier();
            let asked = stored.as_ref().and_then(|stored| stored.missing()).unwrap_or(own);
            let members = state.pending[endpoint.index()].pick(asked, most, now);
            state.pending[endpoint.index()].clear(Flight::is_member);
            drop(state);
            self.attach(carrier, stored, members, now);
        } else {
            drop(state);
        }
        self.slot_released.notify_waiters();
        Some(carrier.request_to_send())
    }

    fn attach(&self, carrier: &Flight, stored: Option<Box<dyn StoredRows>>, members: Vec<BatchMember>, now: Instant) {
        let endpoint = carrier.request.endpoint();
        let own = lacking(carrier, stored.as_deref());
        let ids = members.iter().filter_map(BatchMember::lacking).chain(own);
        // Members whose senders are dropped here ask alone.
        let united = Request::all(endpoint, ids.flat_map(Request::ids));
        let Some(united) = united.ok().filter(Request::is_whole) else {
            return;
        };
        let (request, prefetched) = self.add_prefetched(carrier, united, now);
        if members.is_empty() && prefetched.is_none() && stored.is_none() {
            return;
        }
        let expected = self
            .upstream_profile
            .rows_for(endpoint, request.ids().len())
            .unwrap_or(0);
        self.state().sizes[endpoint.index()].record_start(expected, self.upstream_profile.longest(endpoint), now);
        carrier.attach(Batch {
            request: Arc::new(request),
            members,
            stored,
            prefetched,
        });
    }

    /// Adds ids that are about to be needed, as far as the answer is certain to hold their rows: an
    /// answer that is cut off would serve none of the members.
    fn add_prefetched(&self, carrier: &Flight, united: Request, now: Instant) -> (Request, Option<Request>) {
        let endpoint = united.endpoint();
        let safe = self
            .upstream_profile
            .ids_for(endpoint, BatchSizer::safe(self.upstream_profile.longest(endpoint)));
        let allowed = self.state().sizes[endpoint.index()].max_ids(self.id_limit(endpoint), now);
        let most = safe.unwrap_or(0).min(allowed);
        let left = most.saturating_sub(united.ids().len());
        if left == 0 {
            return (united, None);
        }
        let until = now + (self.predicted_wait.scarcity)(united.payer()).interval + ANSWERED;
        let wanted = carrier.cache_sink.worth_prefetching(&united, left, now, until);
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

    /// How many ids a batch that leaves now may name.
    pub(super) fn most_ids(&self, endpoint: Endpoint, state: &mut State, now: Instant) -> usize {
        let most = state.sizes[endpoint.index()].max_ids(self.id_limit(endpoint), now);
        let wanted = state.pending[endpoint.index()].ids().min(most);
        let Some(wanted) = self.upstream_profile.rows_for(endpoint, wanted) else {
            return most;
        };
        let rows = state.sizes[endpoint.index()].max_rows(wanted, self.upstream_profile.longest(endpoint), now);
        let ids = self.upstream_profile.ids_for(endpoint, rows);
        ids.map_or(most, |ids| ids.clamp(1, most))
    }

    /// The most ids in a batch. Where it has been found out how many a call may name, it is not
    /// exceeded by more than that at once.
    fn id_limit(&self, endpoint: Endpoint) -> usize {
        let most = self.merge.max_ids.get();
        match self.merge.when {
            Merging::On | Merging::Off => most,
            Merging::Auto => most.min(self.upstream_profile.widest(endpoint).max(1) * 2),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock panics halfway through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a flight pending until it is dropped.
pub(super) struct PendingGuard {
    batcher: Arc<Batcher>,
    endpoint: Endpoint,
    order: u64,
}

impl Drop for PendingGuard {
    fn drop(&mut self) {
        let missed = self.batcher.state().pending[self.endpoint.index()].leave(self.order);
        if missed {
            self.batcher.slot_released.notify_waiters();
        }
    }
}
