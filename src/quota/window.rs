//! The quota as people see it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::throttle::Held;
use super::{PaceState, QuotaState};

/// One window as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// `1m`, `1h`.
    pub name: Arc<str>,
    /// Calls per window.
    pub limit: usize,
    /// The window's length.
    pub length: Duration,
    /// Calls that count now.
    pub used: usize,
    /// Calls that may still go now.
    pub remaining: usize,
    /// Until `remaining` next grows; the window's length when nothing is used.
    pub reset: Duration,
}

impl QuotaState {
    /// The windows, shortest first.
    pub fn windows(&self, now: Instant) -> Vec<Window> {
        let held = self.held(now);
        let windows = self.ledger.limits().iter().map(|limit| {
            let (used, back) = self.ledger.usage(limit, now);
            let used = used.min(limit.calls());
            let back = back.map(|at| at.saturating_duration_since(now));
            let (room, reset) = (limit.calls() - used, back.unwrap_or_else(|| limit.window()));
            let (remaining, reset) = match held {
                Held::Nothing => (room, reset),
                Held::AllButOne => (room.min(1), reset),
                Held::For(pause) => (0, pause),
            };
            Window {
                name: Arc::clone(limit.name()),
                limit: limit.calls(),
                length: limit.window(),
                used,
                remaining,
                reset,
            }
        });
        windows.collect()
    }

    /// Until when these windows and this bucket, told in whole seconds and calls, stay as they are
    /// if nothing happens but that time passes.
    pub fn steady_until(&self, windows: &[Window], pace: Option<&PaceState>, now: Instant) -> Instant {
        /// Nothing is said about more than this: when nothing counts down there is nothing to look
        /// at.
        const LONGEST: Duration = Duration::from_hours(1);
        let paused = self.pause(now).is_some();
        let counting = self
            .ledger
            .limits()
            .iter()
            .zip(windows)
            .filter(|(limit, _)| paused || self.ledger.remembers(limit, now))
            .map(|(_, window)| window.reset)
            .chain(pace.map(|pace| pace.next_token))
            .map(|left| match left.subsec_nanos() {
                0 => Duration::from_secs(u64::from(!left.is_zero())),
                part => Duration::from_nanos(part.into()),
            })
            // Nothing counts down in a bucket that is full.
            .filter(|left| !left.is_zero());
        let next_second = now + counting.min().unwrap_or(LONGEST);
        self.next_timeout()
            .map_or(next_second, |timeout| timeout.min(next_second))
    }
}
