//! What a flight waits for before it asks the queue for a slot, and instead of one.

use std::time::Duration;

use tokio::sync::futures::Notified;
use tokio::time::{Instant, timeout_at};

use crate::attempt::Place;
use crate::caller::Name;
use crate::single_flight::batcher::Batcher;
use crate::single_flight::flight::Flight;

/// So long somebody who shares a call may be held up by what is to be learned from another call.
const SETTLES: Duration = Duration::from_secs(2);

impl Batcher {
    /// How long a flight that could leave now is to wait for others to share its call; `None` when slots are plenty, and when nobody else
    /// asks.
    pub(super) fn gathers(&self, flight: &Flight, caller: &Name) -> Option<Duration> {
        let now = Instant::now();
        let request = flight.request();
        let scarcity = (self.outlook.scarcity)(request.payer());
        let wait = scarcity.gather.map(|wait| wait.max(self.merge.gather));
        let room = &mut self.state().rooms[request.endpoint().index()];
        let has_other_callers = room.has_other_callers(caller, wait.unwrap_or_default(), now);
        wait.filter(|wait| has_other_callers && !wait.is_zero())
    }

    /// `flight` has no place in the queue, or no more.
    pub(super) fn queues_not(&self, flight: &Flight, place: Place) {
        self.state().rooms[flight.request().endpoint().index()].queues_not(place.order());
    }

    /// Whether somebody's call will leave until then, as predicted: who waits for a lift need not ask the queue.
    pub(super) fn expects_call(&self, flight: &Flight, until: Instant) -> bool {
        self.state().rooms[flight.request().endpoint().index()].slots(until, 1) > 0
    }

    /// Whether a flight that the queue has no slot for, before `until`, can count on a lift: the calls that leave until then, whoever they
    /// are of, can name all ids that those who wait ask for. Says when to look again if none has come.
    pub(super) fn can_join_batch(&self, flight: &Flight, until: Instant) -> Option<Instant> {
        let now = Instant::now();
        let request = flight.request();
        let calls = {
            let mut state = self.state();
            let most = self.most_ids(request.endpoint(), &mut state, now);
            let room = &state.rooms[request.endpoint().index()];
            if now >= until || state.resting_until.is_some_and(|until| until > now) {
                return None;
            }
            let calls = room.ids().div_ceil(most);
            // A slot that somebody waits for is certain; no more are looked at than are needed.
            if room.slots(until, calls) >= calls {
                return Some(until);
            }
            calls
        };
        let interval = (self.outlook.scarcity)(request.payer()).interval;
        let slots = (self.outlook.slots)(request.payer(), until, calls);
        (slots >= calls && !interval.is_zero()).then(|| until.min(now + interval))
    }

    /// Resolves when somebody who had a slot to come has left, with or without others.
    pub(super) fn moved(&self) -> Notified<'_> {
        self.moved.notified()
    }

    /// Whether a flight that has so many rows would get all of them by itself.
    pub(super) fn fits(&self, flight: &Flight, rows: usize) -> bool {
        self.upstream_profile.fits(flight.request(), rows)
    }

    /// An answer has been learned from.
    pub(super) fn has_learned(&self) {
        self.learned.notify_waiters();
    }

    /// Waits until it is known that a flight would get so many rows by itself, which one with as many is about to find out; not for long.
    pub(super) async fn settled(&self, flight: &Flight, rows: usize) {
        let until = Instant::now() + SETTLES;
        loop {
            let learned = self.learned.notified();
            if self.fits(flight, rows) || timeout_at(until, learned).await.is_err() {
                return;
            }
        }
    }
}
