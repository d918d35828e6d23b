//! Ledger, bucket and pause as one state: may a call go now, and if not, when?

use std::time::Duration;

use tokio::time::Instant;

use super::config::{Config, Limit, Pacing, UnknownPast};
use super::foreign::{Foreign, LAST_PROBE};
use super::latency_estimator::Latency;
use super::ledger::{Availability, Charge, Ledger};
use super::long_window::Span;
use super::pacer::{BucketState, Others, Pacer, WindowBudget};
use super::slow_start::SlowStart;

/// The state of the quota. Driven by explicit moments, never by a clock of its own; moments must
/// not go backwards.
#[derive(Clone, Debug)]
pub struct QuotaState {
    pub(super) ledger: Ledger,
    pub(super) pace: Pacer,
    pub(super) throttle: ThrottleState,
    pub(super) latency: Latency,
    pub(super) foreign: Foreign,
    /// While there is one, it holds calls back besides.
    pub(super) slow_start: Option<SlowStart>,
    /// From when on the bucket does not hold calls back; `None`: never.
    pub(super) unpaced_from: Option<Instant>,
    calls: u64,
}

/// What an upstream 429 does to everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ThrottleState {
    /// No 429 is known.
    Open,
    /// No call before that moment.
    Paused { until: Instant },
    /// The pause is over; one call finds out whether the upstream agrees, the others wait for its
    /// answer.
    Probing { probe: Charge },
}

/// The calls of so long tell how many to expect: callers that poll come back at least that often,
/// and those who wait show in them.
const DEMAND: Duration = Duration::from_secs(10);

/// Most plans that are made up for at one look. A plan mostly lasts for many returns; the bound
/// keeps the look short.
const MISSED_PLANS: usize = 64;

impl QuotaState {
    /// How long after its end a cut call's bytes may still reach the upstream.
    pub(super) const LANDING: Duration = Duration::from_secs(1);

    /// A fresh state. What it assumes of the past is the configuration's `unknown_past`.
    pub fn new(config: &Config, now: Instant) -> Self {
        let mut ledger = Ledger::new(config.limits.clone(), config.attempt + Self::LANDING);
        let level = match config.unknown_past {
            UnknownPast::Empty => config.burst.get(),
            UnknownPast::Paced => config.burst.get() / 10,
            UnknownPast::Full => {
                let most = config.limits.iter().map(Limit::calls).max().unwrap_or(0);
                // An earlier process's last call may still be on its way for as long as an attempt
                // takes.
                (0..most).for_each(|_| ledger.record(now + config.attempt));
                ledger.forget_until(now + config.attempt);
                0
            }
        };
        Self {
            unpaced_from: unpaced_from(config, now),
            ..Self::of(ledger, Pacer::new(config.burst, level, now))
        }
    }

    /// A state that knows of no 429.
    pub(super) fn of(ledger: Ledger, pace: Pacer) -> Self {
        Self {
            ledger,
            pace,
            throttle: ThrottleState::Open,
            latency: Latency::START,
            foreign: Foreign::default(),
            slow_start: None,
            unpaced_from: None,
            calls: 0,
        }
    }

    /// Goes on with other limits, burst and attempt; see [`Ledger::reconfigure`]. What a cold start
    /// assumes is no question any more.
    pub fn reconfigure(&mut self, config: &Config, now: Instant) {
        self.catch_up(now);
        if self.ledger.limits().last() != config.limits.last() {
            // What fitted beside others was found out about another window.
            self.foreign = Foreign::default();
        }
        self.unpaced_from = match config.pacing {
            Pacing::Spread => None,
            // A slow start goes on to its end.
            Pacing::None => self.unpaced_from.or(Some(now)),
        };
        self.ledger
            .reconfigure(config.limits.clone(), config.attempt + Self::LANDING, now);
        self.pace.resize(config.burst, now);
    }

    /// Takes the slot that is free now.
    ///
    /// # Errors
    /// When there is none: the moment to ask again, or `None` when only the end of a call in flight
    /// can help.
    pub fn take(&mut self, now: Instant) -> Result<Charge, Option<Instant>> {
        match self.opens_at(now) {
            Some(at) if at <= now => {
                let charge = self.ledger.issue(now);
                self.pace.take(now);
                self.calls += 1;
                if let Some(start) = &mut self.slow_start {
                    start.issue(now);
                }
                if let ThrottleState::Paused { .. } = self.throttle {
                    // Paused → Probing: the first call after the pause.
                    self.throttle = ThrottleState::Probing { probe: charge };
                }
                Ok(charge)
            }
            other => Err(other),
        }
    }

