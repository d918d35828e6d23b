//! Taking places back: who waits on slots that somebody with a better right has come to claim.

use std::time::Duration;

use tokio::time::Instant;

use super::PermitSource;
use super::expectation::Arrival;
use super::fair_scheduler::{InTime, Late};
use super::refused::{NextTurn, Reason, Refused, Request, earliest_slot};
use super::state::{BESIDES, State, TOLERANCE, allowed};
use crate::attempt::Asked;
use crate::caller::{Caller, Name, Urgency};

/// A place is not taken back for the sake of less than this.
pub(super) const SLIGHTLY: Duration = Duration::from_millis(50);

/// Whose turns come too late is found out at once as long as that costs no more than this for each
/// request that came, and otherwise after this time: a flood must not look at the whole queue at
/// every arrival.
pub(super) const STEPS_PER_ARRIVAL: usize = 64;
const AFTER: Duration = Duration::from_millis(50);

/// Whether everybody who waits is known to be served in time.
#[derive(Debug)]
pub(super) struct Check {
    /// So many may still come who go before others.
    spare: usize,
    /// Callers that ask again whenever they are answered, when this was found out.
    loops: usize,
    /// Since when it is not known any more, because more came.
    pub(super) unknown_since: Option<Instant>,
    /// Slots may come later than they were said to.
    pub(super) drifted: bool,
    /// Steps that may be spent at once.
    pub(super) budget: usize,
}

/// By how many slots a request delays those who waited before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delay {
    None,
    One,
    Unknown,
}

impl Check {
    /// Nobody waits.
    pub(super) const IDLE: Self = Self {
        spare: usize::MAX,
        loops: 0,
        unknown_since: None,
        drifted: false,
        budget: 0,
    };

    /// Somebody came, with so many slots to spare.
    pub(super) fn came(&mut self, delay: Delay, spare: usize, loops: usize, now: Instant) {
        match delay {
            Delay::None => self.spare = self.spare.min(spare),
            Delay::One if self.spare > 0 && loops <= self.loops => self.spare = (self.spare - 1).min(spare),
            Delay::One | Delay::Unknown => self.order_changed(now),
        }
    }

    /// The order has changed.
    pub(super) fn order_changed(&mut self, now: Instant) {
        self.spare = 0;
        self.unknown_since.get_or_insert(now);
    }
}

impl<P> State<P> {
    /// Takes places back whose turn has come to lie after the deadline: because somebody with a
    /// better right came, or because slots come later than forecast (the upstream ordered a pause).
    /// Says when to look again, if that was put off.
    pub(super) fn take_back_late(&mut self, now: Instant) -> Option<Instant> {
        let Check {
            unknown_since, drifted, ..
        } = self.check;
        if unknown_since.is_none() && !drifted {
            return None;
        }
        let cost = self.order.len();
        let put_off = unknown_since.map_or(now, |since| since + AFTER);
        if cost > self.check.budget.max(STEPS_PER_ARRIVAL) && put_off > now {
            return Some(put_off);
        }
        self.tell_late(now);
        None
    }

    /// The same, whatever it costs.
    pub(super) fn tell_late(&mut self, now: Instant) {
        let cost = self.order.len();
        let tolerance = match self.check.unknown_since {
            Some(_) => SLIGHTLY,
            None => TOLERANCE,
        };
        // No slot is of use once the gateway stops.
        let until = |at: Instant| self.forecast.until(self.closes.map_or(at, |closes| closes.min(at)));
        let in_time = |deadline| InTime {
            wanted: until(deadline),
            tolerated: until(deadline + tolerance),
        };
        let played = self
            .order
            .play(self.others(), |rank| self.forecast.after(rank, now), in_time);
        self.check = Check {
            spare: played.spare,
            loops: self.order.loops(),
            budget: self.check.budget.saturating_sub(cost),
            ..Check::IDLE
        };
        // So many slots come before anybody can be back.
        let gone = self.forecast.before(earliest_slot(None, now));
        for (index, Late { id, rank }) in played.late.into_iter().enumerate() {
            let deadline = self.order.ticket(id).map(|ticket| ticket.deadline);
            if self
                .closes
                .zip(deadline)
                .is_some_and(|(closes, deadline)| closes < deadline)
            {
                self.tell(id, Refused::shutting_down(), now);
            } else {
                let reason = self.why_late(id, rank);
                let start = |rank: usize| self.forecast.start(rank.saturating_add(index), now);
                let (start, slot) = (start(rank), start(rank.max(gone)));
                self.take_back(
                    id,
                    reason,
                    Some(NextTurn {
                        start,
                        slot,
                        room: None,
                    }),
                    now,
                );
            }
        }
    }

    /// Takes the place of a ticket back. Its turn would come then, if that is known.
    pub(super) fn take_back(&mut self, id: u64, reason: Reason, turn: Option<NextTurn>, now: Instant) {
        let Some(ticket) = self.order.ticket(id).cloned() else {
            return;
        };
        let (name, urgency) = (&ticket.caller, ticket.urgency);
        let turn = turn.unwrap_or_else(|| self.next_turn(name, urgency, now));
        let allowed = self.waiters.get(&id).map_or(Duration::ZERO, |waiter| waiter.allowed);
        let request = Request { name, urgency, allowed };
        let refused = self.send_away(reason, request, Arrival::Again, turn, now);
        self.tell(id, refused, now);
    }

    /// When the turn of one more request of this caller comes that asked before.
    fn next_turn(&self, name: &Name, urgency: Urgency, now: Instant) -> NextTurn {
        let own = self.expectations.returns_before_refused(name, urgency, Arrival::Again);
        let place = self.order.position_for(name, urgency, None, own);
        NextTurn {
            start: self.turn_at(&place, now).1,
            slot: self.slot_from(&place, earliest_slot(None, now), now),
            room: None,
        }
    }

    /// A request that had a slot is answered that it has to come again: says when, and expects it
    /// then.
    pub(super) fn send_back<S>(&mut self, caller: &Caller, now: Instant, source: &S) -> Duration
    where
        S: PermitSource<Permit = P>,
    {
        let (name, urgency) = (&caller.name, caller.urgency);
        self.expectations
            .ask_again((name, urgency), Asked::Ended, now, &mut self.order);
        self.look_ahead(now, self.order.len() + 1 + BESIDES, source);
        let request = Request {
            name,
            urgency,
            allowed: allowed(caller, now),
        };
        let turn = self.next_turn(name, urgency, now);
        self.send_away(Reason::PausedPastDeadline, request, Arrival::Again, turn, now)
            .retry_after
    }

    /// The time of a ticket is up, and no slot has come.
    pub(super) fn lapse(&mut self, id: u64, now: Instant) {
        let reason = self.why_late(id, self.order.ahead_of(id).unwrap_or(0));
        self.take_back(id, reason, None, now);
    }

    /// Why a turn comes too late, with so many slots to go before it: because others went before,
    /// or because slots come later.
    pub(super) fn why_late(&self, id: u64, rank: usize) -> Reason {
        let turn = self.served.saturating_add(rank as u64);
        match self.waiters.get(&id) {
            Some(waiter) if turn > waiter.foretold => Reason::Displaced,
            _ => Reason::PausedPastDeadline,
        }
    }
}
