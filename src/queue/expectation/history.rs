//! What is known of one caller: its requests that were refused, and whether it asks again whenever
//! it is answered.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::queue::fair_scheduler::Expected;

/// Nothing is expected of a caller that has not asked for so long.
pub(super) const RECENT: Duration = Duration::from_secs(10);

/// A caller that asks again so soon after its slot, so often in a row, asks again whenever it is
/// answered. Callers that come at random do that rarely.
const LONGEST_CYCLE: Duration = Duration::from_secs(5);
const CYCLES: usize = 3;

/// A return this much too early is on time, and one that has stayed away for half the time: one
/// that comes earlier is another request of a burst.
pub(super) const EARLY: Duration = Duration::from_secs(1);

/// A return this much too late still claims its slot, unless that has passed: an answer and a timer
/// take their time. As long as one is later than that, none of its caller's claims a slot.
const LATE: Duration = Duration::from_secs(2);

/// The place in the order is kept for so much longer than the return was told to come, and an
/// eighth of what it was told.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// Requests of one caller that come within this time are different ones, not one that does not
/// obey.
pub(super) const AT_ONCE: Duration = Duration::from_secs(1);

/// A caller cannot be thought to ask more often than this.
const SHORTEST_CYCLE: Duration = Duration::from_millis(1);

/// So many of a caller's refused requests claim slots, and one more for each that came back when it
/// was told to. Each that did not come, or came when its slot had passed, halves the number. Their
/// places in the order are kept all the same.
const TRUST: usize = 2;

/// For so long it is remembered that a caller's did not come.
pub(super) const REMEMBERED: Duration = Duration::from_mins(10);

/// Requests expected back of one caller.
const MOST_RETURNS: usize = 128;

/// What a request is to those that are expected of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::queue) enum Arrival {
    /// One that was refused, and comes when it was told to.
    Return,
    /// One that was refused, and comes too early.
    Early,
    /// Another one.
    Further,
    /// One that came before: its place was taken back, or it asks once more.
    Again,
}

#[derive(Debug)]
pub(super) struct History {
    /// Ascending by when they are due.
    pub(super) returns: VecDeque<Return>,
    /// When it had its last slot.
    granted: Option<Instant>,
    /// Whether the call has been answered since.
    is_answered: bool,
    /// Requests that ended, served or not, and have not been followed by another one.
    ended: usize,
    /// These are, or nothing is expected to follow them.
    follows_until: Instant,
    /// So many of those expected back claim slots.
    trust: usize,
    /// When one did not come back last.
    missed: Option<Instant>,
    /// From a slot to the next request, the last few times.
    gaps: [Option<Duration>; CYCLES],
    /// Until then it is expected to ask again, if it ever did.
    pub(super) until: Instant,
    /// When one of its requests was refused last, and the first of those that were refused one
    /// right after the other.
    refused: Option<(Instant, Instant)>,
    pub(super) look: Instant,
    pub(super) told: Expected,
}

/// A request that was refused and told when to come back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Return {
    pub(super) due: Instant,
    told: Instant,
    /// The slot that it was told to come for.
    slot: Instant,
    /// Whether the order counts it.
    pub(super) is_claimed: bool,
}

impl Return {
    /// Whether a request that comes now may be this one.
    fn may_be_back(self, now: Instant) -> bool {
        let told = self.due.saturating_duration_since(self.told);
        self.due <= now + EARLY.min(told / 2)
    }

    /// From when on it claims no slot: whoever was here then has had its own.
    fn is_late_from(self) -> Instant {
        self.slot.clamp(self.due, self.due + LATE)
    }

    /// Whether it comes when its slot has passed, and not only later than it was told to.
    fn has_missed_slot(self, now: Instant) -> bool {
        self.slot.max(self.due) < now
    }

    /// When it is not expected any more.
    pub(super) fn lapses(self) -> Instant {
        self.due + GRACE + self.due.saturating_duration_since(self.told) / 8
    }
}

