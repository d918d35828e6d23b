//! When it is said that the store is lost, and that it is back.

use std::time::Duration;

use tokio::time::Instant;

/// Failures that are less apart belong to one outage: a store that is overloaded fails and answers
/// by turns, and is reported once.
const CALM: Duration = Duration::from_secs(10);

/// What was said of the store last. The first failure of an outage is reported, then the first
/// answer, and a further failure only when the store was well for some time in between or has
/// failed for as long.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outage {
    /// It was said that the store is lost, and not that it is back.
    is_lost: bool,
    /// The latest failure.
    failed: Option<Instant>,
    /// Since when it has failed without an answer, which was not said.
    since: Option<Instant>,
}

impl Outage {
    /// The store failed. `true` when that has to be said.
    pub fn failed(&mut self, now: Instant) -> bool {
        let last = self.failed.replace(now);
        if self.is_lost {
            return false;
        }
        let is_long_ago = |at: Instant| now.saturating_duration_since(at) >= CALM;
        let since = *self.since.get_or_insert(now);
        self.is_lost = last.is_none_or(is_long_ago) || is_long_ago(since);
        self.is_lost
    }

    /// The store answered. `true` when that has to be said.
    pub fn answered(&mut self) -> bool {
        self.since = None;
        std::mem::take(&mut self.is_lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_store_that_fails_and_answers_by_turns_is_one_outage() {
        let start = Instant::now();
        let mut outage = Outage::default();
        assert!(!outage.answered());
        let mut said = 0;
        for second in 0..60 {
            said += u32::from(outage.failed(start + SECOND * second));
            said += u32::from(outage.answered());
        }
        assert_eq!(said, 2, "lost once, and back once");
        assert!(outage.failed(start + SECOND * 60 + CALM), "it was well in between");
        assert!(!outage.failed(start + SECOND * 600));
        assert!(outage.answered());
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_fails_again_and_does_not_come_back_is_said_to_be_lost() {
        let start = Instant::now();
        let mut outage = Outage::default();
        assert!(outage.failed(start));
        assert!(outage.answered());
        assert!(!outage.failed(start + SECOND));
        assert!(!outage.failed(start + SECOND * 5));
        assert!(outage.failed(start + SECOND + CALM));
        assert!(outage.answered(), "what was said last is what is so");
    }
}
