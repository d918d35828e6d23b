//! Whether the store's clock can be believed.

use std::time::Duration;

use tokio::time::Instant;

use super::messages;
use crate::clock::earlier;

/// How much faster than our stopwatch the store's clock may run: a clock that is being corrected
/// runs off by 500 ppm at most.
const DRIFT_PPM: u32 = 1000;

/// Scheduling and rounding, on top of the drift.
const SLACK: Duration = Duration::from_millis(5);

/// The store's time at a moment of ours: it was no earlier than that there.
#[derive(Clone, Copy, Debug)]
struct Mark {
    ours: Instant,
    theirs: i64,
}

/// The earliest that the store's clock was ever seen, by our stopwatch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ClockGuard(Option<Mark>);

impl ClockGuard {
    /// Our stopwatch stood still for so long.
    pub(super) fn age(&mut self, by: Duration) {
        if let Some(mark) = &mut self.0 {
            mark.ours = earlier(mark.ours, by);
        }
    }

    /// Takes in that the store, asked at `asked`, said that it is `theirs` (microseconds), which we
    /// heard at `now`. `false` when its clock has run faster than ours can explain: it may have
    /// forgotten calls too early.
    pub(super) fn is_right(&mut self, theirs: i64, asked: Instant, now: Instant) -> bool {
        let latest = |mark: Mark| {
            let passed = now.saturating_duration_since(mark.ours);
            let drift = passed / (1_000_000 / DRIFT_PPM) + SLACK;
            mark.theirs.saturating_add(messages::micros(passed + drift))
        };
        let this = Mark { ours: asked, theirs };
        match self.0 {
            Some(mark) if theirs > latest(mark) => return false,
            Some(mark) if latest(mark) <= latest(this) => {}
            _ => self.0 = Some(this),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_clock_may_drift_and_be_set_back_but_not_jump_ahead() {
        let start = Instant::now();
        let mut clock = ClockGuard::default();
        let mut says = |at: u32, theirs: i64| clock.is_right(theirs, start + SECOND * at, start + SECOND * at);
        assert!(says(0, 0));
        assert!(says(10, 10_009_000), "10 ms of drift and 5 of slack");
        assert!(!says(20, 20_100_000));
        assert!(says(30, 25_000_000), "slower than ours forgets later, which is safe");
        assert!(!says(31, 27_000_000), "and from there on that is what counts");
    }
}
