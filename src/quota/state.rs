//! Ledger, bucket and pause as one state: may a call go now, and if not, when?
//!
//! After a 429 everybody pauses, and one call finds out whether the pause is over
//! ([`ThrottleState`]); [`super::foreign`] estimates the others who use the same quota.

use std::time::Duration;

use tokio::time::Instant;

use super::config::{Config, Limit, Pacing, UnknownPast};
use super::forecast::Latency;
use super::foreign::{Change, Foreign};
use super::ledger::{Charge, Ledger};
use super::long_window::{OwnCalls, unpaced_from};
use super::pacer::{BucketState, Pacer};
use super::slow_start::SlowStart;
use super::throttle_hint::{Named, ThrottleHint, Which};

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
    /// Which app registration the calls are made as.
    registration: u64,
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

impl QuotaState {
    /// How long after its end a cut call's bytes may still reach the upstream.
    pub(super) const LANDING: Duration = Duration::from_secs(1);

    /// A fresh state. What it assumes of the past is the configuration's `unknown_past`.
    pub fn new(config: &Config, now: Instant) -> Self {
        let mut ledger = Ledger::new(config.limits.clone(), config.attempt + Self::LANDING);
        let (most, horizon) = config.memory();
        ledger.remember(most, horizon);
        if config.unknown_past == UnknownPast::Full {
            let most = config.limits.iter().map(Limit::calls).max().unwrap_or(0);
            // An earlier process's last call may still be on its way for as long as an attempt takes.
            (0..most).for_each(|_| ledger.record(now + config.attempt));
            ledger.forget_until(now + config.attempt);
        }
        Self {
            unpaced_from: unpaced_from(config, now),
            ..Self::of(ledger, Pacer::new(config.burst, config.first_level(), now))
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
            registration: 0,
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

    /// The calls go on as another app registration, of which nothing is known: what refusals have
    /// left is forgotten.
    pub(super) fn forget_refusals(&mut self, registration: u64) {
        self.throttle = ThrottleState::Open;
        self.foreign = Foreign::default();
        self.slow_start = None;
        self.registration = registration;
        self.pace.invalidate();
    }

    /// Whether a call made as this app registration tells something of the present one. Whoever
    /// waited when it became another one may still call as the one before. `None`: it was not said.
    pub(super) fn is_registration(&self, registration: Option<u64>) -> bool {
        registration.is_none_or(|registration| registration == self.registration)
    }

    /// The call was answered to another app registration: it counts, and tells nothing else.
    pub(super) fn settle_for_another(&mut self, charge: Charge, now: Instant) {
        self.without_answer(charge, now);
        self.ledger.settle(charge, now);
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
        self.slow_start.take_if(|start| start.is_over(now));
        let opens = self.slow_start.map_or(opens, |start| start.opens_at().max(opens));
        let at = self.ledger.opening(now)?;
        if self.is_unpaced(now) {
            return Some(at.max(opens));
        }
        Some(at.max(opens).max(self.bucket_opens_at(now)?))
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
        let was_probe = self.after_probe(charge);
        if self.throttle == ThrottleState::Open {
            upsets |= self.slow_start.is_some();
            self.slow_start.take_if(SlowStart::accept);
            upsets |= self.accepted(now);
            if was_probe {
                self.start_slowly(now);
            }
        } else {
            self.foreign.answered_late();
        }
        upsets
    }

    /// Begins a slow start after a probe, unless there is one: the pause may be older than this
    /// process.
    pub(super) fn start_slowly(&mut self, now: Instant) {
        if self.slow_start.is_none() {
            self.slow_start = self
                .span()
                .map(|(_, span)| SlowStart::new(self.pace.burst(), span.short, now));
        }
    }

    /// No byte of the call was written: the slot is free again.
    pub fn refund(&mut self, charge: Charge, now: Instant) {
        if self.ledger.issued_at(charge).is_some() {
            self.without_answer(charge, now);
            self.ledger.refund(charge);
            self.calls = self.calls.saturating_sub(1);
            self.pace.put_back(now);
        }
    }

    /// Nobody will learn what became of the call: see [`Ledger::lose`]. Slots may come sooner or
    /// later than forecast.
    pub fn lose(&mut self, charge: Charge, now: Instant) {
        self.without_answer(charge, now);
        self.ledger.lose(charge);
    }

    /// The upstream answered 429: everybody pauses, for as long as it says; when it does not say,
    /// until a probe, the next ones ever later. Returns until when. The ledger holds our own calls
    /// only: what others use is an estimate that slows the pace.
    ///
    /// A call that had left before the pause was ordered tells nothing new, but a wait that it
    /// names is kept.
    pub fn throttled(&mut self, charge: Charge, answer: ThrottleHint, now: Instant) -> Instant {
        let is_news =
            self.throttle == ThrottleState::Open || self.throttle == (ThrottleState::Probing { probe: charge });
        self.ledger.settle(charge, now);
        let named = self.read(answer, now);
        let until = match self.span() {
            Some((longest, span)) if is_news => {
                let own = OwnCalls::of(&self.ledger, &longest, now);
                now + self.foreign.refused(&span, named, own, now)
            }
            _ => {
                self.foreign.refused_late();
                now + answer.wait.unwrap_or_default().min(ThrottleHint::LONGEST_WAIT)
            }
        };
        self.pace.invalidate();
        self.slow_start = None;
        match self.throttle {
            // The probe that is under way finds out.
            ThrottleState::Probing { .. } if !is_news && answer.wait.is_none() => return now,
            // A later 429 may extend the pause, never shorten it.
            ThrottleState::Paused { until: before } => {
                self.throttle = ThrottleState::Paused {
                    until: before.max(until),
                };
            }
            ThrottleState::Probing { .. } | ThrottleState::Open => self.throttle = ThrottleState::Paused { until },
        }
        self.paused_until().unwrap_or(until)
    }

    /// The upstream accepts calls. Returns whether the pace has to be planned anew.
    pub(super) fn accepted(&mut self, now: Instant) -> bool {
        if self.foreign.is_quiet() {
            return false;
        }
        let Some((longest, span)) = self.span() else {
            return false;
        };
        let own = OwnCalls::of(&self.ledger, &longest, now);
        match self.foreign.accepted(&span, own, now) {
            Change::None => return false,
            Change::Estimate => {}
            Change::Trial => {
                self.pace.have_one(now);
                return true;
            }
            Change::Resumed { gently } => {
                self.slow_start = Some(SlowStart::new(self.pace.burst(), span.short, now));
                if gently {
                    self.pace.keep_a_tenth(now);
                }
            }
        }
        self.pace.invalidate();
        true
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

    /// Calls of others in a longest window, as estimated from 429s.
    pub fn foreign(&self, now: Instant) -> u64 {
        let calls = self.span().map_or(0.0, |(_, span)| self.foreign.calls(&span, now));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "from 0 to a limit, which is a u32"
        )]
        let calls = calls.round() as u64;
        calls
    }

    /// Calls of this process that were not refunded.
    pub fn calls(&self) -> u64 {
        self.calls
    }

    /// When a call in flight next ends by itself: whoever waits for a slot should look again then.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.ledger.next_timeout()
    }

