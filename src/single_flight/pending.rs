//! The pending flights of one endpoint: most of them are in the queue, some only wait to join a
//! batch.
//!
//! Which of them a call answers is decided here: the members that it takes when it leaves, and the
//! flights whose last rows it brings; and how long a flight may wait to become a member: before it
//! asks the queue for a slot, and after the queue had no slot for it in time.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::RandomState;
use tokio::time::{Instant, timeout_at};

use crate::attempt::QueuePosition;
use crate::caller::Name;
use crate::scan::{Request, Rows, SharedIds};
use crate::single_flight::batch_role::{MemberOutcome, MemberResponse};
use crate::single_flight::batch_share::count_rows;
use crate::single_flight::batcher::{BatchMember, Batcher, lacking};
use crate::single_flight::flight::Flight;

/// The flights that may become members of a batch, by place. There are never more than there are
/// flights.
#[derive(Debug, Default)]
pub(super) struct PendingFlights {
    waiting: BTreeMap<u64, Waiting>,
    /// The ids they lack, each with the number of flights that do.
    ids: HashMap<Box<str>, usize, RandomState>,
    /// When the queued ones among them will get their slots, as predicted when they queued.
    starts: BTreeSet<(Instant, u64)>,
    /// The latest caller and when it asked, and when the latest of all other callers asked.
    latest: Option<(Name, Instant)>,
    before: Option<Instant>,
}

#[derive(Debug)]
struct Waiting {
    flight: Arc<Flight>,
    /// What it lacks, if the rows of some of its ids have come.
    lacking: Option<Request>,
    /// How many different ids were lacking when it came, or when that was last counted: its own,
    /// and those of the flights before it.
    ids_until: usize,
    start: Option<Instant>,
}

impl Waiting {
    fn lacking(&self) -> &Request {
        self.lacking.as_ref().unwrap_or_else(|| &self.flight.request)
    }
}

impl PendingFlights {
    /// Adds a flight at its place.
    pub(super) fn add_pending(&mut self, place: u64, flight: Arc<Flight>) {
        self.count(&flight.request);
        let waiting = Waiting {
            flight,
            lacking: None,
            ids_until: self.ids.len(),
            start: None,
        };
        self.waiting.insert(place, waiting);
    }

    fn count(&mut self, lacking: &Request) {
        for id in lacking.ids() {
            *self.ids.entry(id.into()).or_default() += 1;
        }
    }

    fn discount(&mut self, lacking: &Request) {
        for id in lacking.ids() {
            if let Some(count) = self.ids.get_mut(id) {
                *count -= 1;
                if *count == 0 {
                    self.ids.remove(id);
                }
            }
        }
    }

    /// Records what the flights at these places lack now.
    fn lack(&mut self, lacking: Vec<(u64, Request)>) {
        for (place, lacking) in lacking {
            if let Some(mut waiting) = self.waiting.remove(&place) {
                self.discount(waiting.lacking());
                self.count(&lacking);
                waiting.lacking = Some(lacking);
                self.waiting.insert(place, waiting);
            }
        }
        self.count_until();
    }

    /// Counts for each flight how many different ids are lacking up to its place.
    fn count_until(&mut self) {
        let mut ids = HashSet::with_capacity_and_hasher(self.ids.len(), RandomState::default());
        for waiting in self.waiting.values_mut() {
            let lacking = waiting.lacking.as_ref();
            ids.extend(lacking.unwrap_or_else(|| &waiting.flight.request).ids());
            waiting.ids_until = ids.len();
        }
    }

    /// Records that the flight is queued and is predicted to get its slot at `start`, and adds it
    /// if it is not pending and may be in a batch.
    pub(super) fn queues(&mut self, place: u64, flight: &Arc<Flight>, start: Instant) {
        if !self.waiting.contains_key(&place) && flight.can_batch() {
            self.add_pending(place, Arc::clone(flight));
        }
        let Some(waiting) = self.waiting.get_mut(&place) else {
            return;
        };
        if let Some(before) = waiting.start.replace(start) {
            self.starts.remove(&(before, place));
        }
        self.starts.insert((start, place));
    }

    /// Records that the flight is not, or is no longer, queued, and adds it if it is not pending.
    fn not_queued(&mut self, place: u64, flight: &Arc<Flight>) {
        let Some(waiting) = self.waiting.get_mut(&place) else {
            self.add_pending(place, Arc::clone(flight));
            return;
        };
        if let Some(before) = waiting.start.take() {
            self.starts.remove(&(before, place));
        }
    }

