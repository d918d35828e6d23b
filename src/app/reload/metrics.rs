//! What is counted about configurations.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Counters and gauges of the configuration. Clones count together.
#[derive(Clone, Debug)]
pub(in crate::app) struct Metrics {
    reloads: Family<Reloads, Counter>,
    successful: Gauge,
    loaded: Gauge<f64, AtomicU64>,
    restart: Gauge,
    info: Family<Info, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reloads {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Info {
    hash: String,
}

impl Metrics {
    /// Registers `config_reload_total{result}`, `config_last_reload_successful`,
    /// `config_last_reload_success_timestamp_seconds`, `config_restart_required` and
    /// `config_info{hash}`.
    pub(in crate::app) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            reloads: Family::default(),
            successful: Gauge::default(),
            loaded: Gauge::default(),
            restart: Gauge::default(),
            info: Family::default(),
        };
        for result in ["ok", "failed"] {
            // A counter that appears with its first failure hides that failure from `increase()`.
            drop(metrics.reloads.get_or_create(&Reloads { result }));
        }
        registry.register(
            "config_reload",
            "Configurations read while running, by how that ended",
            metrics.reloads.clone(),
        );
        registry.register(
            "config_last_reload_successful",
            "1 when the configuration as it is written runs or waits for a restart, 0 when it is wrong and an earlier one runs",
            metrics.successful.clone(),
        );
        registry.register(
            "config_last_reload_success_timestamp_seconds",
            "Unix time at which the running configuration was taken over",
            metrics.loaded.clone(),
        );
        registry.register(
            "config_restart_required",
            "Keys whose written values are used only after a restart",
            metrics.restart.clone(),
        );
        registry.register(
            "config_info",
            "A hash of the running configuration, always 1: replicas that show the same one run the same",
            metrics.info.clone(),
        );
        metrics
    }

    /// This configuration runs.
    pub(super) fn runs(&self, hash: &str, at: jiff::Timestamp, pending: usize) {
        self.successful.set(1);
        self.loaded.set(at.as_second() as f64);
        self.restart.set(i64::try_from(pending).unwrap_or(i64::MAX));
        self.info.clear();
        self.info.get_or_create(&Info { hash: hash.into() }).set(1);
    }

    pub(super) fn count(&self, result: &'static str) {
        self.reloads.get_or_create(&Reloads { result }).inc();
    }

    pub(super) fn failed(&self) {
        self.count("failed");
        self.successful.set(0);
    }
}
