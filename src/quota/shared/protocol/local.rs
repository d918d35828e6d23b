//! What happens here between two steps: slots are taken, calls end, and other requests wait.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;

use super::{Protocol, Slot};
use crate::attempt::{FlowOrder, SharedOrder};
use crate::quota::shared::pending_reports::Report;
use crate::quota::shared::slot_forecast::SlotForecast;
use crate::quota::{self, QuotaState, Snapshot};

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
                self.refund(slot.id, now);
            }
        }
    }

    /// The call of this charge counts as made now.
    pub fn settle(&mut self, id: String, now: Instant) {
        self.copy.settle(&id, now);
        self.pending_reports.add(id, Report::Settled(now));
        self.collect(now);
    }

    /// The call of this charge was not made.
    pub fn refund(&mut self, id: String, now: Instant) {
        self.copy.refund(&id);
        self.pending_reports.add(id, Report::Refunded);
        self.collect(now);
    }

    /// Nobody will hear of the call of this charge again; it may have arrived.
    pub fn lose(&mut self, id: String, now: Instant) {
        self.pending_reports.add(id, Report::Lost);
        self.collect(now);
    }

    /// The call of this charge was refused with 429.
    pub fn throttle(&mut self, id: String, answer: quota::ThrottleHint, now: Instant) {
        self.copy.settle(&id, now);
        self.pending_reports.add(id, Report::Throttled(answer, now));
        self.woken = true;
    }

    /// Appends when the next `count` slots of all replicas come, those in hand first.
    pub fn forecast(&self, now: Instant, count: usize, slots: &mut VecDeque<Instant>) {
        let mut coming = SlotForecast::of(&self.copy.quota_state(now), now);
        let in_hand = self.granted.len().min(count);
        slots.extend(std::iter::repeat_n(now, in_hand));
        slots.extend(std::iter::repeat_with(|| coming.next_slot()).take(count - in_hand));
    }

    /// The replicas that share the quota, this one included.
    pub fn replicas(&self) -> usize {
        self.copy.members.len().max(1)
    }

    /// The order of all replicas, as the store said last.
    pub fn order(&self) -> Arc<SharedOrder> {
        Arc::clone(&self.order)
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
            eviction: self.eviction.clone(),
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

    pub(super) fn drop_old(&mut self, now: Instant) {
        while self.granted.front().is_some_and(|(_, until)| *until <= now) {
            if let Some((slot, _)) = self.granted.pop_front() {
                self.refund(slot.id, now);
            }
        }
    }

    fn collect(&mut self, now: Instant) {
        self.collecting = self.collecting.or(Some(now));
    }
}