    /// Removes a flight. `true` when it had a predicted slot, which other flights may have counted
    /// on.
    pub(super) fn leave(&mut self, place: u64) -> bool {
        let Some(gone) = self.waiting.remove(&place) else {
            return false;
        };
        self.discount(gone.lacking());
        gone.start.is_some_and(|start| self.starts.remove(&(start, place)))
    }

    /// Removes all flights for which `gone` is true.
    pub(super) fn clear(&mut self, gone: impl Fn(&Flight) -> bool) {
        let gone: Vec<u64> = self
            .waiting
            .iter()
            .filter(|(_, waiting)| gone(&waiting.flight))
            .map(|(place, _)| *place)
            .collect();
        for place in &gone {
            self.leave(*place);
        }
        if !gone.is_empty() {
            self.count_until();
        }
    }

    /// How many different ids are lacking up to this place; all of them for a flight that is not
    /// pending.
    fn ids_until(&self, place: u64) -> usize {
        self.waiting
            .get(&place)
            .map_or(self.ids.len(), |waiting| waiting.ids_until)
    }

    /// How many different ids they lack.
    pub(super) fn ids(&self) -> usize {
        self.ids.len()
    }

    /// Records a request of `caller`, and tells whether another caller asked within the given time.
    fn has_other_callers(&mut self, caller: &Name, within: Duration, now: Instant) -> bool {
        match &mut self.latest {
            Some((name, at)) if name == caller => *at = now,
            latest => self.before = latest.replace((caller.clone(), now)).map(|(_, at)| at),
        }
        self.before.is_some_and(|at| at + within >= now)
    }

    /// In the order of their places.
    fn flights(&self) -> impl Iterator<Item = &Arc<Flight>> {
        self.by_place().map(|(_, flight)| flight)
    }

    /// With their places.
    fn by_place(&self) -> impl Iterator<Item = (u64, &Arc<Flight>)> {
        self.waiting.iter().map(|(place, waiting)| (*place, &waiting.flight))
    }

    /// How many pending flights get a slot until then; counting stops at `most`.
    fn slots(&self, until: Instant, most: usize) -> usize {
        self.starts.range(..=(until, u64::MAX)).take(most).count()
    }
}

/// How long a member that rejoins may be held up until the profile says whether its rows fit.
pub(super) const PROFILE_WAIT: Duration = Duration::from_secs(2);

impl PendingFlights {
    /// Takes members for a call that asks for `own`, in the order of their places, as long as the
    /// batch has room for the ids that they lack. A flight is passed over if one of its ids could
    /// be another spelling of an id in the batch: the upstream might return rows for only one of
    /// the two.
    pub(super) fn pick(&self, own: &Request, most_ids: usize, now: Instant) -> Vec<BatchMember> {
        let mut ids = SharedIds::new(own);
        let mut members = Vec::new();
        for flight in self.flights() {
            let (since, stored) = match ids.more_with(&flight.request) {
                0 => (None, None),
                _ if ids.len() >= most_ids => continue,
                _ => flight.stored_rows().unzip(),
            };
            let fits = lacking(flight, stored.as_deref()).is_none_or(|lacking| {
                let more = ids.more_with(lacking);
                ids.len() + more <= most_ids && (more == 0 || ids.admit(lacking))
            });
            if !fits {
                continue;
            }
            if let Some(sender) = flight.take_result_sender(now, since) {
                let flight = Arc::clone(flight);
                let member = BatchMember { flight, stored, sender };
                if let Some(lacking) = member.lacking() {
                    ids.add(lacking);
                }
                members.push(member);
            }
        }
        members
    }
}

impl Batcher {
    /// Takes as members the flights that came while a call was under way that asks for all of their
    /// ids: its answer is here.
    pub(super) fn claim_covered(&self, request: &Request, rows: &Rows, asked: Instant) -> Vec<BatchMember> {
        let ids: HashSet<&str> = request.ids().collect();
        let mut state = self.state();
        let pending = &mut state.pending[request.endpoint().index()];
        let covered = |flight: &&Arc<Flight>| {
            let part = &flight.request;
            part.ids().all(|id| ids.contains(id)) && self.upstream_profile.fits(part, count_rows(request, part, rows))
        };
        let late: Vec<BatchMember> = pending
            .flights()
            .filter(covered)
            .filter_map(|flight| {
                let sender = flight.take_result_sender(asked, None)?;
                let flight = Arc::clone(flight);
                Some(BatchMember {
                    flight,
                    stored: None,
                    sender,
                })
            })
            .collect();
        pending.clear(Flight::is_member);
        drop(state);
        if !late.is_empty() {
            self.slot_released.notify_waiters();
        }
        late
    }

