//! When a turn comes: with which of the slots that the quota has forecast, with the order played
//! forward over those who wait and those who are about to ask.
//!
//! Who is expected back claims no slot before it is due. So a request has the first slot that is
//! left when all have theirs who go first *and* are here by then: the smallest `n` with `n`
//! requests before it until slot `n` comes.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::PermitSource;
use super::expectation::Arrival;
use super::fair_scheduler::{Ahead, Claims, Competitors, Look, ServicePosition};
use super::state::{BESIDES, State};
use super::take_back::SLIGHTLY;
use crate::caller::{Caller, Name, Urgency};

/// A slot handed out this much later than forecast came on time.
const PUNCTUAL: Duration = Duration::from_millis(5);

/// Where nothing else is known: no slots are further apart.
const UNKNOWN: Duration = Duration::from_hours(1);

/// When the next slots come, as the quota said last. Beyond those that were asked for, more are
/// assumed to come as the later half of these do.
#[derive(Debug, Default)]
pub(super) struct SlotForecast {
    starts: VecDeque<Instant>,
    version: Option<u64>,
    apart: Duration,
}

impl SlotForecast {
    /// Forecasts at least `count` slots. Returns whether earlier answers no longer hold.
    pub(super) fn look_ahead<S: PermitSource>(&mut self, now: Instant, count: usize, source: &S) -> bool {
        let version = source.version();
        // A first slot in the past was not used: the bucket has grown since. Timers are late by a
        // moment.
        let holds = self.version == Some(version)
            && self
                .starts
                .front()
                .is_some_and(|first| now.saturating_duration_since(*first) <= PUNCTUAL);
        if holds && self.starts.len() >= count {
            return false;
        }
        self.starts.clear();
        // Some more, so that not every slot handed out asks for another forecast.
        source.forecast(now, count + count / 4, &mut self.starts);
        self.version = Some(version);
        self.apart = self.spacing().unwrap_or(UNKNOWN);
        true
    }

    fn spacing(&self) -> Option<Duration> {
        let last = self.starts.len().checked_sub(1)?;
        let half = last / 2;
        let between = u32::try_from(last - half).ok().filter(|between| *between > 0)?;
        Some(self.starts[last].saturating_duration_since(self.starts[half]) / between)
    }

    /// What was forecast may no longer hold.
    pub(super) fn invalidate(&mut self) {
        self.version = None;
    }

    /// A slot has been handed out.
    pub(super) fn on_granted(&mut self, now: Instant) {
        if self.starts.pop_front().is_none_or(|first| first > now) {
            // The slot came before its time: so may the next ones.
            self.version = None;
        }
    }

    /// When the slot with this number comes, from 0.
    pub(super) fn start(&self, rank: usize, now: Instant) -> Instant {
        if let Some(start) = self.starts.get(rank) {
            return *start;
        }
        let beyond = u32::try_from(rank.saturating_add(1) - self.starts.len()).unwrap_or(u32::MAX);
        let last = self.starts.back().copied().unwrap_or(now);
        let apart = self.apart.saturating_mul(beyond).min(UNKNOWN * 24);
        last + apart
    }

    /// How many slots come before that moment.
    pub(super) fn before(&self, at: Instant) -> usize {
        at.checked_sub(Duration::from_nanos(1)).map_or(0, |at| self.until(at))
    }

    /// How many slots were forecast; when later ones come is assumed.
    fn known(&self) -> usize {
        self.starts.len()
    }

    /// How long until the slot with this number comes, from 0.
    pub(super) fn after(&self, rank: usize, now: Instant) -> Duration {
        self.start(rank, now).saturating_duration_since(now)
    }

