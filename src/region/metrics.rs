//! The metrics of regions.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// Gauges for each host. The label is the region's name; further hosts of the same name append
/// their host name, as in `eu (api-eu.securitycenter.microsoft.com)`. Clones share the values.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    rtt: Family<Label, Gauge<f64, AtomicU64>>,
    healthy: Family<Label, Gauge>,
    selected: Family<Label, Gauge>,
    /// The number of the selector whose values are shown: the latest one.
    shown: Arc<AtomicU64>,
    own: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    region: Arc<str>,
}

impl Metrics {
    /// Registers `region_rtt_seconds{region}`, `region_healthy{region}` and
    /// `region_selected{region}`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register_with_unit(
            "region_rtt",
            "Smoothed time to set a connection to the region's host up",
            Unit::Seconds,
            metrics.rtt.clone(),
        );
        registry.register(
            "region_healthy",
            "1 when the region's host is in use or could be, 0 when it has been left",
            metrics.healthy.clone(),
        );
        registry.register(
            "region_selected",
            "1 for the region that calls go to",
            metrics.selected.clone(),
        );
        metrics
    }

    /// The same gauges for a selector that replaces the current one. Their values are cleared, and
    /// the old selector no longer changes them.
    pub fn succeed(&self) -> Self {
        let own = self.shown.fetch_add(1, Ordering::Relaxed) + 1;
        self.rtt.clear();
        self.healthy.clear();
        self.selected.clear();
        Self { own, ..self.clone() }
    }

    pub(super) fn show(&self, row: &crate::region::HostStatus) {
        if self.shown.load(Ordering::Relaxed) != self.own {
            return;
        }
        let label = Label {
            region: Arc::clone(&row.label),
        };
        if let Some(rtt) = row.rtt {
            self.rtt.get_or_create(&label).set(rtt.as_secs_f64());
        }
        self.healthy.get_or_create(&label).set(row.healthy.into());
        self.selected.get_or_create(&label).set(row.selected.into());
    }
}
