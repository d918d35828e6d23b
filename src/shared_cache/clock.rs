//! The store's clock, as this replica knows it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A moment by the store's clock: milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoreTime(pub u64);

impl StoreTime {
    /// The time since `earlier`; `None` when `earlier` is later.
    pub fn since(self, earlier: Self) -> Option<Duration> {
        self.0.checked_sub(earlier.0).map(Duration::from_millis)
    }
}

/// The store's time in its latest reply, and when that reply arrived.
#[derive(Debug, Default)]
pub(super) struct Clock(Mutex<Option<(StoreTime, Instant)>>);

impl Clock {
    /// Records that a reply that arrived at `heard` contained the store's `time`.
    pub(super) fn set(&self, time: StoreTime, heard: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((time, heard));
    }

    /// The store's time at `moment`, or up to one exchange earlier; `None` when no reply has
    /// arrived yet.
    pub(super) fn at(&self, moment: Instant) -> Option<StoreTime> {
        let (time, heard) = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        // When the reply arrived, the store's clock was at least here.
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
    async fn the_stores_time_goes_on_from_its_latest_reply() {
        let clock = Clock::default();
        let heard = Instant::now() + Duration::from_mins(1);
        assert_eq!(clock.at(heard), None);
        clock.set(StoreTime(1_000_000), heard);
        assert_eq!(clock.at(heard + Duration::from_secs(5)), Some(StoreTime(1_005_000)));
        let before = clock.at(heard - Duration::from_secs(5)).unwrap();
        assert!(before <= StoreTime(995_000) && before >= StoreTime(994_990));
    }
}
