//! What has become of calls, until the store has heard of it.

use serde::Serialize;
use tokio::time::Instant;

use super::messages::{self, ThrottleHint};
use crate::quota;

/// What has become of a call.
#[derive(Clone, Copy, Debug)]
pub(super) enum Report {
    /// It counts as made at that moment.
    Settled(Instant),
    /// It was not made.
    Refunded,
    /// It was refused with 429 at that moment.
    Throttled(quota::ThrottleHint, Instant),
    /// Nobody will hear of it again.
    Lost,
}

/// Calls whose end the store does not know of yet. They are kept until a step that names them was
/// taken.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct PendingReports {
    /// By the names of the charges, in the order in which the calls ended.
    reports: Vec<(String, Report)>,
    /// How many the step under way names.
    saying: usize,
}

/// The same as a step says it.
#[derive(Debug, Default, Serialize)]
pub(super) struct Reports {
    /// Charges that count as made, and for how long in microseconds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    settled: Vec<(String, i64)>,
    /// Charges of calls that were not made.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) refunded: Vec<String>,
    /// What 429s said.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    throttled: Vec<ThrottleHint>,
    /// Charges of calls that nobody will hear of again. They stay, because the calls may have
    /// arrived; but a probe among them finds nothing out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lost: Vec<String>,
}

impl PendingReports {
    pub(super) fn add(&mut self, id: String, report: Report) {
        self.reports.push((id, report));
    }

    /// All of it, for the next step.
    pub(super) fn say(&mut self, now: Instant) -> Reports {
        self.saying = self.reports.len();
        let mut said = Reports::default();
        for (id, report) in self.reports.iter().cloned() {
            match report {
                Report::Settled(at) => said.settled.push((id, messages::age(at, now))),
                Report::Refunded => said.refunded.push(id),
                Report::Throttled(hint, at) => said.throttled.push(ThrottleHint {
                    id,
                    age: messages::age(at, now),
                    wait: hint.wait.map(messages::micros),
                    window: hint.window.map(messages::micros),
                }),
                Report::Lost => said.lost.push(id),
            }
        }
        said
    }

    /// The store has heard the latest step.
    pub(super) fn on_reply(&mut self) {
        self.reports.drain(..std::mem::take(&mut self.saying));
    }
}
