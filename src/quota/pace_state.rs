//! The token bucket as people see it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::throttle::Held;
use super::{Pacer, QuotaState};

/// The bucket that spreads the longest window, at one moment. Callers feel it long before a window
/// is full, so it is shown.
#[derive(Clone, Debug, PartialEq)]
pub struct PaceState {
    /// Calls that it holds when it is full: so many may leave back to back.
    pub capacity: usize,
    /// Calls that may leave now as far as the bucket goes, in fractions of a call.
    pub tokens: f64,
    /// Calls per minute by which it fills now.
    pub per_minute: f64,
    /// Until it holds one whole call more; zero when it is full.
    pub next_token: Duration,
    /// How long it takes to fill an empty bucket when the longest window is used up evenly.
    pub refill: Duration,
    /// The name of the window that it spreads: the longest, such as `1h`.
    pub window: Arc<str>,
}

impl PaceState {
    /// Whole calls that may leave now.
    pub fn whole_tokens(&self) -> usize {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between zero and the capacity"
        )]
        let whole = (self.tokens + 2.0 * Pacer::EPSILON).max(0.0) as usize;
        whole.min(self.capacity)
    }
}

impl QuotaState {
    /// The bucket; `None` when calls are not spread.
    pub fn pace_state(&mut self, now: Instant) -> Option<PaceState> {
        if self.is_unpaced(now) {
            return None;
        }
        // A plan that is due would show a rate that does not hold any more.
        let _ = self.opens_at(now);
        let longest = self.ledger.limits().last()?;
        let capacity = self.pace.burst();
        let per_second = longest.calls() as f64 / longest.window().as_secs_f64();
        Some(PaceState {
            capacity,
            tokens: match self.held(now) {
                Held::AllButOne => self.pace.level_at(now).min(1.0),
                Held::Nothing | Held::For(_) => self.pace.level_at(now),
            },
            per_minute: self.pace.filling(now).rate * 60.0,
            next_token: self.pace.next_token(now),
            refill: Duration::from_secs_f64(capacity as f64 / per_second),
            window: Arc::clone(longest.name()),
        })
    }
}
