//! How many rows a united call may be expected to bring.
//!
//! An answer longer than any before may be cut off, and then everybody who shared the call asks alone. So united calls keep below what is
//! known to fit; only now and then, when more wait than fit, one goes further and so finds out whether more would.

use std::time::Duration;

use tokio::time::Instant;

use crate::scan::SplitError;

/// When a call may next be expected to bring more rows than any before.
#[derive(Debug)]
pub(super) struct BatchSizer {
    not_before: Option<Instant>,
    pause: Duration,
    /// How often the number of ids in a call is halved, because answers were cut off; and when to try more again.
    halvings: u32,
    grows_at: Option<Instant>,
}

impl BatchSizer {
    /// After one that went further, as each may cost as many calls as it has passengers.
    const FIRST_PAUSE: Duration = Duration::from_mins(1);
    /// Where answers end at the same length again and again, that is how long they get.
    const LONGEST_PAUSE: Duration = Duration::from_hours(1);
    /// Then a call names one id in 128 of those that it might.
    const MOST_HALVINGS: u32 = 7;
    /// How much further it goes: in few steps to anywhere, and each with few passengers.
    const STEP: usize = 2;

    /// How many rows a call may be expected to bring that must not be cut off, when an answer can hold at least `longest`. The mean is
    /// only a mean: a quarter is left for luck.
    pub(super) fn safe(longest: usize) -> usize {
        longest - longest / 4
    }

    /// How many rows a call that leaves at `now` may be expected to bring, when those who wait want so many and an answer can hold at
    /// least `longest`.
    pub(super) fn rows(&self, wanted: usize, longest: usize, now: Instant) -> usize {
        let safe = Self::safe(longest);
        if wanted > safe && self.not_before.is_none_or(|at| at <= now) {
            longest.saturating_mul(Self::STEP)
        } else {
            safe
        }
    }

    /// How many ids a call may name that leaves at `now`, of `most` that it might.
    pub(super) fn ids(&mut self, most: usize, now: Instant) -> usize {
        if self.halvings > 0 && self.grows_at.is_none_or(|at| at <= now) {
            self.halvings -= 1;
            self.grows_at = Some(now + self.pause);
        }
        (most >> self.halvings).max(1)
    }

    /// A call that was expected to bring so many rows leaves.
    pub(super) fn leaves(&mut self, expected: usize, longest: usize, now: Instant) {
        if expected > Self::safe(longest) {
            self.not_before = Some(now + self.pause);
        }
    }

    /// What came of a united call.
    pub(super) fn learn(&mut self, split_error: Option<SplitError>, now: Instant) {
        match split_error {
            Some(SplitError::Longest) => {
                self.pause = Self::FIRST_PAUSE;
                // Those who got nothing from this call get it from one that is certain.
                self.not_before = Some(now + self.pause);
            }
            Some(SplitError::FullPage | SplitError::NextLink) => {
                self.pause = (self.pause * 2).min(Self::LONGEST_PAUSE);
                self.halvings = (self.halvings + 1).min(Self::MOST_HALVINGS);
                self.grows_at = Some(now + self.pause);
            }
            _ => {}
        }
    }
}

impl Default for BatchSizer {
    fn default() -> Self {
        Self {
            not_before: None,
            pause: Self::FIRST_PAUSE,
            halvings: 0,
            grows_at: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn calls_go_further_than_known_only_now_and_then() {
        let mut growth = BatchSizer::default();
        let start = Instant::now();
        assert_eq!(growth.rows(70, 100, start), 75, "all fit");
        assert_eq!(growth.rows(500, 100, start), 200);
        growth.leaves(60, 100, start);
        assert_eq!(growth.rows(500, 100, start), 200, "that one did not go further");
        growth.leaves(180, 100, start);
        assert_eq!(growth.rows(500, 100, start), 75);
        let minutes = |n| start + Duration::from_mins(n);
        assert_eq!(growth.rows(500, 100, minutes(1)), 200);
        // The page ends there: less and less often it is tried again.
        for _ in 0..20 {
            growth.learn(Some(SplitError::FullPage), start);
        }
        growth.leaves(180, 100, start);
        assert_eq!(growth.rows(500, 100, minutes(59)), 75);
        assert_eq!(growth.rows(500, 100, minutes(60)), 200);
        growth.learn(Some(SplitError::Longest), start);
        growth.leaves(180, 100, start);
        assert_eq!(growth.rows(500, 100, minutes(1)), 200);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_whose_answers_are_cut_name_half_as_many_ids_for_a_while() {
        let (mut growth, start) = (BatchSizer::default(), Instant::now());
        assert_eq!(growth.ids(100, start), 100);
        growth.learn(Some(SplitError::NextLink), start);
        growth.learn(Some(SplitError::FullPage), start);
        assert_eq!(growth.ids(100, start), 25);
        growth.learn(None, start);
        assert_eq!(growth.ids(100, start + Duration::from_mins(3)), 25);
        assert_eq!(growth.ids(100, start + Duration::from_mins(4)), 50);
        assert_eq!(growth.ids(1, start), 1);
    }
}
