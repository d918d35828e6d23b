//! The exact record of calls: the guarantee.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::config::Limit;

/// Names a charge between its issue and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Charge(u64);

/// Every call of the longest window, and the rule that lets another go.
///
/// A call in flight counts in every window. Once it is answered it counts as made at that moment,
/// which is never before it reached the upstream. Memory is bounded by the largest limit there ever
/// was or may come ([`Ledger::remember`]): the rule for a limit of L looks at the L latest calls
/// only.
///
/// A decision costs a look-up per window; ending a charge a binary search and a shift among calls
/// answered about the same time.
#[derive(Clone, Debug)]
pub struct Ledger {
    limits: Vec<Limit>,
    most: usize,
    attempt: Duration,
    /// When each ended call counts as made, ascending.
    past: VecDeque<Instant>,
    /// When each call in flight was issued, in order of issue.
    pending_calls: BTreeMap<Charge, Instant>,
    issued: u64,
    /// So far back every call is remembered: the longest window there ever was.
    horizon: Duration,
    /// A call as late as this may have been forgotten.
    forgotten: Option<Instant>,
}

impl Ledger {
    /// An empty ledger for `limits`; an unanswered call counts as arrived `attempt` after its
    /// issue.
    pub fn new(limits: Vec<Limit>, attempt: Duration) -> Self {
        let most = limits.iter().map(Limit::calls).max().unwrap_or(0);
        Self {
            horizon: limits.last().map_or(Duration::ZERO, Limit::hold),
            forgotten: None,
            limits,
            most,
            attempt,
            past: VecDeque::new(),
            pending_calls: BTreeMap::new(),
            issued: 0,
        }
    }

    /// From when on one more call keeps every window within its limit, unless another charge comes
    /// first. `None`: not before one of the calls in flight ends, which cannot be dated.
    pub fn opening(&self, now: Instant) -> Option<Instant> {
        let mut at = now;
        for limit in &self.limits {
            let room = limit.calls().checked_sub(self.pending_calls.len());
            let room = room.filter(|room| *room > 0)?;
            // The window is full while the `room`-th latest ended call is inside it.
            if let Some(index) = self.past.len().checked_sub(room) {
                at = at.max(self.past[index] + limit.hold());
            }
        }
        Some(at)
    }

    /// Records a call that leaves now. The caller has seen [`Ledger::opening`] at a moment that is
    /// not after `now`.
    pub fn issue(&mut self, now: Instant) -> Charge {
        let charge = Charge(self.issued);
        self.issued += 1;
        self.pending_calls.insert(charge, now);
        charge
    }

    /// The call was answered, or is known to have arrived, by `at`. Ending a charge twice does
    /// nothing.
    pub fn settle(&mut self, charge: Charge, at: Instant) {
        if self.pending_calls.remove(&charge).is_some() {
            self.record(at);
        }
    }

    /// Nobody will learn what became of the call: it counts as arriving as late as it can. So from
    /// now on it is known when it leaves each window. Ending a charge twice does nothing.
    pub fn lose(&mut self, charge: Charge) {
        if let Some(issued) = self.issued_at(charge) {
            self.settle(charge, issued + self.attempt);
        }
    }

    /// No byte of the call was written: it does not count.
    pub fn refund(&mut self, charge: Charge) {
        self.pending_calls.remove(&charge);
    }

    /// Records a call that somebody else made, or that an earlier process made, as of `at`.
    pub fn record(&mut self, at: Instant) {
        let index = self.past.partition_point(|&other| other <= at);
        self.past.insert(index, at);
        if self.past.len() > self.most {
            self.forget_first();
        }
    }

    /// Calls as late as `at` may have been made that nobody recorded.
    pub(super) fn forget_until(&mut self, at: Instant) {
        self.forgotten = self.forgotten.max(Some(at));
    }

    /// Remembers at least so many calls for at least so long from now on, whatever the limits need.
    pub(super) fn remember(&mut self, most: usize, horizon: Duration) {
        self.most = self.most.max(most);
        self.horizon = self.horizon.max(horizon);
    }

