//! What a 429 does, and what an accepted call does after one: everybody pauses, one call finds out
//! whether the pause is over ([`ThrottleState`]), and [`super::foreign`] estimates the others who use
//! the same quota.

use std::time::Duration;

use tokio::time::Instant;

use super::config::Limit;
use super::foreign::Change;
use super::ledger::Charge;
use super::long_window::{OwnCalls, Span};
use super::slow_start::SlowStart;
use super::state::{QuotaState, ThrottleState};
use super::throttle_hint::{Named, ThrottleHint, Which};

/// What refusals leave of the windows' room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// All of it.
    Nothing,
    /// One call, which finds out whether the pause is over.
    AllButOne,
    /// Nothing may go for so long, as far as known.
    For(Duration),
}

impl QuotaState {
    /// What cannot be used because the upstream said 429.
    pub(super) fn held(&self, now: Instant) -> Held {
        /// What is told in whole seconds.
        const SHORTEST: Duration = Duration::from_secs(1);
        match self.throttle {
            ThrottleState::Open => Held::Nothing,
            ThrottleState::Paused { until } if until <= now => Held::AllButOne,
            ThrottleState::Paused { until } => Held::For(until - now),
            ThrottleState::Probing { probe } => self.ledger.issued_at(probe).map_or(Held::Nothing, |issued| {
                let lands = issued + self.latency.bound();
                Held::For(lands.saturating_duration_since(now).max(SHORTEST))
            }),
        }
    }

    /// How long everybody still waits because the upstream said 429, as far as known.
    pub(super) fn pause(&self, now: Instant) -> Option<Duration> {
        match self.held(now) {
            Held::For(pause) => Some(pause),
            Held::Nothing | Held::AllButOne => None,
        }
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
                self.slow_start = Some(SlowStart::new(self.pace.burst(), now));
                if gently {
                    self.pace.keep_a_tenth(now);
                }
            }
        }
        self.pace.invalidate();
        true
    }

    /// Calls of others in a longest window, as estimated from 429s.
    pub fn foreign(&self) -> u64 {
        let calls = self.span().map_or(0.0, |(_, span)| self.foreign.calls(&span));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "from 0 to a limit, which is a u32"
        )]
        let calls = calls.round() as u64;
        calls
    }

    pub(super) fn is_room_beside_others(&self, now: Instant) -> bool {
        let Some((longest, span)) = self.span().filter(|(_, span)| self.foreign.respected(span) > 0.0) else {
            return true;
        };
        self.foreign.room(&span, self.ledger.used(&longest, now), now) >= 1.0
    }

    /// What a 429 says. One that names neither a window nor a long wait is taken for that of the
    /// window which our own calls fill most.
    fn read(&self, answer: ThrottleHint, now: Instant) -> Named {
        let mut named = Named::read(answer, self.ledger.limits());
        let filled = |limit: &Limit| self.ledger.used(limit, now) as f64 / limit.calls() as f64;
        if let (Which::Unnamed, [shorter @ .., longest]) = (named.window, self.ledger.limits()) {
            let fits = |limit: &&Limit| answer.wait.is_none_or(|wait| wait <= limit.window());
            if shorter.iter().filter(fits).any(|limit| filled(limit) > filled(longest)) {
                named.window = Which::Other;
            }
        }
        named
    }

    pub(super) fn span(&self) -> Option<(Limit, Span)> {
        let limits = self.ledger.limits();
        Some((limits.last()?.clone(), Span::of(limits)?))
    }
}
