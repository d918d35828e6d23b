//! How large a batch may be: how many ids it may name and how many rows it may be expected to
//! bring.
//!
//! An answer longer than any before it may have been cut off, and then its members have to be asked
//! for again, in smaller batches. So a batch stays below the length that is known to fit. Only now
//! and then, when more flights wait than fit, does one go further, to find out whether more rows
//! would fit.

use std::time::Duration;

use tokio::time::Instant;

use crate::scan::SplitError;

/// The limits of one endpoint's batches, and when they may next be exceeded.
#[derive(Debug)]
pub(super) struct BatchSizer {
    not_before: Option<Instant>,
    pause: Duration,
    /// How often the number of ids in a batch is halved, because answers were cut off, and when the
    /// next larger batch may be tried.
    halvings: u32,
    grows_at: Option<Instant>,
}

impl BatchSizer {
    /// The pause after a batch that exceeded the known length. Each such batch may cost a call
    /// without an answer for anybody, and its members another turn.
    const FIRST_PAUSE: Duration = Duration::from_mins(1);
    /// The pause once answers have been cut off at the same length again and again: that length is
    /// the upstream's page.
    const LONGEST_PAUSE: Duration = Duration::from_hours(1);
    /// At this limit a batch names one in 128 of the ids that it might.
    const MOST_HALVINGS: u32 = 7;
    /// How much longer than any answer before a trial batch may be: enough to reach any length in
    /// few steps, each with few members.
    const STEP: usize = 2;

    /// How many rows a batch may be expected to bring so that it is not cut off, when an answer can
    /// hold at least `longest` rows. The expectation is a mean, so a quarter is left as margin.
    pub(super) fn safe(longest: usize) -> usize {
        longest - longest / 4
    }

    /// How many rows a batch that leaves at `now` may be expected to bring, when the pending
    /// flights want `wanted` rows and an answer can hold at least `longest`.
    pub(super) fn max_rows(&self, wanted: usize, longest: usize, now: Instant) -> usize {
        let safe = Self::safe(longest);
        if wanted > safe && self.not_before.is_none_or(|at| at <= now) {
            longest.saturating_mul(Self::STEP)
        } else {
            safe
        }
    }

    /// How many ids, of the configured `most`, a batch that leaves at `now` may name.
    pub(super) fn max_ids(&mut self, most: usize, now: Instant) -> usize {
        if self.halvings > 0 && self.grows_at.is_none_or(|at| at <= now) {
            self.halvings -= 1;
            self.grows_at = Some(now + self.pause);
        }
        (most >> self.halvings).max(1)
    }

    /// Records that a batch leaves that is expected to bring this many rows.
    pub(super) fn record_start(&mut self, expected: usize, longest: usize, now: Instant) {
        if expected > Self::safe(longest) {
            self.not_before = Some(now + self.pause);
        }
    }

    /// Records how splitting a batch's answer went.
    pub(super) fn record_result(&mut self, split_error: Option<SplitError>, now: Instant) {
        match split_error {
            Some(SplitError::Longest) => {
                self.pause = Self::FIRST_PAUSE;
                // The members that got nothing from this call get their rows from a batch that is
                // certain to fit.
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
        let mut sizer = BatchSizer::default();
        let start = Instant::now();
        assert_eq!(sizer.max_rows(70, 100, start), 75, "all fit");
        assert_eq!(sizer.max_rows(500, 100, start), 200);
        sizer.record_start(60, 100, start);
        assert_eq!(sizer.max_rows(500, 100, start), 200, "that one did not go further");
        sizer.record_start(180, 100, start);
        assert_eq!(sizer.max_rows(500, 100, start), 75);
        let minutes = |n| start + Duration::from_mins(n);
        assert_eq!(sizer.max_rows(500, 100, minutes(1)), 200);
        // The page ends there, so larger batches are tried less and less often.
        for _ in 0..20 {
            sizer.record_result(Some(SplitError::FullPage), start);
        }
        sizer.record_start(180, 100, start);
        assert_eq!(sizer.max_rows(500, 100, minutes(59)), 75);
        assert_eq!(sizer.max_rows(500, 100, minutes(60)), 200);
        sizer.record_result(Some(SplitError::Longest), start);
        sizer.record_start(180, 100, start);
        assert_eq!(sizer.max_rows(500, 100, minutes(1)), 200);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_whose_answers_are_cut_name_half_as_many_ids_for_a_while() {
        let (mut sizer, start) = (BatchSizer::default(), Instant::now());
        assert_eq!(sizer.max_ids(100, start), 100);
        sizer.record_result(Some(SplitError::NextLink), start);
        sizer.record_result(Some(SplitError::FullPage), start);
        assert_eq!(sizer.max_ids(100, start), 25);
        sizer.record_result(None, start);
        assert_eq!(sizer.max_ids(100, start + Duration::from_mins(3)), 25);
        assert_eq!(sizer.max_ids(100, start + Duration::from_mins(4)), 50);
        assert_eq!(sizer.max_ids(1, start), 1);
    }
}
