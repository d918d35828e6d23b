//! How scarce slots are, for calls that could leave and may be worth a wait for others to share
//! them.

use std::time::Duration;

use tokio::time::Instant;

use super::{Limit, QuotaState};
use crate::attempt::Scarcity;

impl QuotaState {
    /// As the bucket drains, a call is worth a longer wait: nothing while the bucket is full, up to
    /// the distance of two slots when it is empty. Without a slot nothing more has to wait, as
    /// calls share a slot in the queue anyway.
    pub fn scarcity(&mut self, now: Instant) -> Scarcity {
        let interval = self.ledger.limits().last().map_or(Duration::ZERO, |longest| {
            longest.window().div_f64(longest.calls().max(1) as f64)
        });
        let is_open = self.opens_at(now).is_some_and(|at| at <= now);
        let (level, capacity) = if self.is_unpaced(now) {
            let limits = self.ledger.limits();
            let room = |limit: &Limit| {
                (
                    limit.calls() - self.ledger.used(limit, now).min(limit.calls()),
                    limit.calls(),
                )
            };
            let least = limits
                .iter()
                .map(room)
                .min_by_key(|(free, _)| *free)
                .unwrap_or_default();
            (least.0 as f64, least.1 as f64)
        } else {
            (self.pace.level_at(now), self.pace.burst() as f64)
        };
        // One call that is missing does not make slots scarce.
        let drained = ((capacity - 1.0 - level) / capacity.max(1.0)).clamp(0.0, 1.0);
        Scarcity {
            gather: (is_open && drained > 0.0).then(|| interval.mul_f64(drained)),
            interval,
        }
    }
}
