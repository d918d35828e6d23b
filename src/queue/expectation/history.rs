//! What is known of one caller: its requests that were refused, and whether it asks again whenever it is answered.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;

use crate::queue::order::Expected;

/// Nothing is expected of a caller that has not asked for so long.
pub(super) const RECENT: Duration = Duration::from_secs(10);

/// A caller that asks again so soon after its slot, so often in a row, asks again whenever it is answered. Callers that come at random do
/// that rarely.
const LONGEST_CYCLE: Duration = Duration::from_secs(5);
const CYCLES: usize = 3;

/// A return this much too early is on time.
const EARLY: Duration = Duration::from_secs(1);

/// A return is expected until so much later than it was told to come, and an eighth of what it was told.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// Requests of one caller that come within this time are different ones, not one that does not obey.
pub(super) const AT_ONCE: Duration = Duration::from_secs(1);

/// A caller cannot be thought to ask more often than this.
const SHORTEST_CYCLE: Duration = Duration::from_millis(1);

/// A caller whose refused requests do not come back has no turns kept for so long, for each that did not come and was not made up for by
/// one that did.
pub(super) const DISTRUST: Duration = Duration::from_mins(1);
pub(super) const MOST_MISSED: u32 = 10;

/// When so many in a row have not come back, none of the caller's is expected any more.
const MISSED_IN_A_ROW: u32 = 2;

/// What a request is to those that are expected of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::queue) enum Arrival {
    /// One that was refused, and comes when it was told to.
    Return,
    /// One that was refused, and comes too early.
    Early,
    /// Another one.
    Further,
    /// One that waited until its place was taken back.
    Displaced,
}

#[derive(Debug)]
pub(super) struct History {
    /// Ascending by when they are due.
    pub(super) returns: VecDeque<Return>,
    /// When it had its last slot.
    pub(super) granted: Option<Instant>,
    /// Whether the call has been answered since.
    pub(super) is_answered: bool,
    /// Requests that ended, served or not, and have not been followed by another one.
    pub(super) ended: usize,
    /// These are, or nothing is expected to follow them.
    pub(super) follows_until: Instant,
    /// Requests that did not come back, less those that did.
    pub(super) missed: u32,
    /// No turns are kept for it until then.
    pub(super) distrusted: Option<Instant>,
    /// From a slot to the next request, the last few times.
    pub(super) gaps: [Option<Duration>; CYCLES],
    /// Until then it is expected to ask again, if it ever did.
    pub(super) until: Instant,
    /// When one of its requests was refused last, and the first of those that were refused one right after the other.
    pub(super) refused: Option<(Instant, Instant)>,
    pub(super) look: Instant,
    pub(super) told: Expected,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Return {
    pub(super) due: Instant,
    pub(super) told: Instant,
}

impl Return {
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
            missed: 0,
            distrusted: None,
            gaps: [None; CYCLES],
            until: now + RECENT,
            refused: None,
            look: now + RECENT,
            told: Expected::default(),
        }
    }

    /// A request comes: how long after its caller's last slot, if that has been answered.
    pub(super) fn observe(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.is_answered, false) {
            return;
        }
        let gap = self.granted.map(|granted| now.saturating_duration_since(granted));
        self.gaps.rotate_right(1);
        self.gaps[0] = gap.filter(|gap| *gap <= LONGEST_CYCLE);
    }

    /// From a slot to the next request, if it asks again whenever it is answered.
    pub(super) fn cycle(&self) -> Option<Duration> {
        let longest = self.gaps.iter().copied().max().flatten();
        longest.filter(|_| self.gaps.iter().all(Option::is_some))
    }

    /// What a request is that comes now.
    pub(super) fn classify(&mut self, now: Instant) -> Arrival {
        if self.returns.front().is_some_and(|first| first.due <= now + EARLY) {
            return Arrival::Return;
        }
        if self.ended > 0 {
            self.ended -= 1;
            return Arrival::Further;
        }
        // Several may come at once.
        let is_batch = self.refused.is_none_or(|(_, first)| now < first + AT_ONCE);
        if self.returns.is_empty() || is_batch {
            Arrival::Further
        } else {
            Arrival::Early
        }
    }

    /// One of its requests has a slot, or left. Another one may follow.
    pub(super) fn end(&mut self, now: Instant) {
        self.ended += 1;
        self.follows_until = now + RECENT;
    }

    /// Takes out the one of those expected back that a request is.
    pub(super) fn take_out(&mut self, arrival: Arrival) -> Option<Return> {
        match arrival {
            Arrival::Return => {
                self.missed = self.missed.saturating_sub(1);
                self.returns.pop_front()
            }
            Arrival::Early => self.returns.pop_back(),
            Arrival::Further | Arrival::Displaced => None,
        }
    }

    /// Those that are expected back and come to lie before a request.
    pub(super) fn returns_before(&self, arrival: Arrival) -> Range<usize> {
        let all = self.returns.len();
        match arrival {
            Arrival::Return => 1.min(all)..all,
            Arrival::Early => 0..all.saturating_sub(1),
            Arrival::Further | Arrival::Displaced => 0..all,
        }
    }

    pub(super) fn is_trusted(&self, now: Instant) -> bool {
        self.missed == 0 || self.distrusted.is_none_or(|until| until <= now)
    }

    /// One did not come back. Returns how many more are not expected any more.
    pub(super) fn miss(&mut self, now: Instant) -> usize {
        self.missed = (self.missed + 1).min(MOST_MISSED);
        self.distrusted = Some(now + DISTRUST * self.missed);
        if self.missed < MISSED_IN_A_ROW {
            0
        } else {
            self.returns.len()
        }
    }

    pub(super) fn expected(&self, now: Instant, is_here: bool) -> Expected {
        let cycle = self.cycle().filter(|_| now < self.until && self.is_trusted(now));
        let rate = |cycle: Duration| 1_000_000 / cycle.max(SHORTEST_CYCLE).as_millis();
        Expected {
            returning: self.returns.len(),
            loops: usize::from(cycle.is_some()),
            rate: cycle.map_or(0, |cycle| u64::try_from(rate(cycle)).unwrap_or(u64::MAX)),
            away_until: cycle
                .and(self.returns.front())
                .map(|first| first.due)
                .filter(|_| !is_here && self.ended == 0),
        }
    }

    pub(super) fn next_look(&self, now: Instant) -> Option<Instant> {
        let lapses = self.returns.front().map(|first| first.lapses());
        let distrusted = self.distrusted.filter(|until| self.missed > 0 && *until > now);
        let until = Some(self.until).filter(|until| *until > now);
        // A caller that is not trusted is remembered for that long.
        let follows = Some(self.follows_until).filter(|_| self.ended > 0);
        until.or(distrusted).into_iter().chain(lapses).chain(follows).min()
    }
}
