//! What the quota reports.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::snapshot::Snapshot;
use crate::telemetry::metrics;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct WindowLabel {
    window: Arc<str>,
}

metrics! {
    /// The quota's metrics.
    #[derive(Clone, Debug)]
    pub struct Metrics {
        /// Calls that the upstream allows in a window
        limit: Family<WindowLabel, Gauge> = "quota_limit",
        /// Calls that may still go in a window now
        remaining: Family<WindowLabel, Gauge> = "quota_remaining",
        /// How long all calls still wait because the upstream answered 429
        paused: Gauge<f64, AtomicU64> = "quota_paused_seconds",
        /// Calls that may leave now as far as the bucket goes that spreads the longest window
        pace_tokens: Gauge<f64, AtomicU64> = "quota_pace_tokens",
        /// Calls by others on the same app registration in a window, as estimated from answers of 429
        foreign: Family<WindowLabel, Gauge> = "quota_foreign_calls",
        /// Answers of 429 from the upstream
        throttled: Counter = "quota_throttled",
    }
}

impl Metrics {
    /// Shows the quota as it is at this moment; called when somebody scrapes.
    pub(super) fn show(&self, snapshot: &Snapshot) {
        if let Some(longest) = snapshot.windows.last() {
            let label = WindowLabel {
                window: longest.name.clone(),
            };
            let foreign = i64::try_from(snapshot.foreign).unwrap_or(i64::MAX);
            self.foreign.get_or_create(&label).set(foreign);
        }
        for window in &snapshot.windows {
            let label = WindowLabel {
                window: window.name.clone(),
            };
            self.limit.get_or_create(&label).set(count(window.limit));
            self.remaining.get_or_create(&label).set(count(window.remaining));
        }
        self.paused.set(snapshot.paused.unwrap_or_default().as_secs_f64());
        // Without a bucket only the windows hold calls back.
        let tokens = snapshot.pace.as_ref().map_or(f64::INFINITY, |pace| pace.tokens);
        self.pace_tokens.set(tokens);
    }

    /// The limits have changed: windows that are gone are not shown any more.
    pub(super) fn forget_windows(&self) {
        self.limit.clear();
        self.remaining.clear();
        self.foreign.clear();
    }

    pub(super) fn throttled(&self) {
        self.throttled.inc();
    }
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
