//! What sharing reports.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::quota;

/// The shared quota's metrics, those of every quota included.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub(super) quota: quota::Metrics,
    pub(super) up: Gauge,
    pub(super) steps: Counter,
    pub(super) failures: Counter,
    pub(super) epochs: Counter,
}

impl Metrics {
    /// Registers the metrics; `quota` is registered already.
    pub fn register(registry: &mut Registry, quota: quota::Metrics) -> Self {
        let metrics = Self {
            quota,
            ..Self::default()
        };
        registry.register(
            "store_up",
            "Whether the shared store answered last time",
            metrics.up.clone(),
        );
        registry.register("store_steps", "Steps that the shared store took", metrics.steps.clone());
        registry.register(
            "store_failures",
            "Steps without an answer from the shared store",
            metrics.failures.clone(),
        );
        registry.register(
            "store_epochs",
            "How often the shared store had lost what it knew",
            metrics.epochs.clone(),
        );
        metrics
    }
}
