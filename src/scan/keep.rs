//! Where answers go that may be wanted again.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::scan::{Answer, Request};

/// Keeps answers for later requests.
///
/// It is called by whoever makes the calls, not by whoever waits for them, so that an answer that was paid for is kept even when
/// everybody who wanted it has gone.
pub trait Keep: Send + Sync + fmt::Debug {
    /// Keeps the answer to a call that left at `asked`. Returns for how long it counts as fresh; `None` when it was not kept.
    fn keep(&self, request: &Request, answer: &Answer, asked: Instant) -> Option<Duration>;
}
