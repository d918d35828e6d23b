//! What the estimate of others' calls needs to know of the longest window, and of our own calls in
//! it.

use std::time::Duration;

use tokio::time::Instant;

use super::config::Limit;
use super::ledger::Ledger;

/// The long window as the estimate needs to know it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// Calls per window.
    pub(super) calls: f64,
    /// The window's length, with its margin.
    pub(super) window: Duration,
    /// As long as the shortest window at most: longer refusals have another cause than that one.
    pub(super) short: Duration,
}

impl Span {
    /// The longest of `limits`, which are in order.
    pub(super) fn of(limits: &[Limit]) -> Option<Self> {
        let (first, last) = (limits.first()?, limits.last()?);
        let short = if limits.len() > 1 {
            first.window()
        } else {
            last.window() / 60
        };
        Some(Self {
            calls: last.calls() as f64,
            window: last.hold(),
            short,
        })
    }
}

/// Our own calls in the long window, one of which has just been answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct OwnCalls {
    /// How many there are, without the one that was just answered.
    pub(super) count: usize,
    /// How many were answered, with the one that was just answered.
    pub(super) answered: usize,
    /// When the first of them leaves.
    pub(super) next_return: Option<Instant>,
}

impl OwnCalls {
    pub(super) fn of(ledger: &Ledger, longest: &Limit, now: Instant) -> Self {
        let (used, next_return) = ledger.usage(longest, now);
        Self {
            count: used.saturating_sub(1),
            answered: used - ledger.in_flight(),
            next_return,
        }
    }
}
