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
const MEMORY: Duration = Duration::from_mins(2);
const MAX_OUTCOMES: usize = 32;

/// A host with at least this many bad outcomes, and at least this share of bad ones, is ejected.
const OUTLIER_LEAST: usize = 3;
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

    /// Why a host in this state is not used.
    pub(super) fn ejection_reason(self) -> Option<&'static str> {
        match self {
            Self::Good | Self::Avoided => None,
            Self::Ejected => Some("answers badly or not at all"),
            Self::Down => Some("cannot be connected to"),
        }
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
        let on_trial = self.left.is_some_and(|left| left.why == HealthState::Ejected);
        let answered = self.outcomes.iter().any(|(_, bad)| !bad);
        self.standing(now).is_usable() && (!on_trial || answered || self.is_forgiven(now))
    }

    /// Whether it could not be connected to just now.
    pub(super) fn in_backoff(&self, now: Instant) -> bool {
        self.standing(now) == HealthState::Down && self.until().is_some_and(|until| now < until)
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
        if self.left.is_some_and(|left| left.why == HealthState::Ejected) && self.standing(now) == HealthState::Good {
            self.half_open_until = Some(now + HALF_OPEN);
        }
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
        if self.reconnected.is_some_and(|at| begun < at) {
            return;
        }
        // Failures of calls that were under way together count as one.
        if self
            .left
            .is_some_and(|left| left.why == HealthState::Down && now < left.until)
        {
            return;
        }
        self.leave(HealthState::Down, self.down, now);
    }

    /// A bad answer, or none: the host is avoided for a moment, and ejected when it happens too
    /// often, or again soon after it came back.
    pub(super) fn bad_answer(&mut self, now: Instant) {
        self.record(now, true);
        self.avoid_until(now + AVOID_TIME);
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

    /// The latest bad answer was not the host's fault. An ejection that it led to remains.
    pub(super) fn take_back(&mut self) {
        if let Some(latest) = self.outcomes.iter().rposition(|(_, bad)| *bad) {
            self.outcomes.remove(latest);
        }
        self.stop_avoiding();
    }

    /// A good answer, which is better evidence than any probe.
    pub(super) fn answered(&mut self, now: Instant) {
        self.record(now, false);
        if self
            .left
            .is_some_and(|left| left.why == HealthState::Down || now >= left.until)
        {
            self.come_back(now);
            self.half_open_until = None;
        }
    }

    /// A probe connected. That brings an unreachable host back, after its time; it says nothing
    /// about bad answers.
    pub(super) fn connected(&mut self, now: Instant) {
        if self
            .left
            .is_some_and(|left| left.why == HealthState::Down && now >= left.until)
        {
            self.come_back(now);
        }
    }

    fn come_back(&mut self, now: Instant) {
        if self.left.take().is_some_and(|left| left.why == HealthState::Down) {
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
mod tests {
    use super::*;

    fn fresh() -> Health {
        let backoff = |first, longest| Backoff {
            first: s(first),
            longest: s(longest),
        };
        Health::new(backoff(1, 60), backoff(30, 600))
    }

    fn s(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_connection_leaves_at_once_and_a_probe_after_the_backoff_brings_back() {
        let now = Instant::now();
        let mut health = fresh();
        health.connection_failed(now, now);
        assert_eq!(health.standing(now), HealthState::Down);
        health.connected(now + s(1) / 2);
        assert_eq!(health.standing(now + s(1) / 2), HealthState::Down, "too early");
        assert_eq!(
            health.standing(now + s(600)),
            HealthState::Down,
            "time alone is not enough"
        );
        health.connected(now + s(1));
        assert_eq!(health.standing(now + s(1)), HealthState::Good);
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_from_before_it_came_back_says_nothing() {
        let now = Instant::now();
        let mut health = fresh();
        health.connection_failed(now, now);
        let back = now + s(4);
        health.connected(back);
        health.connection_failed(back - s(2), back + s(1));
        assert_eq!(health.standing(back + s(1)), HealthState::Good);
        health.connection_failed(back, back + s(3));
        assert_eq!(health.standing(back + s(3)), HealthState::Down);
        health.answered(back + s(4));
        health.connection_failed(back + s(3), back + s(6));
        assert_eq!(health.standing(back + s(6)), HealthState::Good, "an answer too");
    }

    #[tokio::test(start_paused = true)]
    async fn the_backoff_doubles_to_a_minute_and_is_forgiven() {
        let mut now = Instant::now();
        let mut health = fresh();
        let mut waits = Vec::new();
        for _ in 0..8 {
            health.connection_failed(now, now);
            health.connection_failed(now, now);
            let until = health.until().unwrap();
            waits.push((until - now).as_secs());
            now = until;
            health.connected(now);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        now += FORGET_AFTER;
        health.connection_failed(now, now);
        assert_eq!(health.until(), Some(now + s(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn one_bad_answer_is_avoided_for_a_moment_and_three_are_left() {
        let now = Instant::now();
        let mut health = fresh();
        health.bad_answer(now);
        assert_eq!(health.standing(now), HealthState::Avoided);
        assert_eq!(health.standing(now + AVOID_TIME), HealthState::Good);
        health.bad_answer(now + s(10));
        health.answered(now + s(15));
        health.bad_answer(now + s(20));
        assert_eq!(health.standing(now + s(20)), HealthState::Ejected);
        health.connected(now + s(25));
        assert_eq!(
            health.standing(now + s(49)),
            HealthState::Ejected,
            "a connection is no good answer"
        );
        assert_eq!(health.standing(now + s(50)), HealthState::Good);
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_back_on_trial_is_left_again_at_the_first_bad_answer_for_twice_as_long() {
        let now = Instant::now();
        let mut health = fresh();
        for n in 0..3 {
            health.bad_answer(now + s(n));
        }
        let back = health.until().unwrap();
        health.answered(back);
        health.bad_answer(back + s(1));
        assert_eq!(health.standing(back + s(60)), HealthState::Ejected);
        assert_eq!(health.standing(back + s(61)), HealthState::Good);
    }

    #[tokio::test(start_paused = true)]
    async fn few_bad_answers_among_many_good_ones_are_borne() {
        let now = Instant::now();
        let mut health = fresh();
        for n in 0..1000 {
            let at = now + s(n);
            if n % 8 == 0 {
                health.bad_answer(at);
            } else {
                health.answered(at);
            }
            assert!(health.standing(at).is_usable(), "after {n} s");
        }
        assert!(health.outcomes.len() <= MAX_OUTCOMES);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_brings_an_unreachable_host_back() {
        let now = Instant::now();
        let mut health = fresh();
        health.connection_failed(now, now);
        health.answered(now);
        assert_eq!(health.standing(now), HealthState::Good);
    }
}
