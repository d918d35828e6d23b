//! Ids that were refused when they were asked for alone, and so would have a united call refused.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::scan::Request;

/// The suspects, for some minutes each.
#[derive(Debug, Default)]
pub(super) struct RejectedIds {
    until: HashMap<Box<str>, Instant>,
}

impl RejectedIds {
    /// For how long an id is not asked for in company: as with merging as a whole, nothing is lost but some calls.
    const TIME: Duration = Duration::from_mins(10);
    /// Most ids remembered. With more, merging will rest now and then.
    const MOST: usize = 1024;

    /// Notes that a question was refused. It may be any of its ids.
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

    /// Whether a question names one of them.
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
    async fn suspicion_passes_and_is_bounded() {
        let question = |id: &str| Request::plain(Endpoint::HISTORY, [id]).unwrap();
        let mut suspects = RejectedIds::default();
        let now = Instant::now();
        for n in 0..2000 {
            suspects.note(&question(&n.to_string()), now);
        }
        assert_eq!(suspects.until.len(), RejectedIds::MOST);
        assert!(suspects.include(&question("7"), now));
        assert!(!suspects.include(&question("x"), now));
        let later = now + RejectedIds::TIME;
        assert!(!suspects.include(&question("7"), later));
        suspects.note(&question("x"), later);
        assert_eq!(suspects.until.len(), 1);
    }
}
