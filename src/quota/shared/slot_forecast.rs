//! When the slots of all replicas come.

use std::time::Duration;

use tokio::time::Instant;

use crate::quota::{Forecast, QuotaState};

/// Most slots that one forecast computes; further ones come as the longest window gives them.
const LOOK_AHEAD: usize = 2000;

/// The coming slots of all replicas.
#[derive(Debug)]
pub(super) struct SlotForecast {
    forecast: Forecast,
    last: Instant,
    computed: usize,
    /// From one slot to the next, further on than anybody looks.
    apart: Duration,
}

impl SlotForecast {
    pub(super) fn of(quota_state: &QuotaState, now: Instant) -> Self {
        let longest = quota_state.ledger.limits().last();
        Self {
            forecast: Forecast::new(quota_state, now),
            last: now,
            computed: 0,
            apart: longest.map_or(Duration::ZERO, |limit| {
                limit.hold() / u32::try_from(limit.calls().max(1)).unwrap_or(u32::MAX)
            }),
        }
    }

    /// When the next one comes.
    pub(super) fn next_slot(&mut self) -> Instant {
        self.last = if self.computed < LOOK_AHEAD {
            self.forecast.next_slot()
        } else {
            self.last + self.apart
        };
        self.computed += 1;
        self.last
    }
}
