//! The metrics of regions.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::telemetry::metrics;

metrics! {
    /// Gauges for each host. The label is the region's name; further hosts of the same name append
    /// their host name, as in `eu (api-eu.securitycenter.microsoft.com)`. Clones share the values.
    #[derive(Clone, Debug)]
    pub struct Metrics {
        /// Smoothed time to set a connection to the region's host up.
        rtt: Family<Label, Gauge<f64, AtomicU64>> = "region_rtt" in Seconds,
        /// 1 when the region's host is in use or could be, 0 when it has been left.
        healthy: Family<Label, Gauge> = "region_healthy",
        /// 1 for the region that calls go to.
        selected: Family<Label, Gauge> = "region_selected",
        /// The number of the selector whose values are shown: the latest one.
        shown: Arc<AtomicU64>,
        own: u64,
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    region: Arc<str>,
}

impl Metrics {
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
