//! What happens here between two steps: slots are taken, calls end, other requests wait, and it
//! becomes time for the next step.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use tokio::time::Instant;

use super::{Protocol, SHORTEST, Slot};
use crate::attempt::FlowOrder;
use crate::clock::{self, earlier};
use crate::quota::shared::messages::{self, Report};
use crate::quota::{self, Forecast, QuotaState, Snapshot};

/// Most slots that one forecast computes; further ones come as the longest window gives them.
const LOOK_AHEAD: usize = 2000;

/// What has become of calls is collected for so long before it is said.
const COLLECT: Duration = Duration::from_millis(5);

/// How often one of many replicas looks while somebody waits there, and tells what waits, for each
/// of them.
const BEAT_OF_EACH: Duration = Duration::from_millis(4);
const TELL_OF_EACH: Duration = Duration::from_millis(1);

/// So many replicas may look at the same moment. More come one after another, within this time for
/// each further one: together they ask as much of the store as it can answer in time.
const MOST_AT_ONCE: u32 = 16;
const COME_OF_EACH: Duration = Duration::from_millis(1);

/// Who is sent away comes back in a second at the earliest, and is told of no slot before, as those go
/// to whoever is here. But all that the bucket holds when an epoch opens is there for a while.
const AWAY: Duration = Duration::from_millis(1300);

/// A first retry comes after this, each further one after twice the time, up to the heartbeat.
const FIRST_RETRY: Duration = Duration::from_millis(25);

impl Protocol {
    /// The slot in hand.
    pub fn take(&mut self, now: Instant) -> Option<Slot> {
        self.drop_old(now);
        let (slot, _) = self.granted.pop_front()?;
        self.calls += 1;
        Some(slot)
    }

    /// What is wanted now.
    pub fn demand(&mut self, flows: &dyn FlowOrder, now: Instant) {
        self.want = flows.waiting();
        if self.wants.demand(flows) {
            self.unsettled = self.unsettled.or(Some(now));
        }
        if self.want == 0 {
            while let Some((slot, _)) = self.granted.pop_front() {
                self.give_back(slot, now);
            }
        }
    }

    /// The call of this charge counts as made now.
    pub fn settle(&mut self, id: String, now: Instant) {
        // What ends after a suspend must not be taken for older than that.
        self.wake_up();
        self.copy.settle(&id, now);
        self.pending_reports.add(id, Report::Settled(now));
        self.collect(now);
    }

    /// The call for which this slot was taken was not made.
    pub fn refund(&mut self, slot: Slot, now: Instant) {
        self.calls = self.calls.saturating_sub(1);
        self.give_back(slot, now);
    }

    /// Whose slot it was has not had its turn.
    fn give_back(&mut self, Slot { id, flow }: Slot, now: Instant) {
        self.copy.refund(&id);
        let flow = flow.map(|(urgency, caller)| self.wants.name_of(urgency, &caller));
        self.pending_reports.add(id, Report::Refunded(flow));
        self.collect(now);
    }

    /// Nobody will hear of the call of this charge again; it may have arrived.
    pub fn lose(&mut self, id: String, now: Instant) {
        self.pending_reports.add(id, Report::Lost);
        self.collect(now);
    }

    /// The call of this charge was refused with 429.
    pub fn throttle(&mut self, id: String, answer: quota::ThrottleHint, now: Instant) {
        self.wake_up();
        self.copy.settle(&id, now);
        self.pending_reports.add(id, Report::Throttled(answer, now));
        self.woken = true;
    }

    /// Appends when the next `count` slots of all replicas come, those in hand first.
    pub fn forecast(&self, now: Instant, count: usize, slots: &mut VecDeque<Instant>) {
        let quota_state = self.copy.quota_state(now);
        let longest = quota_state.ledger.limits().last();
        let apart = longest.map_or(Duration::ZERO, |limit| {
            limit.hold() / u32::try_from(limit.calls().max(1)).unwrap_or(u32::MAX)
        });
        let from = self.opening().unwrap_or(now).max(now);
        let mut forecast = Forecast::new(&quota_state, from);
        let (mut last, mut computed) = (from, 0);
        let next_slot = || {
            last = if computed < LOOK_AHEAD {
                forecast.next_slot()
            } else {
                last + apart
            };
            computed += 1;
            last
        };
        let in_hand = self.granted.len().min(count);
        slots.extend(std::iter::repeat_n(now, in_hand));
        slots.extend(std::iter::repeat_with(next_slot).take(count - in_hand));
    }

    /// From when on slots are foretold while the epoch is not open yet into which this replica comes
    /// without a copy. Where there are copies, they are together long before the latest moment that
    /// the store tells.
    fn opening(&self) -> Option<Instant> {
        let due = self.due.filter(|_| self.merging && self.copy.asked.is_none())?;
        Some(due + AWAY)
    }

    /// The replicas that share the quota, this one included.
    pub fn replicas(&self) -> usize {
        self.copy.members.len().max(1)
    }

