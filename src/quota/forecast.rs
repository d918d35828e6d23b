//! The account, run ahead: when does each of the next slots come?

use std::time::Duration;

use tokio::time::Instant;

use super::state::{QuotaState, ThrottleState};

/// The starts of the next slots, computed from a copy of the account by the very code that will
/// grant them, on the assumption that every slot is used as soon as it comes and every call takes
/// about as long as calls have taken.
#[derive(Debug)]
pub struct Forecast {
    account: QuotaState,
    at: Instant,
    landing: Duration,
}

impl Forecast {
    /// How far to look before saying "not before then": beyond a day nobody waits.
    pub const HORIZON: Duration = Duration::from_hours(24);

    /// A forecast from the account's state at `now`.
    pub fn new(account: &QuotaState, now: Instant) -> Self {
        let mut account = account.clone();
        let landing = account.latency.bound();
        let probe_lands = match account.gate {
            ThrottleState::Probing { probe } => account
                .ledger
                .issued_at(probe)
                .map(|issued| (issued + landing).max(now)),
            ThrottleState::Paused { until } => Some(until),
            ThrottleState::Open => None,
        };
        account.gate = ThrottleState::Open;
        account.ledger.land_all(landing, now);
        let at = probe_lands.unwrap_or(now).max(now);
        if probe_lands.is_some() {
            // The best that can be said: the probe is accepted.
            account.accepted(at);
        }
        account.foreign.without_trial();
        // As fast as calls are accepted, it hardly delays any.
        account.slow_start = None;
        Self { account, at, landing }
    }

    /// The start of the next slot. Starts never go backwards, and end at [`Forecast::HORIZON`].
    pub fn next_slot(&mut self) -> Instant {
        let horizon = self.at + Self::HORIZON;
        loop {
            match self.account.take(self.at) {
                Ok(charge) => {
                    self.account.ledger.settle(charge, self.at + self.landing);
                    return self.at;
                }
                Err(Some(at)) if at >= horizon => return horizon,
                // Rounding must not make the loop stand still.
                Err(Some(at)) => self.at = at.max(self.at + Duration::from_micros(1)),
                // Every call is landed here, so there is always a moment; this arm keeps a mistake
                // from looping.
                Err(None) => return horizon,
            }
        }
    }
}
