//! What is counted about configurations.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::telemetry::{Counters, metrics, named_enum};

metrics! {
    /// Counters and gauges of the configuration. Clones count together.
    #[derive(Clone, Debug)]
    pub(in crate::app) struct Metrics {
        /// Configurations read while running, by how that ended.
        reloads: Counters<Outcome> = "config_reload" => by("result"),
        /// 1 when the configuration as it is written runs or waits for a restart, 0 when it is wrong
        /// and an earlier one runs.
        successful: Gauge = "config_last_reload_successful",
        /// Unix time at which the running configuration was taken over.
        loaded: Gauge<f64, AtomicU64> = "config_last_reload_success_timestamp_seconds",
        /// Keys whose written values are used only after a restart.
        restart: Gauge = "config_restart_required",
        /// A hash of the running configuration, always 1: replicas that show the same one run the
        /// same.
        info: Family<Info, Gauge> = "config_info",
    }
}

named_enum! {
    /// How a reload ended.
    #[derive(Clone, Copy, Debug)]
    pub(super) enum Outcome, as_str {
        Ok = "ok",
        Failed = "failed",
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Info {
    hash: String,
}

impl Metrics {
    /// This configuration runs.
    pub(super) fn runs(&self, hash: &str, at: jiff::Timestamp, pending: usize) {
        self.successful.set(1);
        self.loaded.set(at.as_second() as f64);
        self.restart.set(i64::try_from(pending).unwrap_or(i64::MAX));
        self.info.clear();
        self.info.get_or_create(&Info { hash: hash.into() }).set(1);
    }

    pub(super) fn count(&self, result: Outcome) {
        self.reloads.of(result).inc();
    }

    pub(super) fn failed(&self) {
        self.count(Outcome::Failed);
        self.successful.set(0);
    }
}
