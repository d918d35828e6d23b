//! How far back a state file holds every call, over processes with other limits.
//!
//! What a limit of now needs to know may be more than the limits before needed. So a file says what
//! it was kept for, and goes on with that when limits need less for a while; where they need more,
//! the calls that may be missing are taken to be as many as can matter.

use std::collections::BTreeMap;
use std::time::Duration;

use super::state_lines::{micros, numbers};

/// What a state file is kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reach {
    /// It holds every call of so long.
    pub(super) window: Duration,
    /// But of these only so many: the latest.
    pub(super) calls: usize,
    /// The longest that a call of those who write it can take.
    pub(super) attempt: Duration,
}

/// No limit needs more.
const LONGEST: Duration = Duration::from_hours(25);
const MOST: usize = 1_000_000;

impl Reach {
    /// At least as far as both.
    pub(super) fn max(self, other: Self) -> Self {
        Self {
            window: self.window.max(other.window),
            calls: self.calls.max(other.calls),
            attempt: self.attempt.max(other.attempt),
        }
    }

    /// The line that says so: `w`, then microseconds, calls and microseconds.
    pub(super) fn write(self) -> String {
        format!("w {} {} {}\n", micros(self.window), self.calls, micros(self.attempt))
    }

    /// What that line says; `None` when it is not one.
    pub(super) fn read(words: &str) -> Option<Self> {
        let [window, calls, attempt] = numbers::<u64, 3>(words)?;
        Some(Self {
            window: Duration::from_micros(window).min(LONGEST),
            calls: usize::try_from(calls).unwrap_or(MOST).min(MOST),
            attempt: Duration::from_micros(attempt).min(LONGEST),
        })
    }

    /// What may be missing for `needed` among `charges`, which are all that is known as far as this
    /// reaches: when that counts, and how many of it. Brings them into order.
    pub(super) fn missing(self, needed: Self, charges: &mut [i64], now: i64) -> (i64, usize) {
        charges.sort_unstable();
        let mut since = now.saturating_sub(micros(self.window));
        let first = charges.len().checked_sub(self.calls);
        if let Some(first) = first.and_then(|first| charges.get(first)) {
            since = since.max(*first);
        }
        if since <= now.saturating_sub(micros(needed.window)) {
            return (since, 0);
        }
        let known = charges.len() - charges.partition_point(|at| *at < since);
        (since, needed.calls.saturating_sub(known))
    }

    /// Forgets the charges of a file that need not be in it.
    pub(super) fn prune(self, charges: &mut BTreeMap<u64, i64>, now: i64) {
        let oldest = now.saturating_sub(micros(self.window));
        charges.retain(|_, at| *at > oldest);
        // As many calls at most are in flight, and may turn out not to have been made.
        if let Some(over) = charges.len().checked_sub(self.calls.saturating_mul(2)) {
            let mut known: Vec<_> = charges.values().copied().collect();
            known.sort_unstable();
            let first = known.get(over).copied();
            charges.retain(|_, at| Some(*at) >= first);
        }
    }
}
