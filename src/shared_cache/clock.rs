//! The store's clock, as this replica knows it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A moment by the store's clock: milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoreTime(pub u64);

impl StoreTime {
    /// `None` when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Option<Duration> {
        self.0.checked_sub(earlier.0).map(Duration::from_millis)
    }
}

/// What the store's latest answer said about its time.
#[derive(Debug, Default)]
pub(super) struct Clock(Mutex<Option<(StoreTime, Instant)>>);

impl Clock {
    /// The store said that it was `time`, in an answer that came at `heard`.
    pub(super) fn set(&self, time: StoreTime, heard: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((time, heard));
    }

    /// The store's time at `moment`, or up to one exchange earlier; `None` when it has never told.
    pub(super) fn at(&self, moment: Instant) -> Option<StoreTime> {
        let (time, heard) = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        // When the answer came it was at least this late there.
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let at = if moment >= heard {
            time.0.saturating_add(millis(moment - heard))
        } else {
            time.0.saturating_sub(millis(heard - moment).saturating_add(1))
        };
        Some(StoreTime(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_goes_on_from_what_was_heard() {
        let clock = Clock::default();
        let heard = Instant::now() + Duration::from_mins(1);
        assert_eq!(clock.at(heard), None);
        clock.set(StoreTime(1_000_000), heard);
        assert_eq!(clock.at(heard + Duration::from_secs(5)), Some(StoreTime(1_005_000)));
        let before = clock.at(heard - Duration::from_secs(5)).unwrap();
        assert!(before <= StoreTime(995_000) && before >= StoreTime(994_990));
    }
}
