//! When a turn comes, with the order played forward over those who wait and those who are about to
//! ask.
//!
//! Who is expected back claims no slot before it is due. So a request has the first slot that is
//! left when all have theirs who go first *and* are here by then: the smallest `n` with `n`
//! requests before it until slot `n` comes.

use std::time::Duration;

use tokio::time::Instant;

use super::PermitSource;
use super::fair_scheduler::{Ahead, Claims, Competitors, Look, ServicePosition};
use super::state::{BESIDES, State};
use super::take_back::SLIGHTLY;
use crate::caller::{Name, Urgency};

/// Callers that ask again and again are expected to go on for so long.
const LOOPS_LAST: Duration = Duration::from_mins(2);

/// No slot comes later.
const NEVER: Duration = Duration::from_hours(24 * 365);

/// How often a forecast is made anew because more of its own caller's are due until then.
const ROUNDS: usize = 3;

impl<P> State<P> {
    /// The slot that is left for a request at this place, and when it comes, if that is until
    /// `latest`; otherwise some later one.
    pub(super) fn turn_until(&self, place: &ServicePosition, latest: Instant, now: Instant) -> (Ahead, Instant) {
        // The queue's own bounds ask for how many wait in all.
        let is_exact = self.order.len() >= self.config.max_requests || self.closes.is_some();
        let most = if is_exact {
            usize::MAX
        } else {
            self.forecast.until(latest)
        };
        self.turn(place, self.look(Claims::Due, latest, most, now))
    }

    /// The slot that is left for a request at this place, and when it comes. Far ahead all claim
    /// slots who are expected back.
    pub(super) fn turn_at(&self, place: &ServicePosition, now: Instant) -> (Ahead, Instant) {
        let longest = now + self.config.longest_wait;
        let turn = self.turn_until(place, longest, now);
        if turn.1 <= longest {
            return turn;
        }
        self.turn(place, self.look(Claims::All, now + NEVER, usize::MAX, now))
    }

    /// When the slot of a ticket comes, and what is served before.
    pub(super) fn turn_of(&self, id: u64, now: Instant) -> Option<(Ahead, Instant)> {
        Some(self.turn_at(&self.order.position_of(id)?, now))
    }

    /// Whether a request at this place would make others of the same caller late, which have the
    /// same right and came before. `most` of them are looked at.
    pub(super) fn delays_own(&self, place: &ServicePosition, most: usize, now: Instant) -> bool {
        let is_early = |deadline| self.latest_start(now).is_some_and(|latest| latest <= deadline);
        self.order.own_after(place, most).any(|(after, deadline)| {
            !is_early(deadline) && self.turn_until(&after, deadline + SLIGHTLY, now).1 > deadline + SLIGHTLY
        })
    }

    /// How long a caller who is new here would wait.
    pub(super) fn predicted_wait<S: PermitSource<Permit = P>>(&mut self, now: Instant, source: &S) -> Duration {
        self.expectations.expire(now, &mut self.order);
        self.look_ahead(now, self.order.len() + 1 + BESIDES, source);
        let place = self.order.position_for(&Name::new(""), Urgency::default(), None, 0..0);
        let (_, start) = self.turn_at(&place, now);
        start.saturating_duration_since(now)
    }

    fn look(&self, claims: Claims, until: Instant, most: usize, now: Instant) -> Look<'_> {
        Look {
            claims,
            now,
            until,
            most,
            most_of_loop: self.forecast.until(now + LOOPS_LAST),
            others: self.others(),
        }
    }

    fn turn(&self, place: &ServicePosition, look: Look<'_>) -> (Ahead, Instant) {
        let own_due = |until| self.order.own_due(place, until);
        let mut own = if look.claims == Claims::All {
            own_due(look.until)
        } else {
            0
        };
        let mut rounds = 0;
        loop {
            let turn = self.first_left(&self.order.competitors(place, own, look), look);
            let due = own_due(turn.1.min(look.until));
            if due <= own || turn.1 > look.until {
                return turn;
            }
            rounds += 1;
            own = if rounds < ROUNDS { due } else { own_due(look.until) };
        }
    }

    /// The first slot that is left by those who go first.
    fn first_left(&self, competitors: &Competitors<'_>, look: Look<'_>) -> (Ahead, Instant) {
        let (mut until, mut slots) = (self.forecast.start(0, look.now), 1);
        loop {
            let ahead = competitors.ahead(until, slots);
            let start = self.forecast.start(ahead.rank(), look.now);
            if start <= until || start > look.until {
                return (ahead, start);
            }
            (until, slots) = (start, ahead.rank() + 1);
        }
    }

    /// When the last of those who wait and who are expected back is served, if that is known
    /// without looking at each.
    fn latest_start(&self, now: Instant) -> Option<Instant> {
        let is_simple = self.others().is_empty() && self.order.loops() == 0;
        is_simple.then(|| self.forecast.start(self.order.len() + self.order.returning(), now))
    }
}
