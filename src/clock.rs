//! Wall time, and nothing else: monotonic time is `tokio::time::Instant`, which tests can pause.
//!
//! Wall time is needed only where the outside world speaks in dates: `Retry-After` dates, a token's `expires_on`, assertion
//! lifetimes, the state file. Never measure a duration with it.

use jiff::Timestamp;
use tokio::time::Instant;

/// Tells the wall-clock time. Cloning is cheap; clones tell the same time.
#[derive(Clone, Debug)]
pub struct Wall(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Anchored { at: Timestamp, since: Instant },
}

impl Wall {
    /// The operating system's clock. It may jump; callers must tolerate that.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that shows `at` now and moves with tokio's monotonic clock, so that paused tests move it too.
    #[must_use]
    pub fn anchored(at: Timestamp) -> Self {
        Self(Source::Anchored {
            at,
            since: Instant::now(),
        })
    }

    /// The current wall-clock time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => Timestamp::now(),
            Source::Anchored { at, since } => at.checked_add(since.elapsed()).unwrap_or(Timestamp::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn an_anchored_clock_moves_with_paused_time() {
        let start = Timestamp::from_second(1_700_000_000).unwrap();
        let wall = Wall::anchored(start);
        tokio::time::advance(Duration::from_secs(90)).await;
        assert_eq!(wall.now().as_second(), 1_700_000_090);
    }
}
