//! The metrics of batching.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use crate::scan::SplitError;

/// The counters of batches. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    merged_calls: Counter,
    merged_requests: Counter,
    calls_by_id: Counter,
    asked_ids: Counter,
    split_errors: Family<Labels, Counter>,
    paused: Gauge,
    pause: Arc<Mutex<Option<(Instant, SplitError)>>>,
}

impl Metrics {
    /// Registers `merged_calls_total`, `merged_requests_total`, `calls_by_id_total`,
    /// `asked_ids_total`, `merge_doubts_total{reason}` and `merge_resting` in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for reason in SplitError::ALL {
            // A counter that first appears with the value 1 hides that increase from `increase()`.
            drop(metrics.split_errors.get_or_create(&Labels { reason }));
        }
        registry.register(
            "merged_calls",
            "Upstream calls that asked for several requests at once",
            metrics.merged_calls.clone(),
        );
        registry.register(
            "merged_requests",
            "Requests answered by such calls",
            metrics.merged_requests.clone(),
        );
        registry.register(
            "calls_by_id",
            "Upstream calls for ids that requests lacked",
            metrics.calls_by_id.clone(),
        );
        registry.register(
            "asked_ids",
            "Ids that upstream calls asked for because requests lacked them",
            metrics.asked_ids.clone(),
        );
        registry.register(
            "merge_doubts",
            "Such calls whose answer could not be taken apart with certainty",
            metrics.split_errors.clone(),
        );
        registry.register(
            "merge_resting",
            "1 from the doubt that switched merging off until a merged call goes well again",
            metrics.paused.clone(),
        );
        metrics
    }

    /// Upstream calls that asked for several requests at once.
    pub fn merged_calls(&self) -> u64 {
        self.merged_calls.get()
    }

    /// Requests answered by such calls.
    pub fn merged_requests(&self) -> u64 {
        self.merged_requests.get()
    }

    /// How much longer batching is paused, and the failed split that paused it; `None` when it is
    /// not paused.
    pub fn resting(&self) -> Option<(Duration, SplitError)> {
        let (until, split_error) = (*self.pause.lock().unwrap_or_else(PoisonError::into_inner))?;
        let left = until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some((left, split_error))
    }

    pub(super) fn pause(&self, until: Instant, split_error: SplitError) {
        self.paused.set(1);
        *self.pause.lock().unwrap_or_else(PoisonError::into_inner) = Some((until, split_error));
    }

    pub(super) fn resume(&self) {
        self.paused.set(0);
        *self.pause.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Upstream calls for ids that requests lacked, and how many ids these were.
    pub fn asked_ids(&self) -> (u64, u64) {
        (self.calls_by_id.get(), self.asked_ids.get())
    }

    pub(super) fn record_ids(&self, ids: usize) {
        self.calls_by_id.inc();
        self.asked_ids.inc_by(ids as u64);
    }

    pub(super) fn record_batch(&self, requests: usize) {
        self.merged_calls.inc();
        self.merged_requests.inc_by(requests as u64);
    }

    pub(super) fn record_split_error(&self, reason: SplitError) {
        self.split_errors.get_or_create(&Labels { reason }).inc();
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    reason: SplitError,
}