    /// Goes on with other limits. Nothing that is remembered is forgotten, so tighter limits hold
    /// at once, and wider ones give no more than they allow.
    ///
    /// A window that reaches further back than memory is taken to be full there. Calls in flight may
    /// have been promised the earlier `attempt`, so a shorter one is not taken over.
    pub fn reconfigure(&mut self, limits: Vec<Limit>, attempt: Duration, now: Instant) {
        self.sweep(now);
        let most = limits.iter().map(Limit::calls).max().unwrap_or(0);
        let horizon = limits.last().map_or(Duration::ZERO, Limit::hold);
        let reaches_further = horizon > self.horizon || most > self.most;
        self.remember(most, horizon);
        self.attempt = self.attempt.max(attempt);
        self.limits = limits;
        if let Some(at) = self.forgotten.filter(|_| reaches_further) {
            let reach = self.limits.iter().filter(|limit| at + limit.hold() > now);
            let full = reach.map(Limit::calls).max().unwrap_or(0);
            let known = self.past.len() - self.past.partition_point(|&other| other < at);
            (known..full).for_each(|_| self.record(at));
        }
    }

    fn forget_first(&mut self) {
        if let Some(at) = self.past.pop_front() {
            self.forget_until(at);
        }
    }

    /// Ends the charges whose fate stayed unknown past their timeout, and forgets what is outside
    /// every window.
    pub fn sweep(&mut self, now: Instant) {
        while let Some((&charge, &issued)) = self.pending_calls.first_key_value() {
            let latest = issued + self.attempt;
            if latest > now {
                break;
            }
            self.settle(charge, latest);
        }
        while self.past.front().is_some_and(|&at| at + self.horizon <= now) {
            self.forget_first();
        }
    }

    /// When [`Ledger::sweep`] next ends a charge by itself.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.pending_calls
            .first_key_value()
            .map(|(_, &issued)| issued + self.attempt)
    }

    /// When nothing counts any more, if no further call is made. Calls in flight are taken to end
    /// as late as they can.
    pub fn empty_at(&self, now: Instant) -> Instant {
        let longest = self.limits.last().map_or(Duration::ZERO, Limit::hold);
        let past = self.past.back().map(|&at| at + longest);
        let pending_calls = self
            .pending_calls
            .last_key_value()
            .map(|(_, &issued)| issued + self.attempt + longest);
        past.into_iter().chain(pending_calls).fold(now, Instant::max)
    }

    /// How many calls count in `limit`'s window now.
    pub fn used(&self, limit: &Limit, now: Instant) -> usize {
        self.usage(limit, now).0
    }

    /// How many calls were made after `from`, or are in flight.
    pub(super) fn since(&self, from: Instant) -> usize {
        self.pending_calls.len() + self.past.len() - self.past.partition_point(|&at| at <= from)
    }

    /// How many calls count in `limit`'s window now, and when their number next falls; `None` when
    /// no ended call is inside.
    pub fn usage(&self, limit: &Limit, now: Instant) -> (usize, Option<Instant>) {
        let first = self.past.partition_point(|&at| at + limit.hold() <= now);
        let back = self.past.get(first).map(|&at| at + limit.hold());
        (self.pending_calls.len() + self.past.len() - first, back)
    }

    /// When a call was issued that is still in flight.
    pub fn issued_at(&self, charge: Charge) -> Option<Instant> {
        self.pending_calls.get(&charge).copied()
    }

    /// The limits, shortest window first.
    pub fn limits(&self) -> &[Limit] {
        &self.limits
    }

    /// How many calls are in flight.
    pub fn in_flight(&self) -> usize {
        self.pending_calls.len()
    }

    /// Ends every call in flight as of `landing` after its issue, but not before `now`: for a
    /// forecast.
    pub(super) fn land_all(&mut self, landing: Duration, now: Instant) {
        for (_, issued) in std::mem::take(&mut self.pending_calls) {
            self.record((issued + landing).max(now));
        }
    }

    /// When each ended call counts as made, ascending.
    pub(super) fn past(&self) -> impl ExactSizeIterator<Item = Instant> + DoubleEndedIterator + '_ {
        self.past.iter().copied()
    }

    /// When each call in flight was issued, ascending.
    pub(super) fn pending_calls(&self) -> impl ExactSizeIterator<Item = Instant> + '_ {
        self.pending_calls.values().copied()
    }
}
