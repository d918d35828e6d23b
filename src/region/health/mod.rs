//! The health of a host.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::region::Backoff;

/// How long other hosts are preferred after one bad answer: long enough that a retry goes
/// elsewhere, and short enough to have no other effect.
const AVOID_TIME: Duration = Duration::from_secs(2);

/// A call to an ejected host is answered within this time, or another call may try.
const HALF_OPEN: Duration = Duration::from_secs(5);

/// Only outcomes younger than this, and at most this many, count.
pub(super) const MEMORY: Duration = Duration::from_mins(2);
pub(super) const MAX_OUTCOMES: usize = 32;

/// A host with at least this many bad outcomes, and at least this share of bad ones, is ejected.
pub(super) const OUTLIER_LEAST: usize = 3;
const OUTLIER_SHARE: f64 = 0.2;

/// The ejections of a host are forgotten after this long without a fault.
const FORGET_AFTER: Duration = Duration::from_mins(5);

/// The health of a host, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum HealthState {
    /// No fault is known.
    Good,
    /// It has just answered badly once.
    Avoided,
    /// It connects, but answers badly too often, or not at all.
    Ejected,
    /// It cannot be connected to.
    Down,
}

impl HealthState {
    /// Whether the host may be the current one.
    pub(super) fn is_usable(self) -> bool {
        self <= Self::Avoided
    }
}

/// The health of a host, from what was observed. All methods take the current time.
#[derive(Debug)]
pub(super) struct Health {
    down: Backoff,
    ejected: Backoff,
    left: Option<Ejection>,
    /// When it was last connected to after it could not be.
    reconnected: Option<Instant>,
    avoided_until: Option<Instant>,
    /// Until then, one call finds out whether an ejected host answers well again.
    half_open_until: Option<Instant>,
    strikes: u32,
    last_fault: Option<Instant>,
    /// The time of each outcome, and whether it was bad.
    outcomes: VecDeque<(Instant, bool)>,
}

#[derive(Clone, Copy, Debug)]
struct Ejection {
    why: HealthState,
    at: Instant,
    until: Instant,
}

impl Health {
    pub(super) fn new(down: Backoff, ejected: Backoff) -> Self {
        Self {
            down,
            ejected,
            left: None,
            reconnected: None,
            avoided_until: None,
            half_open_until: None,
            strikes: 0,
            last_fault: None,
            outcomes: VecDeque::new(),
        }
    }

    pub(super) fn standing(&self, now: Instant) -> HealthState {
        match self.left {
            // Time alone does not bring an unreachable host back; a probe or an answer does.
            Some(left) if left.why == HealthState::Down || now < left.until => left.why,
            Some(_) if self.half_open_until.is_some_and(|until| now < until) => HealthState::Avoided,
            _ if self.avoided_until.is_some_and(|until| now < until) => HealthState::Avoided,
            _ => HealthState::Good,
        }
    }

    /// Whether an ejected host has shown since that it works: by a good answer, or, if it could not
    /// be connected to, by a connection; in any case when its faults are forgotten.
    pub(super) fn has_recovered(&self, now: Instant) -> bool {
        let answered = self.outcomes.iter().any(|(_, bad)| !bad);
        self.standing(now).is_usable() && (!self.is_on_trial() || answered || self.is_forgiven(now))
    }

    /// Whether it was ejected for its answers, and has given no good one since.
    pub(super) fn is_on_trial(&self) -> bool {
        self.left.is_some_and(|left| left.why == HealthState::Ejected)
    }

    /// Whether it could not be connected to just now.
    pub(super) fn in_backoff(&self, now: Instant) -> bool {
        self.is_down() && self.until().is_some_and(|until| now < until)
    }

    fn is_down(&self) -> bool {
        self.left.is_some_and(|left| left.why == HealthState::Down)
    }

