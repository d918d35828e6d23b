//! Refusing: why, which wait would have been enough, and when to come back.

use std::time::Duration;

use tokio::time::Instant;

use super::expectation::Arrival;
use super::state::State;
use crate::caller::{Name, Urgency};
use crate::telemetry::named_enum;

/// A return may be this much later than it was told to be, and its slot than it was forecast.
const LEEWAY: Duration = Duration::from_millis(250);

/// Who comes back when it was told to may wait so long, whatever it allowed: it is told in whole
/// seconds, and to come before its slot, as nobody else keeps that for it.
pub(super) const MOMENT: Duration = Duration::from_millis(1500);

/// The caller's turn cannot come in time, or it may not wait. Known at once, told at once.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", self.reason.as_str())]
pub struct Refused {
    /// Why.
    pub reason: Reason,
    /// When to come back, counted from the refusal.
    pub retry_after: Duration,
    /// How long a wait would have been let in; `None` when none would.
    pub wait: Option<Wait>,
    /// When the request is expected back, if it is.
    pub(super) due: Option<Instant>,
}

/// What a request would have had to wait, and what it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Until its turn would come.
    pub needed: Duration,
    /// What it allowed.
    pub allowed: Duration,
}

impl Wait {
    /// The wait to ask for, in whole seconds: rounded up, so that it is enough.
    pub fn needed_s(self) -> u64 {
        whole_seconds(self.needed)
    }

    /// What the request allowed, in whole seconds. A moment of it had passed when it was refused.
    pub fn allowed_s(self) -> u64 {
        self.allowed.saturating_add(Duration::from_millis(500)).as_secs()
    }
}

/// Rounded up, and at least 1.
fn whole_seconds(duration: Duration) -> u64 {
    (duration.as_secs() + u64::from(duration.subsec_nanos() > 0)).max(1)
}

impl Refused {
    /// A refusal that no longer wait would have changed.
    pub fn new(reason: Reason, retry_after: Duration) -> Self {
        Self {
            reason,
            retry_after,
            wait: None,
            due: None,
        }
    }

    /// `Retry-After` in whole seconds, rounded up and at least 1, so that who obeys it is not too
    /// early.
    ///
    /// ```
    /// use defender_gateway::testing::queue::{Reason, Refused};
    /// let refused = Refused::new(Reason::Late, std::time::Duration::from_millis(2_001));
    /// assert_eq!(refused.retry_after_s(), 3);
    /// ```
    pub fn retry_after_s(&self) -> u64 {
        whole_seconds(self.retry_after)
    }
}

named_enum! {
    /// Why a caller was refused.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub enum Reason, name {
        /// The turn cannot come before the caller's deadline.
        Late = "late",
        /// Every slot before the caller's deadline is claimed by others who are about to ask and go
        /// first.
        Promised = "promised",
        /// The queue holds as many requests as it may.
        Full = "full",
        /// The caller has as many requests waiting as it may.
        CallerFull = "caller_full",
        /// The caller is over its fair-use limit.
        CallerLimiter = "fair_use",
        /// The place was on slots that somebody claimed since whose class or share gives a better
        /// right to them.
        Displaced = "displaced",
        /// The ticket was taken, but a pause ordered by the upstream made it impossible to serve in
        /// time.
        PausedPastDeadline = "overtaken",
        /// The gateway is about to stop, and the turn would come too late.
        ShuttingDown = "shutting_down",
        /// The store that replicas share the quota through does not answer, so nobody knows whether
        /// there is a slot.
        StoreLost = "store_lost",
        /// The caller brought a token of its own, and the quotas of as many other tokens are kept
        /// as may be.
        Tokens = "tokens",
    }
}

impl Reason {
    /// Whether there were not enough slots for it, rather than a limit of the caller's own or a
    /// part that is out of order.
    pub(super) fn is_for_slots(self) -> bool {
        match self {
            Self::Late | Self::Promised | Self::Full | Self::Displaced | Self::PausedPastDeadline => true,
            Self::CallerFull | Self::CallerLimiter | Self::ShuttingDown | Self::StoreLost | Self::Tokens => false,
        }
    }

    /// Whether a longer wait, or slots that came sooner, would have been enough.
    pub(super) fn is_for_time(self) -> bool {
        self.is_for_slots() && self != Self::Full
    }