    /// When the next call may go, as far as known now; `None` when only the end of a call in flight
    /// can tell.
    pub fn opens_at(&mut self, now: Instant) -> Option<Instant> {
        // Before the sweep, which forgets the returns that these plans are made of.
        self.catch_up(now);
        self.ledger.sweep(now);
        let opens = match self.throttle {
            ThrottleState::Open => now,
            ThrottleState::Paused { until } => until.max(now),
            // Probing → Open: the probe's fate stayed unknown past its timeout; nobody said 429.
            ThrottleState::Probing { probe } if self.ledger.issued_at(probe).is_none() => {
                self.throttle = ThrottleState::Open;
                now
            }
            ThrottleState::Probing { .. } => return None,
        };
        let opens = self.slow_start.map_or(opens, |start| start.opens_at().max(opens));
        let Availability::At(at) = self.ledger.opening(now) else {
            return None;
        };
        if self.is_unpaced(now) {
            return Some(at.max(opens));
        }
        if self.pace.is_due(now) {
            self.replan(now);
        }
        let bucket = self.pace.opens_at(now).into_iter().chain(self.next_plan(now));
        let bucket = bucket.chain(self.next_room(now)).min()?;
        Some(at.max(opens).max(bucket))
    }

    /// The call was answered at `now`, and not with a 429. Returns whether slots may come later or
    /// sooner than forecast: the answer took longer than the forecast allows for, a pause is over,
    /// or others use less than was thought. An early answer changes nothing until its window is
    /// over.
    pub fn settle(&mut self, charge: Charge, now: Instant) -> bool {
        let mut upsets = self.throttle != ThrottleState::Open;
        if let Some(issued) = self.ledger.issued_at(charge) {
            let took = now.saturating_duration_since(issued);
            upsets |= took > self.latency.bound();
            self.latency.observe(took.as_secs_f64());
        }
        self.ledger.settle(charge, now);
        self.after_probe(charge);
        if self.throttle == ThrottleState::Open {
            upsets |= self.slow_start.is_some();
            self.slow_start.take_if(SlowStart::accept);
            upsets |= self.accepted(now);
        } else {
            self.foreign.answered_late();
        }
        upsets
    }

    /// No byte of the call was written: the slot is free again.
    pub fn refund(&mut self, charge: Charge, now: Instant) {
        if self.ledger.issued_at(charge).is_some() {
            self.ledger.refund(charge);
            self.calls = self.calls.saturating_sub(1);
            self.pace.put_back(now);
            if let Some(start) = &mut self.slow_start {
                start.refund();
            }
            self.pace.invalidate();
            self.again_probe(charge, now);
        }
    }

    /// Nobody will learn what became of the call: see [`Ledger::lose`]. Slots may come sooner or
    /// later than forecast.
    pub fn lose(&mut self, charge: Charge, now: Instant) {
        self.again_probe(charge, now);
        self.ledger.lose(charge);
        self.pace.invalidate();
    }

    /// A state that knows the calls of earlier processes, `past` in ascending order, and goes on
    /// as they would have: with the bucket as it was last written down. What an hour of calls
    /// leaves in the bucket depends on the hour before, so it cannot be computed from `past`.
    /// Without a bucket it starts empty.
    pub fn resume(config: &Config, past: &[Instant], bucket: Option<(Instant, BucketState)>, now: Instant) -> Self {
        let mut quota_state = Self::new(&config.clone().unknown_past(UnknownPast::Empty), now);
        for at in past {
            quota_state.ledger.record(*at);
        }
        let longest = config.limits.last().map_or(Duration::ZERO, Limit::hold);
        quota_state.pace = match bucket {
            Some((at, filling)) => {
                let end = at.min(now) + filling.lasts.min(longest);
                Pacer::kept(config.burst, filling.level, filling.rate, end, at.min(now))
            }
            None => Pacer::new(config.burst, 0, now),
        };
        quota_state
    }

    /// Until when everybody waits because the upstream said 429.
    pub fn paused_until(&self) -> Option<Instant> {
        match self.throttle {
            ThrottleState::Paused { until } => Some(until),
            ThrottleState::Open | ThrottleState::Probing { .. } => None,
        }
    }

    /// When this state, if no further call is made, is as good as a fresh one: no call counts any
    /// more and no pause is ordered.
    pub fn empty_at(&self, now: Instant) -> Instant {
        self.paused_until()
            .map_or(now, |until| until.max(now))
            .max(self.ledger.empty_at(now))
    }

    /// Calls of this process that were not refunded.
    pub fn calls(&self) -> u64 {
        self.calls
    }