    /// Why it was ejected, until it is back.
    pub(super) fn ejection_reason(&self) -> Option<&'static str> {
        self.left.map(|left| match left.why {
            HealthState::Down => "cannot be connected to",
            _ => "answers badly or not at all",
        })
    }

    /// When an ejected host may be tried again.
    pub(super) fn until(&self) -> Option<Instant> {
        self.left.map(|left| left.until)
    }

    /// Whether no fault is known.
    pub(super) fn is_good(&self, now: Instant) -> bool {
        self.standing(now) == HealthState::Good
    }

    /// Whether it was ejected at `since` or later, and still is.
    pub(super) fn was_ejected_since(&self, since: Instant, now: Instant) -> bool {
        !self.standing(now).is_usable() && self.left.is_some_and(|left| left.at >= since)
    }

    /// Records that a call goes there. If the host was ejected before, no other call does until
    /// this one has been answered, or its time is over.
    pub(super) fn start_half_open(&mut self, now: Instant) {
        if self.is_on_trial() && self.standing(now) == HealthState::Good {
            self.half_open_until = Some(now + HALF_OPEN);
        }
    }

    /// Other hosts are preferred for a moment.
    pub(super) fn avoid(&mut self, now: Instant) {
        self.avoid_until(now + AVOID_TIME);
    }

    /// Other hosts are preferred until then.
    pub(super) fn avoid_until(&mut self, until: Instant) {
        self.avoided_until = self.avoided_until.max(Some(until));
    }

    /// There is no reason to avoid it any more.
    pub(super) fn stop_avoiding(&mut self) {
        self.avoided_until = None;
    }

    /// Another host does what this one does not: ejected at once.
    pub(super) fn eject(&mut self, now: Instant) {
        self.avoided_until = None;
        if self.standing(now).is_usable() {
            self.leave(HealthState::Ejected, self.ejected, now);
        }
    }

    /// No connection, in an attempt that began at `begun`: ejected at once.
    pub(super) fn connection_failed(&mut self, begun: Instant, now: Instant) {
        // It was connected to since: the attempt met an outage that is over.
        let is_over = self.reconnected.is_some_and(|at| begun < at);
        // Failures of calls that were under way together count as one.
        if !is_over && !self.in_backoff(now) {
            self.leave(HealthState::Down, self.down, now);
        }
    }

    /// A bad answer that is the host's fault, or none: the host is avoided for a moment, and
    /// ejected when it happens too often, or again soon after it came back.
    pub(super) fn bad_answer(&mut self, now: Instant) {
        self.record(now, true);
        self.avoid(now);
        if !self.standing(now).is_usable() {
            return;
        }
        let bad = self.outcomes.iter().filter(|(_, bad)| *bad).count();
        let often = bad >= OUTLIER_LEAST && bad as f64 >= OUTLIER_SHARE * self.outcomes.len() as f64;
        let on_trial = self.left.is_some() || (self.strikes > 0 && !self.is_forgiven(now));
        if often || on_trial {
            self.leave(HealthState::Ejected, self.ejected, now);
        }
    }

    /// A bad answer to a request that another host answered: two of them are enough to be ejected
    /// when there is no good one.
    pub(super) fn outdone(&mut self, now: Instant) {
        self.bad_answer(now);
        if self.outcomes.len() > 1 && self.outcomes.iter().all(|(_, bad)| *bad) {
            self.eject(now);
        }
    }

    /// A good answer to a call that was sent at `begun`, which is better evidence than any probe.
    /// It ends an ejection also before its time when the call was sent after it, because there was
    /// no better host; a late answer to an earlier call says nothing.
    pub(super) fn answered(&mut self, begun: Instant, now: Instant) {
        let is_late = |left: Ejection| left.why == HealthState::Ejected && begun <= left.at && now < left.until;
        if self.left.is_some_and(is_late) {
            return;
        }
        self.record(now, false);
        if self.left.is_some() {
            self.come_back(now);
            self.half_open_until = None;
        }
    }

    /// A response that does not say whether it can answer: it can be reached, and that is all.
    pub(super) fn responded(&mut self, now: Instant) {
        if self.is_down() {
            self.come_back(now);
        }
    }

    /// A probe connected. That brings an unreachable host back, after its time; it says nothing
    /// about bad answers.
    pub(super) fn connected(&mut self, now: Instant) {
        if self.is_down() && !self.in_backoff(now) {
            self.come_back(now);
        }
    }

    fn come_back(&mut self, now: Instant) {
        let Some(left) = self.left.take() else { return };
        // It is forgiven counted from when it could be used again.
        self.last_fault = Some(left.until.min(now));
        if left.why == HealthState::Down {
            self.reconnected = Some(now);
        }
    }

    fn leave(&mut self, why: HealthState, backoff: Backoff, now: Instant) {
        if self.is_forgiven(now) {
            self.strikes = 0;
        }
        let time = backoff
            .first
            .saturating_mul(1 << self.strikes.min(16))
            .min(backoff.longest);
        self.left = Some(Ejection {
            why,
            at: now,
            until: now + time,
        });
        self.half_open_until = None;
        self.strikes += 1;
        self.last_fault = Some(now);
        // It starts without its earlier outcomes.
        self.outcomes.clear();
    }

    fn is_forgiven(&self, now: Instant) -> bool {
        // Counted from when it could have been used again, not from when it was ejected.
        let since = self.until().max(self.last_fault);
        since.is_none_or(|since| now.saturating_duration_since(since) >= FORGET_AFTER)
    }

    fn record(&mut self, now: Instant, bad: bool) {
        while self
            .outcomes
            .front()
            .is_some_and(|(at, _)| now.saturating_duration_since(*at) >= MEMORY)
            || self.outcomes.len() >= MAX_OUTCOMES
        {
            self.outcomes.pop_front();
        }
        self.outcomes.push_back((now, bad));
    }
}

#[cfg(test)]
mod tests;
