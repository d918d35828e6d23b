//! The metrics of batching.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::time::Instant;

use crate::scan::SplitError;
use crate::telemetry::{Counters, metrics};

metrics! {
    /// The counters of batches. Clones count together.
    #[derive(Clone, Debug)]
    pub struct Metrics {
        /// Upstream calls that asked for several requests at once.
        merged_calls: Counter = "merged_calls",
        /// Requests answered by such calls.
        merged_requests: Counter = "merged_requests",
        /// Upstream calls for ids that requests lacked.
        calls_by_id: Counter = "calls_by_id",
        /// Ids that upstream calls asked for because requests lacked them.
        asked_ids: Counter = "asked_ids",
        /// Such calls whose answer could not be taken apart with certainty.
        split_errors: Counters<SplitError> = "merge_doubts" => by("reason"),
        /// 1 from the doubt that switched merging off until a merged call goes well again.
        paused: Gauge = "merge_resting",
        pause: Arc<Mutex<Option<(Instant, SplitError)>>>,
    }
}

impl Metrics {
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
        self.split_errors.of(reason).inc();
    }
}