    /// Whether calls that nobody waits for may be made: half of every window is unused, and the
    /// bucket holds half of what it can hold, or more than what was called for lately. A bucket
    /// that starts low after a restart fills slowly; as long as few callers come, that is no reason
    /// to leave the windows unused.
    pub fn has_surplus(&mut self, now: Instant) -> bool {
        let is_open = self.opens_at(now).is_some_and(|at| at <= now);
        let limits = self.ledger.limits();
        let unused = |limit: &Limit| self.ledger.used(limit, now) * 2 <= limit.calls();
        let lately = now.checked_sub(DEMAND).map_or(0, |from| self.ledger.since(from)) as f64;
        let has_more = self.pace.is_half_full(now) || self.pace.level_at(now) >= lately + 1.0;
        is_open && has_more && limits.iter().all(unused)
    }

    /// Calls in flight end by themselves at that moment; whoever waits for a slot should look again
    /// then.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.ledger.next_timeout()
    }

    /// Whether calls leave as long as the windows have room, however little the bucket holds. What
    /// others are estimated to use is no room: without what is left beside them, the bucket finds
    /// out whether they still do.
    pub fn is_unpaced(&self, now: Instant) -> bool {
        self.unpaced_from.is_some_and(|from| from <= now) && self.is_room_beside_others(now)
    }

    /// Without pacing, the next moment at which there may be room beside others.
    fn next_room(&self, now: Instant) -> Option<Instant> {
        self.unpaced_from.filter(|from| *from <= now)?;
        self.ledger.next_return(self.ledger.limits().last()?, now)
    }

    /// The end of the present plan, when the bucket would otherwise stay empty past it.
    fn next_plan(&self, now: Instant) -> Option<Instant> {
        self.pace.plan_end().filter(|end| *end > now)
    }

    /// Makes the plans that were due while nobody looked, each for its own moment: whoever was told
    /// to come back finds what was forecast, whether or not others asked in between.
    fn catch_up(&mut self, now: Instant) {
        for _ in 0..MISSED_PLANS {
            match self.pace.plan_end() {
                Some(end) if end < now => self.replan(end),
                _ => return,
            }
        }
    }

    fn replan(&mut self, now: Instant) {
        let Some(longest) = self.ledger.limits().last().cloned() else {
            return;
        };
        let landing = self.latency.landing(&longest);
        let past = self.ledger.past().filter(|at| *at + longest.hold() > now);
        let landed = self.ledger.pending_calls().map(|issued| (issued + landing).max(now));
        let returns: Vec<Instant> = past.chain(landed).map(|at| at + longest.hold()).collect();
        let free = longest.calls().saturating_sub(returns.len()) as f64;
        let span = Span::of(self.ledger.limits());
        let others = span.filter(|span| self.foreign.respected(span) > 0.0);
        if let Some(span) = &others {
            self.foreign.planned(span);
        }
        let room = others.map_or(free, |span| self.foreign.room(&span, returns.len(), now));
        let supply = WindowBudget {
            free: room.clamp(0.0, free),
            returns: &returns,
            window: longest.hold(),
            others: others.map(|span| Others {
                calls: self.foreign.calls(&span),
                most: longest.calls() as f64,
                // What is not spread leaves in bursts, and then nothing returns for long.
                least: self
                    .unpaced_from
                    .map_or(f64::INFINITY, |_| 1.0 / LAST_PROBE.as_secs_f64()),
                holes: self.foreign.holes(),
            }),
        };
        self.pace.plan(now, supply);
    }

    /// Probing → Paused, but for no longer: the probe brought no answer, so another call has to
    /// find out.
    fn again_probe(&mut self, charge: Charge, now: Instant) {
        if self.throttle == (ThrottleState::Probing { probe: charge }) {
            self.throttle = ThrottleState::Paused { until: now };
        }
    }

    /// Probing → Open: the probe was answered.
    fn after_probe(&mut self, charge: Charge) {
        if self.throttle == (ThrottleState::Probing { probe: charge }) {
            self.throttle = ThrottleState::Open;
        }
    }
}

/// From when on the bucket does not hold calls back. A slow start, whose bucket stands in for calls
/// that nobody remembers, lasts for as long as one of them may count.
fn unpaced_from(config: &Config, now: Instant) -> Option<Instant> {
    let longest = config.limits.last().map_or(Duration::ZERO, Limit::hold);
    match (config.pacing, config.unknown_past) {
        (Pacing::Spread, _) => None,
        (Pacing::None, UnknownPast::Paced) => Some(now + config.attempt + longest),
        (Pacing::None, UnknownPast::Empty | UnknownPast::Full) => Some(now),
    }
}