    /// How many slots come until that moment: those whose [`SlotForecast::start`] is not later.
    pub(super) fn until(&self, at: Instant) -> usize {
        let known = self.starts.partition_point(|start| *start <= at);
        let beyond = match self.starts.back() {
            Some(last) if known == self.starts.len() => {
                let since_last = at.saturating_duration_since(*last).as_nanos();
                // Where many come at once, as after a pause, so may those that are not known.
                since_last.checked_div(self.apart.as_nanos()).unwrap_or(u128::MAX)
            }
            _ => 0,
        };
        known.saturating_add(usize::try_from(beyond).unwrap_or(usize::MAX))
    }
}

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
        self.turn(place, now, self.look(Claims::Due, latest, most, now))
    }

    /// The slot that is left for a request at this place, and when it comes. Far ahead all claim
    /// slots who are expected back.
    pub(super) fn turn_at(&self, place: &ServicePosition, now: Instant) -> (Ahead, Instant) {
        let longest = now + self.config.longest_wait;
        let turn = self.turn_until(place, longest, now);
        if turn.1 <= longest {
            return turn;
        }
        self.turn(place, now, self.look(Claims::All, now + NEVER, usize::MAX, now))
    }

    /// When the slot comes that is left for a request at this place that is not here before `from`.
    pub(super) fn slot_from(&self, place: &ServicePosition, from: Instant, now: Instant) -> Instant {
        let look = self.look(Claims::Due, now + self.config.longest_wait, usize::MAX, now);
        self.turn(place, from, look).1
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

    /// How long a request of this caller that comes now would wait; longer than until its deadline is
    /// not looked ahead, however full the queue is.
    pub(super) fn predicted_turn<S>(&mut self, caller: &Caller, now: Instant, source: &S) -> Duration
    where
        S: PermitSource<Permit = P>,
    {
        self.expectations.expire(now, &mut self.order);
        self.look_ahead(now, self.order.len() + 1 + BESIDES, source);
        let (name, urgency) = (&caller.name, caller.urgency);
        let own = self.expectations.returns_before(name, urgency, Arrival::Further);
        let deadline = caller.deadline.max(now);
        let place = self.order.position_for(name, urgency, Some((deadline, u64::MAX)), own);
        let most = self.forecast.until(deadline);
        let (_, start) = self.turn(&place, now, self.look(Claims::Due, deadline, most, now));
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

    fn turn(&self, place: &ServicePosition, from: Instant, look: Look<'_>) -> (Ahead, Instant) {
        let own_due = |until| self.order.own_due(place, until);
        let mut own = if look.claims == Claims::All {
            own_due(look.until)
        } else {
            0
        };
        let mut rounds = 0;
        loop {
            let turn = self.first_left(&self.order.competitors(place, own, look), from, look);
            let due = own_due(turn.1.min(look.until));
            if due <= own || turn.1 > look.until {
                return turn;
            }
            rounds += 1;
            own = if rounds < ROUNDS { due } else { own_due(look.until) };
        }
    }

    /// The first slot from then on that is left by those who go first. Those that are left before
    /// have gone to whoever was here.
    fn first_left(&self, competitors: &Competitors<'_>, from: Instant, look: Look<'_>) -> (Ahead, Instant) {
        let (mut until, mut slots, mut gone) = (self.forecast.start(0, look.now), 1, 0);
        loop {
            let ahead = competitors.ahead(until, slots);
            let mut rank = ahead.rank().saturating_add(gone);
            let mut start = self.forecast.start(rank, look.now);
            if start > look.until {
                return (ahead, start);
            }
            if start <= until {
                // One that came before can be had now.
                if start.max(look.now) >= from || rank >= self.forecast.known() {
                    return (ahead, start.max(from));
                }
                let passed = self
                    .forecast
                    .until(start)
                    .min(self.forecast.known())
                    .saturating_sub(rank);
                (gone, rank) = (gone + passed, rank + passed);
                start = self.forecast.start(rank, look.now);
            }
            (until, slots) = (start, rank.saturating_add(1));
        }
    }

    /// When the last of those who wait and who are expected back is served, if that is known
    /// without looking at each.
    fn latest_start(&self, now: Instant) -> Option<Instant> {
        let is_simple = self.others().is_empty() && self.order.loops() == 0;
        is_simple.then(|| self.forecast.start(self.order.len() + self.order.returning(), now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forecast(now: Instant, ms: &[u64]) -> SlotForecast {
        let mut forecast = SlotForecast {
            starts: ms.iter().map(|ms| now + Duration::from_millis(*ms)).collect(),
            ..SlotForecast::default()
        };
        forecast.apart = forecast.spacing().unwrap_or(UNKNOWN);
        forecast
    }

    #[test]
    fn as_many_come_until_a_moment_as_start_until_then() {
        let now = Instant::now();
        for ms in [
            &[][..],
            &[0],
            &[500, 500],
            &[0, 600, 1_200, 1_800],
            &[0, 0, 0, 600, 1_200],
            // A pause, and then many at once.
            &[0, 665, 693, 782, 806, 820, 820, 820, 820, 820, 820, 820, 820],
            &[900, 900, 900, 900, 900, 1_000],
        ] {
            let forecast = forecast(now, ms);
            for at in [0, 499, 500, 819, 820, 1_000, 5_000, 60_000].map(|ms| now + Duration::from_millis(ms)) {
                let until = forecast.until(at);
                for rank in 0..500 {
                    assert_eq!(
                        rank < until,
                        forecast.start(rank, now) <= at,
                        "{ms:?}: slot {rank}, {:?}",
                        at - now
                    );
                }
            }
        }
    }
}
