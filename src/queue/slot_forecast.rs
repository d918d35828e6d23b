//! When the next slots come, as the quota said last.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::PermitSource;

/// A slot handed out this much later than forecast came on time.
const PUNCTUAL: Duration = Duration::from_millis(5);

/// Where nothing else is known: no slots are further apart.
const UNKNOWN: Duration = Duration::from_hours(1);

/// The next slots. Beyond those that were asked for, more are assumed to come as the later half of
/// these do.
#[derive(Debug, Default)]
pub(super) struct SlotForecast {
    starts: VecDeque<Instant>,
    version: Option<u64>,
    apart: Duration,
}

impl SlotForecast {
    /// Forecasts at least `count` slots. Returns whether earlier answers no longer hold.
    pub(super) fn look_ahead<S: PermitSource>(&mut self, now: Instant, count: usize, source: &S) -> bool {
        let version = source.version();
        // A first slot in the past was not used: the bucket has grown since. Timers are late by a
        // moment.
        let holds = self.version == Some(version)
            && self
                .starts
                .front()
                .is_some_and(|first| now.saturating_duration_since(*first) <= PUNCTUAL);
        if holds && self.starts.len() >= count {
            return false;
        }
        self.starts.clear();
        // Some more, so that not every slot handed out asks for another forecast.
        source.forecast(now, count + count / 4, &mut self.starts);
        self.version = Some(version);
        self.apart = self.spacing().unwrap_or(UNKNOWN);
        true
    }

    fn spacing(&self) -> Option<Duration> {
        let last = self.starts.len().checked_sub(1)?;
        let half = last / 2;
        let between = u32::try_from(last - half).ok().filter(|between| *between > 0)?;
        Some(self.starts[last].saturating_duration_since(self.starts[half]) / between)
    }

    /// What was forecast may no longer hold.
    pub(super) fn invalidate(&mut self) {
        self.version = None;
    }

    /// A slot has been handed out.
    pub(super) fn on_granted(&mut self, now: Instant) {
        if self.starts.pop_front().is_none_or(|first| first > now) {
            // The slot came before its time: so may the next ones.
            self.version = None;
        }
    }

    /// When the slot with this number comes, from 0.
    pub(super) fn start(&self, rank: usize, now: Instant) -> Instant {
        if let Some(start) = self.starts.get(rank) {
            return *start;
        }
        let beyond = u32::try_from(rank + 1 - self.starts.len()).unwrap_or(u32::MAX);
        let last = self.starts.back().copied().unwrap_or(now);
        let apart = self.apart.saturating_mul(beyond).min(UNKNOWN * 24);
        last + apart
    }

    /// How long until the slot with this number comes, from 0.
    pub(super) fn after(&self, rank: usize, now: Instant) -> Duration {
        self.start(rank, now).saturating_duration_since(now)
    }

    /// How many slots come until that moment: those whose [`SlotForecast::start`] is not later.
    pub(super) fn until(&self, at: Instant) -> usize {
        let known = self.starts.partition_point(|start| *start <= at);
        let beyond = match self.starts.back() {
            Some(last) if known == self.starts.len() => {
                let since_last = at.saturating_duration_since(*last).as_nanos();
                // Where many come at once, as after a pause, so may those that are not known.
                since_last.checked_div(self.apart.as_nanos()).unwrap_or(u128::MAX)
            }
            _ => 0,
        };
        known.saturating_add(usize::try_from(beyond).unwrap_or(usize::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forecast(now: Instant, ms: &[u64]) -> SlotForecast {
        let mut forecast = SlotForecast {
            starts: ms.iter().map(|ms| now + Duration::from_millis(*ms)).collect(),
            ..SlotForecast::default()
        };
        forecast.apart = forecast.spacing().unwrap_or(UNKNOWN);
        forecast
    }

    #[test]
    fn as_many_come_until_a_moment_as_start_until_then() {
        let now = Instant::now();
        for ms in [
            &[][..],
            &[0],
            &[500, 500],
            &[0, 600, 1_200, 1_800],
            &[0, 0, 0, 600, 1_200],
            // A pause, and then many at once.
            &[0, 665, 693, 782, 806, 820, 820, 820, 820, 820, 820, 820, 820],
            &[900, 900, 900, 900, 900, 1_000],
        ] {
            let forecast = forecast(now, ms);
            for at in [0, 499, 500, 819, 820, 1_000, 5_000, 60_000].map(|ms| now + Duration::from_millis(ms)) {
                let until = forecast.until(at);
                for rank in 0..500 {
                    assert_eq!(
                        rank < until,
                        forecast.start(rank, now) <= at,
                        "{ms:?}: slot {rank}, {:?}",
                        at - now
                    );
                }
            }
        }
    }
}
