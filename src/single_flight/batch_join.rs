//! When a flight may wait to become a member of another flight's batch: before it asks the queue
//! for a slot, and after the queue had no slot for it in time.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::attempt::QueuePosition;
use crate::caller::Name;
use crate::single_flight::batcher::Batcher;
use crate::single_flight::flight::Flight;

/// How long a member that rejoins may be held up until the profile says whether its rows fit.
const PROFILE_WAIT: Duration = Duration::from_secs(2);

impl Batcher {
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

    /// Records that `flight` is not, or is no longer, in the queue.
    pub(super) fn not_queued(&self, flight: &Flight, place: QueuePosition) {
        self.state().pending[flight.request().endpoint().index()].not_queued(place.order());
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
