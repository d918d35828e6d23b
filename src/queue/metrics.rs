//! What the queue reports.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::refused::Reason;
use super::snapshot::Snapshot;
use crate::telemetry::{Counters, metrics};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CallerLabel {
    caller: String,
}

/// Callers with series of their own: names are not authenticated, and a monitor keeps what it has
/// seen.
const CALLERS: usize = 20;

metrics! {
    /// The queue's metrics.
    #[derive(Clone, Debug)]
    pub struct Metrics {
        /// Requests that wait for a slot of the quota
        pub(super) waiting: Gauge = "queue_waiting",
        /// How long requests waited for a slot
        wait: Histogram = "queue_wait_seconds" => new(WAIT_BUCKETS),
        /// Requests refused because of the quota
        refused: Counters<Reason> = "queue_refused" => by("reason"),
        /// Callers who have a request waiting
        callers: Gauge = "queue_callers",
        /// How long a caller who is new here would wait for a slot
        predicted_wait: Gauge<f64, AtomicU64> = "queue_predicted_wait_seconds",
        /// Requests that wait, for the 20 callers with the most
        caller_waiting: Family<CallerLabel, Gauge> = "queue_caller_waiting",
        /// How long until the next turn of each of these callers
        caller_wait: Family<CallerLabel, Gauge<f64, AtomicU64>> = "queue_caller_predicted_wait_seconds",
        /// Slots that each of these callers has had since it was first seen
        caller_served: Family<CallerLabel, Gauge> = "queue_caller_served",
    }
}

/// Waits are either nothing, a few slots of 2.4 s, or up to the longest wait of ten minutes.
const WAIT_BUCKETS: [f64; 10] = [0.001, 0.01, 0.1, 1.0, 2.5, 5.0, 15.0, 30.0, 120.0, 600.0];

impl Metrics {
    /// Brings the gauges up to date.
    pub(super) fn show(&self, snapshot: &Snapshot) {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.callers.set(gauge(snapshot.callers));
        self.predicted_wait.set(snapshot.predicted_wait.as_secs_f64());
        // Other callers than last time, perhaps.
        self.caller_waiting.clear();
        self.caller_wait.clear();
        self.caller_served.clear();
        for share in snapshot.shares.iter().take(CALLERS) {
            let label = CallerLabel {
                caller: share.name.to_string(),
            };
            let wait = share.outlook.map_or(Duration::ZERO, |outlook| outlook.next);
            self.caller_waiting.get_or_create(&label).set(gauge(share.waiting));
            self.caller_wait.get_or_create(&label).set(wait.as_secs_f64());
            let served = i64::try_from(share.served).unwrap_or(i64::MAX);
            self.caller_served.get_or_create(&label).set(served);
        }
    }

    pub(super) fn waited(&self, wait: Duration) {
        self.wait.observe(wait.as_secs_f64());
    }

    /// Counts a refusal.
    pub fn refused(&self, reason: Reason) {
        self.refused.of(reason).inc();
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::caller::Name;
    use crate::queue::snapshot::CallerShare;

    #[test]
    fn so_many_callers_have_series_of_their_own_and_those_who_left_have_none() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let series = |prefix: &str| {
            let share = |n: usize| CallerShare {
                name: Name::new(&format!("{prefix}{n:02}")),
                waiting: 1,
                served: 0,
                outlook: None,
            };
            metrics.show(&Snapshot {
                waiting: 50,
                callers: 50,
                predicted_wait: Duration::ZERO,
                shares: (0..50).map(share).collect(),
            });
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            let of = |prefix: &str| {
                text.matches(&format!("queue_caller_waiting{{caller=\"{prefix}"))
                    .count()
            };
            [of("old"), of("new")]
        };
        assert_eq!(series("old"), [20, 0]);
        assert_eq!(series("new"), [0, 20]);
    }
}
