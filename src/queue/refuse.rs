//! Refusing: which wait would have been enough, and when to come back.

use std::time::Duration;

use tokio::time::Instant;

use super::expectation::Arrival;
use super::refused::{Reason, Refused, Wait};
use super::state::State;
use crate::caller::{Name, Urgency};

/// Who may wait less than this has to come just when a slot is free.
const INSTANT: Duration = Duration::from_secs(1);

/// A request that is refused or taken back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    pub(super) name: &'a Name,
    pub(super) urgency: Urgency,
    /// How long it said that it may wait.
    pub(super) allowed: Duration,
}

impl<P> State<P> {
    /// Refuses a request that just came.
    pub(super) fn refuse(&mut self, reason: Reason, request: Request<'_>, arrival: Arrival, now: Instant) -> Refused {
        let (name, urgency) = (request.name, request.urgency);
        let own = self.expectations.returns_before_refused(name, urgency, arrival);
        // It comes back when a slot is free, or is refused again: so it is told no slot that
        // another request of its caller was told, however few of those who are told to come back
        // do.
        let own_slot = (request.allowed < INSTANT).then(|| self.forecast.start(own.len(), now));
        let place = self.order.position_for(name, urgency, None, own);
        let (_, start) = self.turn_at(&place, now);
        let room = self.room_for(reason, request, now).max(own_slot);
        let needed = (start <= now + self.config.longest_wait).then(|| {
            let mut after_own = start;
            if place.is_behind_kept() {
                // These are not waited for.
                let own = self.expectations.returns_before(name, urgency, arrival);
                let place = self.order.position_for(name, urgency, Some((start, u64::MAX)), own);
                after_own = self.turn_at(&place, now).1;
            }
            self.enough(request, arrival, after_own, now)
        });
        let mut refused = self.send_away(reason, request, arrival, (start, room), now);
        if let (Some(wait), Some(needed)) = (&mut refused.wait, needed) {
            wait.needed = needed.saturating_duration_since(now);
        }
        refused
    }

    /// The deadline with which a request would have been let in: at the latest `after_own`, when
    /// all its caller's others go first.
    fn enough(&self, request: Request<'_>, arrival: Arrival, after_own: Instant, now: Instant) -> Instant {
        let (name, urgency) = (request.name, request.urgency);
        let mut deadline = now + request.allowed;
        for _ in 0..3 {
            let own = self.expectations.returns_before(name, urgency, arrival);
            let place = self.order.position_for(name, urgency, Some((deadline, u64::MAX)), own);
            if self.order.is_last_of_own(&place) {
                return after_own;
            }
            let start = self.turn_at(&place, now).1;
            if start <= deadline {
                let is_enough = !self.delays_own(&place, 1, now);
                return if is_enough { deadline.min(after_own) } else { after_own };
            }
            deadline = start;
        }
        after_own
    }

    /// When the queue has room for a request that it has none for now.
    fn room_for(&self, reason: Reason, request: Request<'_>, now: Instant) -> Option<Instant> {
        match reason {
            Reason::Full => Some(
                self.forecast
                    .start(self.order.len().saturating_sub(self.config.max_requests), now),
            ),
            Reason::CallerFull => {
                let first = self.order.next_of(request.name, request.urgency)?;
                self.turn_of(first.id, now).map(|(_, start)| start)
            }
            _ => None,
        }
    }

    /// Says when to come back, and expects it then. The request's turn would come at `start`, if
    /// there is room for it.
    pub(super) fn send_away(
        &mut self,
        reason: Reason,
        request: Request<'_>,
        arrival: Arrival,
        (start, room): (Instant, Option<Instant>),
        now: Instant,
    ) -> Refused {
        let needed = start.saturating_duration_since(now);
        let retry_after = self.retry_after(start.max(room.unwrap_or(now)), request.allowed, room, now);
        let due = now + retry_after;
        self.expectations
            .refuse((request.name, request.urgency), arrival, due, now, &mut self.order);
        let is_enough = reason.is_for_time() && needed <= self.config.longest_wait;
        Refused {
            reason,
            retry_after,
            wait: is_enough.then_some(Wait {
                needed,
                allowed: request.allowed,
            }),
            due: Some(due),
        }
    }

    /// In whole seconds, so that its turn comes in the middle of the time that the request then
    /// waits; not before there is room.
    fn retry_after(&self, start: Instant, wait: Duration, room: Option<Instant>, now: Instant) -> Duration {
        let whole = |duration: Duration| duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
        let until = |at: Instant| at.saturating_duration_since(now);
        let seconds = if wait < INSTANT {
            // Nobody may wait then, or the slot is theirs.
            whole(until(start.max(self.forecast.start(self.order.len(), now))))
        } else {
            let middle = until(start).saturating_sub(wait / 2) + INSTANT / 2;
            middle.as_secs().max(whole(until(start).saturating_sub(wait)))
        };
        let room = room.map_or(0, |room| whole(until(room)));
        Duration::from_secs(seconds.max(room).max(1))
    }
}