    /// Whether calls that nobody waits for may be made now.
    pub fn has_surplus(&self, now: Instant) -> bool {
        !self.is_lost() && !self.merging && self.quota_state(now).has_surplus(now)
    }

    /// The state for people, as this replica knows it.
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        Snapshot {
            foreign: self.foreign,
            calls: self.calls,
            replicas: Some(self.replicas()),
            other_limits: self.copy.other_limits,
            eviction: self.eviction.clone(),
            store_failure: self.failure.clone(),
            ..self.quota_state(now).snapshot(now)
        }
    }

    /// Whether the store has never answered.
    pub(in crate::quota::shared) fn is_new(&self) -> bool {
        self.last.is_none()
    }

    /// Whether the store does not answer, or has never answered.
    pub fn is_lost(&self) -> bool {
        self.lost.is_some() || self.last.is_none()
    }

    /// The quota as this replica knows it.
    pub fn quota_state(&self, now: Instant) -> QuotaState {
        self.copy.quota_state(now)
    }

    /// When the next step has to be taken.
    pub fn next_look(&self, now: Instant) -> Instant {
        if let Some((since, failures)) = self.lost {
            let pause = FIRST_RETRY * 2_u32.saturating_pow(failures.min(8));
            return since + pause.min(self.timing.heartbeat);
        }
        // While the store merges copies it grants nothing; it knows by then what we want.
        let untold = self.want > self.granted.len() && self.wants.declared() == 0 && !self.merging;
        if self.woken || untold {
            return now;
        }
        // What is told of when to come back is as true as what is known of the others.
        let is_busy = self.want > 0 || self.wants.any() || !self.order.others.is_empty();
        let beat = if is_busy { self.busy_beat() } else { self.timing.idle };
        let mut next = self.last.map_or(now, |last| last + beat);
        let mut at_latest = |at: Option<Instant>| next = at.map_or(next, |at| next.min(at));
        at_latest(self.called);
        at_latest(self.collecting.map(|since| since + COLLECT));
        at_latest(self.granted.front().map(|(_, until)| *until));
        at_latest(self.due.filter(|_| self.want > 0 || self.merging));
        at_latest(
            self.unsettled
                .filter(|_| !self.merging)
                .map(|since| since + self.tell_within()),
        );
        next
    }

    fn members(&self) -> u32 {
        u32::try_from(self.copy.members.len()).unwrap_or(u32::MAX)
    }

    /// The longest time between two steps while somebody waits here: many replicas look often
    /// enough together.
    fn busy_beat(&self) -> Duration {
        let (least, most) = (self.timing.heartbeat, self.timing.idle.max(self.timing.heartbeat));
        (BEAT_OF_EACH * self.members()).clamp(least, most)
    }

    /// How soon the store hears that something else waits here than it was told: many replicas must
    /// not tell it more often than it can hear.
    fn tell_within(&self) -> Duration {
        (TELL_OF_EACH * self.members()).clamp(COLLECT, self.timing.heartbeat)
    }

    /// The store says when this replica's turn comes, or that it has to look at once.
    pub(in crate::quota::shared) fn wake(&mut self, in_micros: Option<f64>, now: Instant) {
        match in_micros {
            Some(micros) => self.due = Some(now + messages::span(micros).max(SHORTEST)),
            None => self.woken = true,
        }
    }

    /// How long the store may be busy with the others when all ask at once; nothing worth speaking
    /// of among few.
    pub(in crate::quota::shared) fn steps_of_others(&self) -> Duration {
        COME_OF_EACH * self.members().saturating_sub(MOST_AT_ONCE)
    }

    /// All replicas have to look: of many, each at its own moment, soon.
    pub(in crate::quota::shared) fn wake_all(&mut self, now: Instant) {
        let mut hasher = DefaultHasher::new();
        self.terms.me.hash(&mut hasher);
        let within = self.steps_of_others().min(self.timing.merge / 3);
        let at = now + within * u32::from(hasher.finish().to_le_bytes()[0]) / u32::from(u8::MAX);
        self.called = Some(self.called.map_or(at, |called| called.min(at)));
    }

    /// While the machine was suspended our stopwatch stood still, and for all others time went on:
    /// what we know is older by that, and so are the slots in hand.
    pub(super) fn wake_up(&mut self) {
        let suspended = clock::suspended();
        let by = suspended.saturating_sub(std::mem::replace(&mut self.suspended, suspended));
        if !by.is_zero() {
            self.copy.age(by);
            self.pending_reports.age(by);
            self.clock.age(by);
            for (_, until) in &mut self.granted {
                *until = earlier(*until, by);
            }
        }
    }

    pub(super) fn drop_old(&mut self, now: Instant) {
        self.wake_up();
        while self.granted.front().is_some_and(|(_, until)| *until <= now) {
            if let Some((slot, _)) = self.granted.pop_front() {
                self.give_back(slot, now);
            }
        }
    }

    fn collect(&mut self, now: Instant) {
        self.collecting = self.collecting.or(Some(now));
    }
}