    /// Answers the flights whose last missing rows have come with the answer to `request`, which is
    /// stored, and records what the others lack. Returns the number of waiters answered.
    pub(super) fn complete_pending(&self, request: &Request) -> usize {
        let ids: HashSet<&str> = request.ids().collect();
        let endpoint = request.endpoint();
        let touched: Vec<(u64, Arc<Flight>)> = {
            let state = self.state();
            let flights = state.pending[endpoint.index()].by_place();
            let touched = flights.filter(|(_, flight)| flight.request.ids().any(|id| ids.contains(id)));
            touched.map(|(place, flight)| (place, Arc::clone(flight))).collect()
        };
        let (mut answered, mut lacking) = (0, Vec::new());
        for (place, flight) in touched {
            let Some((since, stored)) = flight.stored_rows() else {
                continue;
            };
            if let Some(missing) = stored.missing() {
                lacking.push((place, missing.clone()));
                continue;
            }
            let Some((answer, asked)) = stored.complete(None) else {
                flight.ask_for_all();
                continue;
            };
            if let Some(sender) = flight.take_result_sender(asked, Some(since)) {
                answered += flight.waiter_count();
                // A flight whose task ended with the runtime needs no outcome.
                let _ = sender.send(MemberOutcome::Response(MemberResponse { answer, asked }));
            }
        }
        {
            let pending = &mut self.state().pending[endpoint.index()];
            pending.clear(Flight::is_member);
            pending.lack(lacking);
        }
        if answered > 0 {
            self.slot_released.notify_waiters();
        }
        answered
    }

    /// How long a flight that could leave now waits for other flights to share its call. `None`
    /// while slots are plentiful, and when no other caller has asked recently.
    pub(super) fn gather_delay(&self, flight: &Flight, caller: &Name) -> Option<Duration> {
        let now = Instant::now();
        let request = &flight.request;
        let scarcity = (self.predicted_wait.scarcity)(request.payer());
        let wait = scarcity.gather.map(|wait| wait.max(self.merge.gather));
        let pending = &mut self.state().pending[request.endpoint().index()];
        let has_other_callers = pending.has_other_callers(caller, wait.unwrap_or_default(), now);
        wait.filter(|wait| has_other_callers && !wait.is_zero())
    }

    /// Records that `flight` is not, or is no longer, in the queue. It is pending, again if its
    /// call had left without an answer.
    pub(super) fn not_queued(&self, flight: &Arc<Flight>, place: QueuePosition) {
        self.state().pending[flight.request.endpoint().index()].not_queued(place.order(), flight);
    }

    /// Whether a call is predicted to leave before `until`. A flight that waits to join a batch
    /// need not ask the queue again as long as this holds.
    pub(super) fn expects_call(&self, flight: &Flight, until: Instant) -> bool {
        self.state().pending[flight.request.endpoint().index()].slots(until, 1) > 0
    }

    /// Whether a flight without a slot before `until` can count on joining a batch: the calls that
    /// will leave by then, of whatever flight, have room for all ids that are lacking up to its
    /// place. Returns when to check again if no call has taken it by then.
    pub(super) fn can_join_batch(&self, flight: &Flight, place: QueuePosition, until: Instant) -> Option<Instant> {
        let now = Instant::now();
        let request = &flight.request;
        let calls = {
            let mut state = self.state();
            let most = self.most_ids(request.endpoint(), &mut state, now);
            let pending = &state.pending[request.endpoint().index()];
            if now >= until || state.paused_until.is_some_and(|until| until > now) {
                return None;
            }
            let calls = pending.ids_until(place.order()).div_ceil(most);
            // Slots that pending flights already wait for are certain, so the forecast is not
            // needed. Only as many slots are counted as there are calls to make.
            if pending.slots(until, calls) >= calls {
                return Some(until);
            }
            calls
        };
        let interval = (self.predicted_wait.scarcity)(request.payer()).interval;
        let slots = (self.predicted_wait.slots)(request.payer(), until, calls);
        (slots >= calls && !interval.is_zero()).then(|| until.min(now + interval))
    }

    /// Whether a request with this many rows would get all of them in an answer of its own.
    pub(super) fn fits(&self, flight: &Flight, rows: usize) -> bool {
        self.upstream_profile.fits(&flight.request, rows)
    }

    /// Waits, at most until then, for the profile to know that this many rows fit in one answer.
    /// Another flight with as many rows is about to find out.
    pub(super) async fn wait_for_profile(&self, flight: &Flight, rows: usize, until: Instant) {
        loop {
            let profile_changed = self.profile_changed.notified();
            if self.fits(flight, rows) || timeout_at(until, profile_changed).await.is_err() {
                return;
            }
        }
    }
}
