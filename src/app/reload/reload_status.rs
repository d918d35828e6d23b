//! How it stands with the configuration, for `/status`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::config::Key;

/// How it stands. Clones share it.
#[derive(Clone, Debug)]
pub(in crate::app) struct Configuration(Arc<Mutex<ReloadStatus>>);

#[derive(Debug)]
struct ReloadStatus {
    hash: String,
    since: Instant,
    pending: Vec<String>,
    last_error: Option<String>,
}

impl Configuration {
    pub(super) fn new(hash: String) -> Self {
        Self(Arc::new(Mutex::new(ReloadStatus {
            hash,
            since: Instant::now(),
            pending: Vec::new(),
            last_error: None,
        })))
    }

    pub(super) fn runs(&self, hash: String, pending: &[&'static Key]) {
        *self.lock() = ReloadStatus {
            hash,
            since: Instant::now(),
            pending: pending.iter().map(|key| key.path()).collect(),
            last_error: None,
        };
    }

    pub(super) fn failed(&self, error: String) {
        self.lock().last_error = Some(error);
    }

    /// Why the written configuration is refused, if it is, and the keys whose values wait for a
    /// restart.
    pub(in crate::app) fn standing(&self) -> (Option<String>, Vec<String>) {
        let standing = self.lock();
        (standing.last_error.clone(), standing.pending.clone())
    }

    pub(in crate::app) fn show(&self) -> Value {
        let standing = self.lock();
        json!({
            "hash": standing.hash,
            "since_s": standing.since.elapsed().as_secs(),
            "restart_required": standing.pending,
            "last_error": standing.last_error,
        })
    }

    fn lock(&self) -> MutexGuard<'_, ReloadStatus> {
        // Every change is complete before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
