//! The state of the quota, run ahead by how long calls take: when does each of the next slots come?

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::config::Limit;
use super::pacer::WindowBudget;
use super::slow_start::SlowStart;
use super::state::{QuotaState, ThrottleState};

/// The starts of the next slots, computed from a copy of the state by the very code that will
/// grant them, on the assumption that every slot is used as soon as it comes and every call takes
/// about as long as calls have taken, and is accepted.
#[derive(Debug)]
pub struct Forecast {
    quota_state: QuotaState,
    at: Instant,
    landing: Duration,
    /// When the calls are accepted that a slow start waits for, ascending.
    accepted: VecDeque<Instant>,
}

impl Forecast {
    /// How far to look before saying "not before then": beyond a day nobody waits.
    pub const HORIZON: Duration = Duration::from_hours(24);

    /// A forecast from the state at `now`.
    pub fn new(quota_state: &QuotaState, now: Instant) -> Self {
        let mut quota_state = quota_state.clone();
        let landing = quota_state.latency.bound();
        let probe = match quota_state.throttle {
            ThrottleState::Probing { probe } => quota_state.ledger.issued_at(probe),
            ThrottleState::Paused { .. } | ThrottleState::Open => None,
        };
        let waits_for = |issued: &Instant| quota_state.slow_start.is_some_and(|start| start.waits_for(*issued));
        let in_flight = quota_state.ledger.pending_calls().filter(waits_for);
        let accepted = in_flight.map(|issued| (issued + landing).max(now)).collect();
        quota_state.ledger.land_all(landing, now);
        quota_state.foreign.without_trial();
        let mut forecast = Self {
            quota_state,
            at: now,
            landing,
            accepted,
        };
        if let Some(issued) = probe {
            forecast.accept_probe((issued + landing).max(now));
        }
        forecast
    }

    /// The best that can be said of a probe: it is accepted, then.
    fn accept_probe(&mut self, at: Instant) {
        self.at = at;
        self.quota_state.throttle = ThrottleState::Open;
        self.quota_state.accepted(at);
        self.quota_state.foreign.without_trial();
        self.quota_state.start_slowly(at);
    }

    /// The start of the next slot. Starts never go backwards, and end at [`Forecast::HORIZON`].
    pub fn next_slot(&mut self) -> Instant {
        let horizon = self.at + Self::HORIZON;
        loop {
            while self.accepted.pop_front_if(|landed| *landed <= self.at).is_some() {
                self.quota_state.slow_start.take_if(SlowStart::accept);
            }
            match self.quota_state.take(self.at) {
                Ok(charge) => {
                    let (start, landed) = (self.at, self.at + self.landing);
                    self.quota_state.ledger.settle(charge, landed);
                    if let ThrottleState::Probing { .. } = self.quota_state.throttle {
                        self.accept_probe(landed);
                    } else if self.quota_state.slow_start.is_some() {
                        self.accepted.push_back(landed);
                    }
                    return start;
                }
                Err(Some(at)) if at >= horizon => return horizon,
                Err(Some(at)) => {
                    let accepted = self.accepted.front().copied();
                    // Rounding must not make the loop stand still.
                    self.at = accepted.unwrap_or(at).min(at).max(self.at + Duration::from_micros(1));
                }
                // Every call is landed here, so there is always a moment; this arm keeps a mistake
                // from looping.
                Err(None) => return horizon,
            }
        }
    }
}

/// How long calls take, as a bound that most keep: a smoothed mean and four mean deviations, as TCP
/// estimates its round trip.
#[derive(Clone, Copy, Debug)]
pub(super) struct Latency {
    mean: f64,
    deviation: f64,
}

impl Latency {
    pub(super) const START: Self = Self {
        mean: 0.2,
        deviation: 0.05,
    };

    pub(super) fn observe(&mut self, seconds: f64) {
        self.deviation += 0.25 * ((seconds - self.mean).abs() - self.deviation);
        self.mean += 0.125 * (seconds - self.mean);
    }

    /// When a call in flight is planned to count, after it was issued. In a small window each
    /// moment by which most calls are faster would be lost again and again.
    pub(super) fn landing(self, longest: &Limit) -> Duration {
        if longest.calls() > WindowBudget::SMALL {
            return self.bound();
        }
        Duration::from_secs_f64(self.mean.max(0.0))
    }

    pub(super) fn bound(self) -> Duration {
        Duration::from_secs_f64((self.mean + 4.0 * self.deviation).max(0.0))
    }
}
