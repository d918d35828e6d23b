//! What was asked for before the machine was suspended is older than this process's time says.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use crate::clock;

/// What is known of the suspends until now.
pub(super) struct Suspends {
    /// How long the machine had been suspended, in nanoseconds, when this was last looked at.
    seen: AtomicU64,
    /// When the latest was noticed.
    resumed: Mutex<Option<Instant>>,
}

impl Suspends {
    /// Those of the past do not count.
    pub(super) fn new() -> Self {
        Self {
            seen: AtomicU64::new(suspended()),
            resumed: Mutex::default(),
        }
    }

    /// Calls `forget` once after each. Nobody who looks goes on before it has returned.
    pub(super) fn look(&self, forget: impl FnOnce()) {
        let suspended = suspended();
        if self.seen.load(Ordering::Acquire) >= suspended {
            return;
        }
        let mut resumed = self.resumed.lock().unwrap_or_else(PoisonError::into_inner);
        if self.seen.load(Ordering::Acquire) < suspended {
            forget();
            *resumed = Some(Instant::now());
            self.seen.store(suspended, Ordering::Release);
        }
    }

    /// Whether what was asked for at that moment may be older than it seems.
    pub(super) fn have_aged(&self, asked: Instant) -> bool {
        let resumed = self.resumed.lock().unwrap_or_else(PoisonError::into_inner);
        resumed.is_some_and(|resumed| asked < resumed)
    }
}

impl Clone for Suspends {
    fn clone(&self) -> Self {
        let resumed = self.resumed.lock().unwrap_or_else(PoisonError::into_inner);
        Self {
            seen: AtomicU64::new(self.seen.load(Ordering::Acquire)),
            resumed: Mutex::new(*resumed),
        }
    }
}

/// In nanoseconds, as an atomic can hold it.
fn suspended() -> u64 {
    u64::try_from(clock::suspended().as_nanos()).unwrap_or(u64::MAX)
}
