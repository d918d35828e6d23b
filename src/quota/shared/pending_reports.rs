//! What has become of calls, until the store has heard of it.

use tokio::time::Instant;

use super::messages::{self, ThrottleHint};
use crate::quota;

/// Calls whose end the store does not know of yet. They are kept until a step that names them was
/// taken.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct PendingReports {
    settled: Vec<(String, Instant)>,
    refunded: Vec<String>,
    throttled: Vec<(ThrottleHint, Instant)>,
    lost: Vec<String>,
    /// How many of each the step under way names.
    saying: [usize; 4],
}

/// The same as a step says it.
#[derive(Debug)]
pub(super) struct Reports<'a> {
    /// Charges that count as made, and for how long in microseconds.
    pub settled: Vec<(String, i64)>,
    /// Charges of calls that were not made.
    pub refunded: &'a [String],
    /// What 429s said.
    pub throttled: Vec<ThrottleHint>,
    /// Charges of calls that nobody will hear of again. They stay, because the calls may have
    /// arrived; but a probe among them finds nothing out.
    pub lost: &'a [String],
}

impl PendingReports {
    pub(super) fn settle(&mut self, id: String, now: Instant) {
        self.settled.push((id, now));
    }

    pub(super) fn refund(&mut self, ids: impl IntoIterator<Item = String>) {
        self.refunded.extend(ids);
    }

    pub(super) fn lose(&mut self, id: String) {
        self.lost.push(id);
    }

    pub(super) fn throttle(&mut self, id: String, answer: quota::ThrottleHint, now: Instant) {
        let said = ThrottleHint {
            id,
            age: 0,
            wait: answer.wait.map(messages::micros),
            window: answer.window.map(messages::micros),
        };
        self.throttled.push((said, now));
    }

    /// All of it, for the next step.
    pub(super) fn say(&mut self, now: Instant) -> Reports<'_> {
        self.saying = [
            self.settled.len(),
            self.refunded.len(),
            self.throttled.len(),
            self.lost.len(),
        ];
        let throttled = |(said, at): &(ThrottleHint, Instant)| ThrottleHint {
            age: messages::age(*at, now),
            ..said.clone()
        };
        Reports {
            settled: self
                .settled
                .iter()
                .map(|(id, at)| (id.clone(), messages::age(*at, now)))
                .collect(),
            refunded: &self.refunded,
            throttled: self.throttled.iter().map(throttled).collect(),
            lost: &self.lost,
        }
    }

    /// The store has heard the latest step.
    pub(super) fn on_reply(&mut self) {
        let [settled, refunded, throttled, lost] = std::mem::take(&mut self.saying);
        self.settled.drain(..settled);
        self.refunded.drain(..refunded);
        self.throttled.drain(..throttled);
        self.lost.drain(..lost);
    }
}
