//! Whether the store is asked at all.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long the store is left alone after a failure, at first; twice as long after each further one, up to [`LONGEST`].
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(16);

/// Open after a failure: then nobody asks, but for one from time to time, to see whether the store is back.
#[derive(Debug, Default)]
pub(super) struct Circuit(Mutex<State>);

#[derive(Debug, Default)]
enum State {
    #[default]
    Closed,
    Open {
        until: Instant,
        pause: Duration,
        /// Somebody is trying for all.
        trying: bool,
    },
}

impl Circuit {
    /// Whether to ask now. Whoever is told so while the store is left alone tries for all, and others have to wait for the result.
    pub(super) fn admits(&self, now: Instant) -> bool {
        match &mut *self.state() {
            State::Closed => true,
            State::Open { until, .. } if now < *until => false,
            State::Open { until, pause, trying } => {
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

    /// Any → Closed: the store has answered. `true` when that is news.
    pub(super) fn close(&self) -> bool {
        matches!(std::mem::take(&mut *self.state()), State::Open { .. })
    }

    /// Notes a failure. `true` when the store was believed to be well.
    pub(super) fn open(&self, now: Instant) -> bool {
        let mut state = self.state();
        let (pause, is_new) = match *state {
            State::Closed => (FIRST, true),
            // One of many who had asked before the first of them failed.
            State::Open { trying: false, .. } => return false,
            State::Open { pause, .. } => ((pause * 2).min(LONGEST), false),
        };
        *state = State::Open {
            until: now + pause,
            pause,
            trying: false,
        };
        is_new
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
        let circuit = Circuit::default();
        let start = Instant::now();
        assert!(circuit.admits(start));
        assert!(circuit.open(start));
        assert!(!circuit.open(start), "one of many");
        assert!(!circuit.admits(start + FIRST - Duration::from_millis(1)));
        assert!(circuit.admits(start + FIRST));
        assert!(!circuit.admits(start + FIRST), "one tries for all");
        assert!(circuit.is_open());
        assert!(circuit.close());
        assert!(circuit.admits(start + FIRST) && circuit.admits(start + FIRST));
        assert!(!circuit.close());
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_to_a_limit() {
        let circuit = Circuit::default();
        let mut now = Instant::now();
        for pause in [1, 2, 4, 8, 16, 16] {
            let pause = Duration::from_secs(pause);
            circuit.open(now);
            assert!(!circuit.admits(now + pause - Duration::from_millis(1)));
            now += pause;
            assert!(circuit.admits(now));
            // The try takes its time, and fails.
            now += pause * 3 / 4;
        }
    }
}
