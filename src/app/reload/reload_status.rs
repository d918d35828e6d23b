//! How it stands with the configuration, for `/status` and in metrics.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::clock::Wall;
use crate::config::Key;
use crate::telemetry::{Counters, metrics, named_enum};

/// How it stands. Clones share it.
#[derive(Clone, Debug)]
pub(in crate::app) struct Configuration {
    status: Arc<Mutex<ReloadStatus>>,
    metrics: Metrics,
    wall: Wall,
}

#[derive(Debug)]
struct ReloadStatus {
    hash: String,
    since: Instant,
    pending: Vec<String>,
    refusal: Option<Refusal>,
}

/// Why the written configuration does not run.
#[derive(Clone, Debug)]
pub(in crate::app) struct Refusal {
    pub(in crate::app) error: String,
    /// Whether a gateway does not start with it. With credentials that bring no token, one does.
    pub(in crate::app) is_fatal: bool,
}

metrics! {
    /// Counters and gauges of the configuration. Clones count together.
    #[derive(Clone, Debug)]
    struct Metrics {
        /// Configurations read while running, by how that ended.
        reloads: Counters<Outcome> = "config_reload" => by("result"),
        /// 1 when the configuration as it is written runs or waits for a restart, 0 when it is
        /// wrong and an earlier one runs.
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
    enum Outcome, as_str {
        Ok = "ok",
        Failed = "failed",
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Info {
    hash: String,
}

impl Configuration {
    /// The configuration with this hash is the first one.
    pub(super) fn new(hash: String, registry: &mut Registry) -> Self {
        let status = ReloadStatus {
            hash: String::new(),
            since: Instant::now(),
            pending: Vec::new(),
            refusal: None,
        };
        let configuration = Self {
            status: Arc::new(Mutex::new(status)),
            metrics: Metrics::register(registry),
            wall: Wall::system(),
        };
        configuration.runs(hash, &[]);
        configuration
    }

    /// This configuration runs, perhaps as before.
    pub(super) fn runs(&self, hash: String, pending: &[&'static Key]) {
        self.metrics.successful.set(1);
        self.awaits_restart(pending);
        let mut status = self.lock();
        status.refusal = None;
        if status.hash != hash {
            self.metrics.loaded.set(self.wall.now().as_second() as f64);
            self.metrics.info.clear();
            self.metrics.info.get_or_create(&Info { hash: hash.clone() }).set(1);
            (status.hash, status.since) = (hash, Instant::now());
        }
    }

    /// Of what is written now these keys wait for a restart, whatever becomes of the rest.
    pub(super) fn awaits_restart(&self, pending: &[&'static Key]) {
        self.metrics
            .restart
            .set(i64::try_from(pending.len()).unwrap_or(i64::MAX));
        self.lock().pending = pending.iter().map(|key| key.path()).collect();
    }

    /// A reload went well.
    pub(super) fn reloaded(&self) {
        self.metrics.reloads.of(Outcome::Ok).inc();
    }

    /// A reload failed: what ran before runs on.
    pub(super) fn failed(&self, refusal: Refusal) {
        self.metrics.reloads.of(Outcome::Failed).inc();
        self.metrics.successful.set(0);
        self.lock().refusal = Some(refusal);
    }

    /// Why the written configuration is refused, if it is, and the keys whose values wait for a
    /// restart.
    pub(in crate::app) fn standing(&self) -> (Option<Refusal>, Vec<String>) {
        let standing = self.lock();
        (standing.refusal.clone(), standing.pending.clone())
    }

    pub(in crate::app) fn show(&self) -> Value {
        let standing = self.lock();
        json!({
            "hash": standing.hash,
            "since_s": standing.since.elapsed().as_secs(),
            "restart_required": standing.pending,
            "last_error": standing.refusal.as_ref().map(|refusal| &refusal.error),
        })
    }

    fn lock(&self) -> MutexGuard<'_, ReloadStatus> {
        // Every change is complete before anything can panic.
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reload_that_finds_nothing_new_takes_nothing_over() {
        let configuration = Configuration::new("a".into(), &mut Registry::default());
        let after_a_minute = async |hash: &str| {
            tokio::time::advance(Duration::from_mins(1)).await;
            configuration.runs(hash.into(), &[]);
            configuration.show()["since_s"].clone()
        };
        assert_eq!(after_a_minute("a").await, 60);
        configuration.failed(Refusal {
            error: String::new(),
            is_fatal: true,
        });
        assert_eq!(after_a_minute("a").await, 120);
        assert!(configuration.standing().0.is_none());
        assert_eq!(after_a_minute("b").await, 0);
    }
}
