//! What the estimate of others' calls needs to know of the longest window, and of our own calls in
//! it.

use std::time::Duration;

use tokio::time::Instant;

use super::config::Limit;

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

/// Our own calls in the long window.
pub(super) trait Own {
    /// How many there are, without the one that was just answered.
    fn count(&self) -> usize;
    /// How many were answered, with the one that was just answered.
    fn answered(&self) -> usize;
    /// When the first of them leaves.
    fn next_return(&self) -> Option<Instant>;
}
