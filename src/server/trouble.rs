//! The latest questions that did not get a good answer, for people who look.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use crate::respond::{Ended, Outcome};

/// How many are kept: a screen full. With their text cut at [`LONGEST`] they take less than 20 kB.
const KEPT: usize = 32;

/// Longer reasons are cut; the log has them whole.
const LONGEST: usize = 300;

/// The latest refusals and failures, and how many there were. Clones share them. Good answers never touch it.
#[derive(Clone, Debug, Default)]
pub struct Trouble(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    refused: AtomicU64,
    failed: AtomicU64,
    latest: Mutex<VecDeque<Incident>>,
}

/// One question that did not get a good answer.
#[derive(Clone, Debug)]
pub struct Incident {
    /// When it ended.
    pub at: Instant,
    /// The status that the caller saw.
    pub status: u16,
    /// How it ended: refused, failed, or the upstream's own error passed through.
    pub outcome: Outcome,
    /// Why, as in the log.
    pub reason: Option<Arc<str>>,
    /// The request's id, to find it in the log.
    pub request_id: Arc<str>,
}

impl Trouble {
    /// Remembers how a question ended.
    pub(super) fn note(&self, ended: &Ended, status: u16, request_id: &str) {
        match ended.outcome {
            Outcome::Refused => &self.0.refused,
            Outcome::Failed | Outcome::Served(_) => &self.0.failed,
        }
        .fetch_add(1, Ordering::Relaxed);
        let incident = Incident {
            at: Instant::now(),
            status,
            outcome: ended.outcome,
            reason: ended.cause.as_deref().map(cut),
            request_id: request_id.into(),
        };
        let mut latest = self.0.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest.truncate(KEPT - 1);
        latest.push_front(incident);
    }

    /// The latest 32, the newest first.
    #[must_use]
    pub fn latest(&self) -> Vec<Incident> {
        let latest = self.0.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest.iter().cloned().collect()
    }

    /// How many were refused since the start.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// How many failed since the start, by the gateway's fault or the upstream's.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.0.failed.load(Ordering::Relaxed)
    }
}

fn cut(reason: &str) -> Arc<str> {
    let mut end = LONGEST.min(reason.len());
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason[..end].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(outcome: Outcome, cause: &str) -> Ended {
        Ended {
            outcome,
            cause: Some(cause.into()),
        }
    }

    #[tokio::test]
    async fn the_newest_come_first_and_only_so_many_are_kept() {
        let trouble = Trouble::default();
        for number in 0..1000 {
            trouble.note(&ended(Outcome::Refused, &number.to_string()), 429, "id");
        }
        trouble.note(&ended(Outcome::Failed, "the last"), 502, "id");
        let latest = trouble.latest();
        assert_eq!(latest.len(), KEPT);
        assert_eq!(latest[0].reason.as_deref(), Some("the last"));
        assert_eq!(latest[1].reason.as_deref(), Some("999"));
        assert_eq!((trouble.refused(), trouble.failed()), (1000, 1));
    }

    #[tokio::test]
    async fn a_long_reason_is_cut_between_characters() {
        let trouble = Trouble::default();
        trouble.note(&ended(Outcome::Failed, &"ä€".repeat(500)), 500, "id");
        let reason = trouble.latest()[0].reason.clone().unwrap();
        assert!(reason.len() <= LONGEST && reason.len() > LONGEST - 4);
    }
}
