//! Which pending flights a call answers: the members that it takes when it leaves, and the flights
//! whose last rows it brings; and how long a flight may wait to become a member: before it asks the
//! queue for a slot, and after the queue had no slot for it in time.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::attempt::QueuePosition;
use crate::caller::Name;
use crate::scan::{Request, Rows, SharedIds};
use crate::single_flight::batch_split::count_rows;
use crate::single_flight::batcher::{BatchMember, Batcher, MemberOutcome, MemberResponse, lacking};
use crate::single_flight::flight::Flight;
use crate::single_flight::pending::PendingFlights;

/// How long a member that rejoins may be held up until the profile says whether its rows fit.
const PROFILE_WAIT: Duration = Duration::from_secs(2);

impl PendingFlights {
    /// Takes members for a call that asks for `own`, in the order of their places, as long as the
    /// batch has room for the ids that they lack. A flight is passed over if one of its ids could
    /// be another spelling of an id in the batch: the upstream might return rows for only one of
    /// the two.
    pub(super) fn pick(&self, own: &Request, most_ids: usize, now: Instant) -> Vec<BatchMember> {
        let mut ids = SharedIds::new(own);
        let mut members = Vec::new();
        for flight in self.flights() {
            let (since, stored) = match ids.more_with(flight.request()) {
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
            let part = flight.request();
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
            let touched = flights.filter(|(_, flight)| flight.request().ids().any(|id| ids.contains(id)));
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
            let waiters = flight.waiter_count();
            if let Some(sender) = flight.take_result_sender(asked, Some(since)) {
                answered += waiters;
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
        let request = flight.request();
        let scarcity = (self.predicted_wait.scarcity)(request.payer());
        let wait = scarcity.gather.map(|wait| wait.max(self.merge.gather));
        let pending = &mut self.state().pending[request.endpoint().index()];
        let has_other_callers = pending.has_other_callers(caller, wait.unwrap_or_default(), now);
        wait.filter(|wait| has_other_callers && !wait.is_zero())
    }

    /// Records that `flight` is not, or is no longer, in the queue. It is pending, again if its call
    /// had left without an answer.
    pub(super) fn not_queued(&self, flight: &Arc<Flight>, place: QueuePosition) {
        self.state().pending[flight.request().endpoint().index()].not_queued(place.order(), flight);
    }

    /// Whether a call is predicted to leave before `until`. A flight that waits to join a batch
    /// need not ask the queue again as long as this holds.
    pub(super) fn expects_call(&self, flight: &Flight, until: Instant) -> bool {
        self.state().pending[flight.request().endpoint().index()].slots(until, 1) > 0
    }

    /// Whether a flight without a slot before `until` can count on joining a batch: the calls that
    /// will leave by then, of whatever flight, have room for all ids that are lacking up to its
    /// place. Returns when to check again if no call has taken it by then.
    pub(super) fn can_join_batch(&self, flight: &Flight, place: QueuePosition, until: Instant) -> Option<Instant> {
        let now = Instant::now();
        let request = flight.request();
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
        self.upstream_profile.fits(flight.request(), rows)
    }

    /// Waits, for at most [`PROFILE_WAIT`], until the profile knows that this many rows fit in one
    /// answer. Another flight with as many rows is about to find out.
    pub(super) async fn wait_for_profile(&self, flight: &Flight, rows: usize) {
        let until = Instant::now() + PROFILE_WAIT;
        loop {
            let profile_changed = self.profile_changed.notified();
            if self.fits(flight, rows) || timeout_at(until, profile_changed).await.is_err() {
                return;
            }
        }
    }
}