    /// What a 429 says. One that names neither a window nor a long wait is taken for that of the
    /// window which our own calls fill most.
    fn read(&self, answer: ThrottleHint, now: Instant) -> Named {
        let is_named = |limit: &Limit| answer.window == Some(limit.window());
        let filled = |limit: &Limit| self.ledger.used(limit, now) as f64 / limit.calls() as f64;
        let fits = |limit: &Limit| answer.wait.is_none_or(|wait| wait <= limit.window());
        let window = match self.ledger.limits() {
            [.., longest] if is_named(longest) => Which::Long,
            limits if limits.iter().any(is_named) => Which::Other,
            [shorter @ .., longest]
                if shorter
                    .iter()
                    .any(|limit| fits(limit) && filled(limit) > filled(longest)) =>
            {
                Which::Other
            }
            _ => Which::Unnamed,
        };
        Named {
            window,
            wait: answer.wait,
        }
    }

    /// A call ends without an answer that tells something: it does not hold back those after a
    /// refusal, and what it leaves of the windows was not planned.
    fn without_answer(&mut self, charge: Charge, now: Instant) {
        if self.throttle == (ThrottleState::Probing { probe: charge }) {
            // Probing → Paused, but for no longer: another call has to find out.
            self.throttle = ThrottleState::Paused { until: now };
        }
        if let (Some(start), Some(issued)) = (&mut self.slow_start, self.ledger.issued_at(charge)) {
            start.end(issued);
        }
        self.pace.invalidate();
    }

    /// Probing → Open: the probe was answered. Says whether it was this call.
    fn after_probe(&mut self, charge: Charge) -> bool {
        let was_probe = self.throttle == (ThrottleState::Probing { probe: charge });
        if was_probe {
            self.throttle = ThrottleState::Open;
        }
        was_probe
    }
}
