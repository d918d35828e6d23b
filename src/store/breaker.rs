//! Whether the store is asked at all.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long the store is left alone after a failure, at first; twice as long after each further
/// one, up to [`LONGEST`].
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(16);

/// Open after a failure: then nobody asks, but for one from time to time, to see whether the store
/// is back.
#[derive(Debug, Default)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
enum State {
    #[default]
    Closed,
    Open {
        until: Instant,
        pause: Duration,
        /// The store has to answer within this.
        limit: Duration,
        /// Somebody is trying for all.
        trying: bool,
    },
}

impl Breaker {
    /// Whether to ask now. Whoever is told so while the store is left alone tries for all, and
    /// others have to wait for the result.
    pub(super) fn admits(&self, now: Instant) -> bool {
        match &mut *self.state() {
            State::Closed => true,
            State::Open { until, .. } if now < *until => false,
            State::Open {
                until, pause, trying, ..
            } => {
                // Should the try come to nothing, by being cancelled, there will be another.
                *until = now + *pause;
                *trying = true;
                true
            }
        }
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(*self.state(), State::Open { .. })
    }

    /// The store has answered within `took`: soon enough, unless somebody would not have waited for
    /// as long.
    pub(super) fn answered(&self, took: Duration) {
        let mut state = self.state();
        if matches!(&*state, State::Open { limit, .. } if took <= *limit) {
            *state = State::Closed;
        }
    }

    /// Notes that no answer came within `missed`.
    pub(super) fn open(&self, now: Instant, missed: Duration) {
        let mut state = self.state();
        let (pause, limit) = match *state {
            State::Closed => (FIRST, missed),
            // One of many who had asked before the first of them failed.
            State::Open { trying: false, .. } => return,
            State::Open { pause, limit, .. } => ((pause * 2).min(LONGEST), limit.min(missed)),
        };
        *state = State::Open {
            until: now + pause,
            pause,
            limit,
            trying: false,
        };
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics halfway through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_store_that_failed_is_left_alone_and_then_tried_by_one() {
        let breaker = Breaker::default();
        let start = Instant::now();
        assert!(breaker.admits(start));
        breaker.open(start, FIRST);
        breaker.open(start, FIRST);
        assert!(!breaker.admits(start + FIRST - Duration::from_millis(1)));
        assert!(breaker.admits(start + FIRST));
        assert!(!breaker.admits(start + FIRST), "one tries for all");
        breaker.answered(FIRST * 2);
        assert!(breaker.is_open(), "that is too late");
        breaker.answered(FIRST);
        assert!(!breaker.is_open());
        assert!(breaker.admits(start + FIRST) && breaker.admits(start + FIRST));
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_to_a_limit() {
        let breaker = Breaker::default();
        let mut now = Instant::now();
        for pause in [1, 2, 4, 8, 16, 16] {
            let pause = Duration::from_secs(pause);
            breaker.open(now, pause);
            assert!(!breaker.admits(now + pause - Duration::from_millis(1)));
            now += pause;
            assert!(breaker.admits(now));
            // The try takes its time, and fails.
            now += pause * 3 / 4;
        }
    }
}