impl History {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            returns: VecDeque::new(),
            granted: None,
            is_answered: false,
            ended: 0,
            follows_until: now,
            trust: TRUST,
            missed: None,
            gaps: [None; CYCLES],
            until: now + RECENT,
            refused: None,
            look: now + RECENT,
            told: Expected::default(),
        }
    }

    /// A request comes. How long after its caller's last slot, if that has been answered; and what
    /// it is.
    pub(super) fn arrive(&mut self, now: Instant) -> Arrival {
        self.until = now + RECENT;
        if std::mem::replace(&mut self.is_answered, false) {
            let gap = self.granted.map(|granted| now.saturating_duration_since(granted));
            self.gaps.rotate_right(1);
            self.gaps[0] = gap.filter(|gap| *gap <= LONGEST_CYCLE);
        }
        // Several may come at once.
        let is_batch = self.refused.is_none_or(|(_, first)| now < first + AT_ONCE);
        let may_be_back = |first: &Return| first.due <= now || (!is_batch && first.may_be_back(now));
        if self.returns.front().is_some_and(may_be_back) {
            return Arrival::Return;
        }
        if self.ended > 0 {
            self.ended -= 1;
            return Arrival::Further;
        }
        if self.returns.is_empty() || is_batch {
            Arrival::Further
        } else {
            Arrival::Early
        }
    }

    /// It is refused and told to come at `due`, for that slot.
    pub(super) fn refuse(&mut self, due: Instant, slot: Instant, has_room: bool, now: Instant) {
        if has_room && self.returns.len() < MOST_RETURNS {
            let at = self.returns.partition_point(|other| other.due <= due);
            let new = Return {
                due,
                told: now,
                slot,
                is_claimed: false,
            };
            self.returns.insert(at, new);
        }
        let batch = self.refused.filter(|(last, _)| now < *last + AT_ONCE);
        self.refused = Some((now, batch.map_or(now, |(_, first)| first)));
        // One that asks again and again, and obeys, goes on when it is back.
        self.until = self.until.max(due + GRACE);
    }

    /// Takes out one that was to come at `due`.
    pub(super) fn withdraw(&mut self, due: Instant) -> Option<Return> {
        let at = self.returns.iter().position(|one| one.due == due)?;
        self.returns.remove(at)
    }

    /// One of its requests has a slot.
    pub(super) fn granted(&mut self, now: Instant) {
        (self.granted, self.is_answered) = (Some(now), false);
        self.until = now + RECENT;
        self.end(now);
    }

    /// One of its requests has a slot, or left. Another one may follow.
    pub(super) fn end(&mut self, now: Instant) {
        self.ended += 1;
        self.follows_until = now + RECENT;
    }

    /// One that had ended goes on: no other one follows it.
    pub(super) fn goes_on(&mut self) {
        self.ended = self.ended.saturating_sub(1);
    }

    /// Nothing more is expected to follow those that ended long ago.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.follows_until <= now {
            self.ended = 0;
        }
    }

    /// Its call is answered.
    pub(super) fn answered(&mut self, now: Instant) {
        self.is_answered = self.granted.is_some();
        (self.until, self.follows_until) = (now + RECENT, now + RECENT);
    }

    /// Takes out the one of those expected back that a request is.
    pub(super) fn take_out(&mut self, arrival: Arrival, now: Instant) -> Option<Return> {
        match arrival {
            Arrival::Return => {
                let has_missed = self.returns.front().is_some_and(|first| first.has_missed_slot(now));
                self.trust = if has_missed {
                    self.trust / 2
                } else {
                    (self.trust + 1).min(MOST_RETURNS)
                };
                self.returns.pop_front()
            }
            Arrival::Early => self.returns.pop_back(),
            Arrival::Further | Arrival::Again => None,
        }
    }

    /// Takes out one whose time is up. Says whether it was expected to come.
    pub(super) fn lapse(&mut self, now: Instant) -> Option<(Return, bool)> {
        let lapsed = self.returns.pop_front_if(|first| first.lapses() <= now)?;
        let was_expected = self.trust > 0;
        self.trust /= 2;
        self.missed = Some(now);
        Some((lapsed, was_expected))
    }

    /// How many of those expected back claim slots. None while one of them is late.
    pub(super) fn claims(&self, now: Instant) -> usize {
        let is_late = self.returns.front().is_some_and(|first| first.is_late_from() <= now);
        if is_late { 0 } else { self.trust }
    }

    /// What is expected of it, if it has requests that wait (`is_here`) or not. While all its
    /// requests are away it does not ask again.
    pub(super) fn expected(&self, now: Instant, is_here: bool) -> Expected {
        let is_away = !self.returns.is_empty() && !is_here && self.ended == 0;
        let cycle = self.cycle().filter(|_| now < self.until && !is_away);
        let rate = |cycle: Duration| 1_000_000 / cycle.max(SHORTEST_CYCLE).as_millis();
        Expected {
            returning: self.returns.len(),
            loops: usize::from(cycle.is_some()),
            rate: cycle.map_or(0, |cycle| u64::try_from(rate(cycle)).unwrap_or(u64::MAX)),
        }
    }

    /// From a slot to the next request, if it asks again whenever it is answered.
    fn cycle(&self) -> Option<Duration> {
        let longest = self.gaps.iter().copied().max().flatten();
        longest.filter(|_| self.gaps.iter().all(Option::is_some))
    }

    /// When something of this changes by itself.
    pub(super) fn next_look(&self, now: Instant) -> Option<Instant> {
        let overdue = self.returns.front().map(|first| first.is_late_from());
        let lapses = self.returns.front().map(|first| first.lapses());
        let missed = self.missed.map(|at| at + REMEMBERED).filter(|until| *until > now);
        let until = Some(self.until).filter(|until| *until > now);
        let follows = Some(self.follows_until).filter(|_| self.ended > 0);
        let returns = overdue.filter(|at| *at > now).or(lapses);
        until.or(missed).into_iter().chain(returns).chain(follows).min()
    }
}
