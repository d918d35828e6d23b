//! A state behind a lock that tells of its changes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The state of either kind of quota.
#[derive(Debug)]
pub(super) struct Watched<T> {
    state: Mutex<T>,
    /// Counts changes that make an earlier forecast wrong.
    version: AtomicU64,
    /// Counts the moments at which the state may have changed.
    revision: AtomicU64,
    /// A slot may be free earlier than last said.
    pub(super) changed: Notify,
}

impl<T> Watched<T> {
    pub(super) fn new(state: T) -> Self {
        Self {
            state: Mutex::new(state),
            version: AtomicU64::new(0),
            revision: AtomicU64::new(0),
            changed: Notify::new(),
        }
    }

    /// The state, to change it.
    pub(super) fn lock(&self) -> MutexGuard<'_, T> {
        let state = self.look();
        self.revision.fetch_add(1, Ordering::Relaxed);
        state
    }

    /// The state, to look at it; also to let it do what is due.
    pub(super) fn look(&self) -> MutexGuard<'_, T> {
        // A panic inside leaves a state that is at worst too careful: a charge that ends by itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision.load(Ordering::Relaxed)
    }

    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    /// Earlier forecasts are wrong.
    pub(super) fn forecast_changed(&self) {
        self.version.fetch_add(1, Ordering::Relaxed);
    }

    /// Earlier forecasts are wrong, and slots may come earlier.
    pub(super) fn slots_changed(&self) {
        self.forecast_changed();
        self.changed.notify_one();
    }
}
