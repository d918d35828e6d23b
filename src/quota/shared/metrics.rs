//! What sharing reports.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::quota;
use crate::telemetry::metrics;

/// The shared quota's metrics, those of every quota included.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub(super) quota: quota::Metrics,
    pub(super) store: StoreMetrics,
}

metrics! {
    #[derive(Clone, Debug)]
    pub(super) struct StoreMetrics {
        /// Whether the shared store answered last time
        pub(super) up: Gauge = "store_up",
        /// Steps that the shared store took
        pub(super) steps: Counter = "store_steps",
        /// Steps without an answer from the shared store
        pub(super) failures: Counter = "store_failures",
        /// How often the shared store had lost what it knew
        pub(super) epochs: Counter = "store_epochs",
    }
}

impl Metrics {
    /// Registers the metrics; `quota` is registered already.
    pub fn register(registry: &mut Registry, quota: quota::Metrics) -> Self {
        Self {
            quota,
            store: StoreMetrics::register(registry),
        }
    }

    /// Shows the quota as it is at this moment, and whether the store answers.
    pub(in crate::quota) fn show(&self, snapshot: &quota::Snapshot, is_up: bool) {
        self.quota.show(snapshot);
        self.store.up.set(i64::from(is_up));
    }
}
