//! When a turn comes, with the order played forward over those who wait and those who are about to ask.

use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;

use super::expectation::Arrival;
use super::line::Slots;
use super::order::{Ahead, Look, Place};
use super::state::{BESIDES, State};
use super::take_back::SLIGHTLY;
use crate::caller::{Name, Urgency};

/// Callers that ask again and again are expected to go on for so long.
const LOOPS_LAST: Duration = Duration::from_mins(2);

/// How often a forecast is refined.
const ROUNDS: usize = 6;

impl<P> State<P> {
    /// Whether a request at this place would make others of the same caller late, which have the same right and came before.
    /// `most` of them are looked at.
    pub(super) fn delays_own(&self, place: &Place, most: usize, now: Instant) -> bool {
        self.order
            .own_after(place, most)
            .any(|(after, deadline)| self.turn_until(&after, deadline + SLIGHTLY, now).1 > deadline + SLIGHTLY)
    }

    /// How far to look at those who are about to ask, for a slot that comes until that moment.
    fn look(&self, until: Instant, now: Instant) -> Look<'_> {
        Look {
            period: Some((now, until)),
            slots: self.slots.until(until.min(now + LOOPS_LAST)),
            others: &self.others,
        }
    }

    /// Which of its own caller's that are expected back go before a request that comes.
    pub(super) fn own_before(&self, name: &Name, urgency: Urgency, arrival: Arrival) -> Range<usize> {
        match arrival {
            Arrival::Return => 0..0,
            _ => self.expectations.returns_before(name, urgency, arrival),
        }
    }

    /// The slot that is left for a request at this place, and when it comes, if that is until then; otherwise some later one.
    ///
    /// Whoever goes before it and is not here yet takes only slots that come after it is due: so it is looked how many are due until the last
    /// slot of use, and if these are too many, until the next slot, until that slot, and so on.
    pub(super) fn turn_until(&self, place: &Place, latest: Instant, now: Instant) -> (Ahead, Instant) {
        let latest = latest.min(now + LOOPS_LAST);
        let by_then = self.turn_among(place, latest, now);
        if by_then.1 <= latest || by_then.0.claimed == 0 {
            return by_then;
        }
        let turn = self.first_turn(place, latest, now);
        turn.unwrap_or(by_then)
    }

    /// The slot that is left for a request at this place among those who ask until then.
    fn turn_among(&self, place: &Place, until: Instant, now: Instant) -> (Ahead, Instant) {
        let ahead = self.order.ahead(place, self.look(until, now));
        (ahead, self.slots.start(ahead.rank(), now))
    }

    fn first_turn(&self, place: &Place, latest: Instant, now: Instant) -> Option<(Ahead, Instant)> {
        let mut until = self.slots.start(0, now);
        for _ in 0..ROUNDS {
            let turn = self.turn_among(place, until, now);
            if turn.1 <= until || turn.1 > latest {
                return Some(turn);
            }
            until = turn.1;
        }
        None
    }

    /// The slot that is left for a request at this place, and when it comes.
    pub(super) fn turn_at(&self, place: &Place, now: Instant) -> (Ahead, Instant) {
        let all = self.turn_among(place, now + LOOPS_LAST, now);
        if all.0.claimed == 0 {
            return all;
        }
        let latest = now + self.config.longest_wait.max(LOOPS_LAST);
        self.first_turn(place, latest, now).unwrap_or(all)
    }

    /// When the slot of a ticket comes, and what is served before.
    pub(super) fn turn_of(&self, id: u64, now: Instant) -> Option<(Ahead, Instant)> {
        Some(self.turn_at(&self.order.place_of(id)?, now))
    }

    /// How long a caller who is new here would wait.
    pub(super) fn predicted_wait<S: Slots<Permit = P>>(&mut self, now: Instant, slots: &S) -> Duration {
        self.expectations.expire(now, &mut self.order);
        self.look_ahead(now, self.order.len() + 1 + BESIDES, slots);
        let place = self.order.place_for(&Name::new(""), Urgency::default(), None, 0..0);
        let (_, start) = self.turn_at(&place, now);
        start.saturating_duration_since(now)
    }
}