    /// A sentence for callers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Late => "the next free slot of the upstream's quota comes after the time the request may wait",
            Self::Promised => {
                "every slot of the upstream's quota within the time the request may wait is claimed by others that go first"
            }
            Self::Full => "as many requests wait for the upstream's quota as may wait",
            Self::CallerFull => "as many requests of this caller wait for the upstream's quota as may wait",
            Self::CallerLimiter => "the caller is over its fair-use limit",
            Self::ShuttingDown => "the gateway is shutting down and the request's turn would come too late",
            Self::StoreLost => "the store that replicas share the upstream's quota through does not answer",
            Self::Tokens => {
                "calls with as many other callers' own tokens still count as the gateway can count at a time"
            }
            Self::Displaced => {
                "more urgent requests, or other callers' fair shares, now take every slot within the time the request may wait"
            }
            Self::PausedPastDeadline => {
                "slots of the upstream's quota come later than was predicted: the upstream ordered a pause, or calls were lost or took long"
            }
        }
    }
}

/// A request that is refused or taken back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    pub(super) name: &'a Name,
    pub(super) urgency: Urgency,
    /// How long it said that it may wait.
    pub(super) allowed: Duration,
}

/// When a request's turn would come.
#[derive(Clone, Copy, Debug)]
pub(super) struct NextTurn {
    /// If it waited.
    pub(super) start: Instant,
    /// If it comes back: it is told to before that slot, and so nobody else is told the same one.
    pub(super) slot: Instant,
    /// When the queue has room for it, if it has none for now.
    pub(super) room: Option<Instant>,
}

impl Request<'_> {
    /// How long it waits when it comes back.
    fn patience(&self) -> Duration {
        self.allowed.max(MOMENT)
    }
}

impl<P> State<P> {
    /// Refuses a request that just came.
    pub(super) fn refuse(&mut self, reason: Reason, request: Request<'_>, arrival: Arrival, now: Instant) -> Refused {
        let (name, urgency) = (request.name, request.urgency);
        let own = self.expectations.returns_before_refused(name, urgency, arrival);
        let room = self.room_for(reason, request, now);
        let mut from = earliest_slot(room, now);
        if request.allowed < MOMENT {
            // It has little time for its slot when it is back: so it is told none that another
            // request of its caller was told, however few of those who are told to come back do.
            from = from.max(self.forecast.start(own.len(), now));
        }
        let place = self.order.position_for(name, urgency, None, own);
        let (_, start) = self.turn_at(&place, now);
        let slot = if start < from {
            self.slot_from(&place, from, now)
        } else {
            start
        };
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
        let mut refused = self.send_away(reason, request, arrival, NextTurn { start, slot, room }, now);
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

    /// Says when to come back, and expects it then.
    pub(super) fn send_away(
        &mut self,
        reason: Reason,
        request: Request<'_>,
        arrival: Arrival,
        turn: NextTurn,
        now: Instant,
    ) -> Refused {
        let needed = turn.start.saturating_duration_since(now);
        let retry_after = retry_after(turn, request.patience(), now);
        let due = now + retry_after;
        let caller = (request.name, request.urgency);
        self.expectations
            .refuse(caller, arrival, (due, turn.slot), now, &mut self.order);
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
}

/// A request that comes back has no slot before this moment.
pub(super) fn earliest_slot(room: Option<Instant>, now: Instant) -> Instant {
    let seconds = room.map_or(1, |room| whole_seconds(room.saturating_duration_since(now)));
    now + Duration::from_secs(seconds) + LEEWAY
}

/// In whole seconds, so that its turn comes in the middle of the time that the request then waits;
/// not before there is room.
fn retry_after(NextTurn { slot, room, .. }: NextTurn, wait: Duration, now: Instant) -> Duration {
    let until = |at: Instant| at.saturating_duration_since(now);
    let middle = until(slot).saturating_sub(wait / 2) + Duration::from_millis(500);
    let earliest = whole_seconds(until(slot).saturating_sub(wait));
    let room = room.map_or(0, |room| whole_seconds(until(room)));
    Duration::from_secs(middle.as_secs().max(earliest).max(room))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_find_every_reason() {
        let page = include_str!("../../deploy/alerts/runbooks/DefenderGatewayRefusing.md");
        for name in Reason::NAMES {
            assert!(page.contains(&format!("`{name}`")), "{name} is not in the runbook");
        }
    }
}
