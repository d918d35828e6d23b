//! Ids that the upstream rejected when they were asked for alone, and that would make a batch fail.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::scan::Request;

/// The rejected ids, each for some minutes.
#[derive(Debug, Default)]
pub(super) struct RejectedIds {
    until: HashMap<Box<str>, Instant>,
}

impl RejectedIds {
    /// How long an id is kept out of batches. As when batching is paused, this only costs some
    /// calls.
    const TIME: Duration = Duration::from_mins(10);
    /// The most ids remembered. If there are more, batching is paused now and then.
    const MOST: usize = 1024;

    /// Records that a request was rejected. Any of its ids may have been the reason.
    pub(super) fn note(&mut self, request: &Request, now: Instant) {
        for id in request.ids() {
            if self.until.len() >= Self::MOST {
                self.until.retain(|_, until| *until > now);
            }
            if self.until.len() < Self::MOST {
                self.until.insert(id.into(), now + Self::TIME);
            }
        }
    }

    /// Whether a request names one of them.
    pub(super) fn include(&self, request: &Request, now: Instant) -> bool {
        !self.until.is_empty()
            && request
                .ids()
                .any(|id| self.until.get(id).is_some_and(|until| *until > now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::Endpoint;

    #[tokio::test(start_paused = true)]
    async fn rejected_ids_expire_and_are_bounded() {
        let request = |id: &str| Request::plain(Endpoint::HISTORY, [id]).unwrap();
        let mut rejected_ids = RejectedIds::default();
        let now = Instant::now();
        for n in 0..2000 {
            rejected_ids.note(&request(&n.to_string()), now);
        }
        assert_eq!(rejected_ids.until.len(), RejectedIds::MOST);
        assert!(rejected_ids.include(&request("7"), now));
        assert!(!rejected_ids.include(&request("x"), now));
        let later = now + RejectedIds::TIME;
        assert!(!rejected_ids.include(&request("7"), later));
        rejected_ids.note(&request("x"), later);
        assert_eq!(rejected_ids.until.len(), 1);
    }
}
