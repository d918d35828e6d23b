//! The latest requests without a successful response, for the status page.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use super::subject::Subject;
use crate::caller::Name;
use crate::response::{Ended, Outcome};

/// The number of records: a screen full. With their texts cut at [`LONGEST`] they take less than 20
/// kB.
const KEPT: usize = 32;

/// Longer reasons are cut; the log has them in full.
const LONGEST: usize = 300;

/// The latest refusals, failures and invalid requests. Clones share them. Successful responses
/// never touch it.
#[derive(Clone, Debug, Default)]
pub struct RecentErrors(Arc<Mutex<VecDeque<ErrorRecord>>>);

/// A request without a successful response.
#[derive(Clone, Debug)]
pub struct ErrorRecord {
    /// When it ended.
    pub at: Instant,
    /// The status of the response.
    pub status: u16,
    /// The outcome.
    pub outcome: Outcome,
    /// The caller's name.
    pub caller: Name,
    /// The peer's address, or `local` for a Unix socket.
    pub peer: Name,
    /// The operation; `None` when the path is no operation's.
    pub operation: Option<&'static str>,
    /// The method and the path.
    pub target: Arc<str>,
    /// The cause, as in the log.
    pub reason: Option<Arc<str>>,
    /// The request's id, by which it is found in the log.
    pub request_id: Arc<str>,
}

impl RecentErrors {
    /// Records how a request ended.
    pub(super) fn record(&self, ended: &Ended, status: u16, request_id: &str, subject: &Subject) {
        let incident = ErrorRecord {
            at: Instant::now(),
            status,
            outcome: ended.outcome,
            caller: subject.origin.caller.name().clone(),
            peer: subject.origin.peer.name(),
            operation: subject.operation(),
            target: format!("{} {}", subject.method, subject.path()).into(),
            reason: ended.cause.as_deref().map(cut),
            request_id: request_id.into(),
        };
        let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        latest.truncate(KEPT - 1);
        latest.push_front(incident);
    }

    /// The latest 32, newest first.
    pub fn latest(&self) -> Vec<ErrorRecord> {
        let latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        latest.iter().cloned().collect()
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
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::server::access_log::subject::Origin;
    use crate::server::access_log::{Metrics, callers};
    use crate::server::{InboundRequest, Peer};

    fn ended(cause: &str) -> Ended {
        Ended {
            outcome: Outcome::Refused,
            forward: None,
            cause: Some(cause.into()),
        }
    }

    fn subject(path: &str) -> Subject {
        let metrics = Metrics::register(&mut Registry::default());
        let caller: Arc<callers::Caller> = metrics.callers().get(&Name::new("soar"));
        let peer = Peer::unix();
        let arrival = InboundRequest::new(http::Request::post(path).body(()).unwrap(), peer.clone());
        Subject::new(Arc::new(Origin { caller, peer }), arrival.meta())
    }

    #[tokio::test]
    async fn the_newest_come_first_and_only_so_many_are_kept() {
        let (recent_errors, subject) = (RecentErrors::default(), subject("/elsewhere?secret=1"));
        for number in 0..1000 {
            recent_errors.record(&ended(&number.to_string()), 429, "id", &subject);
        }
        let latest = recent_errors.latest();
        assert_eq!(latest.len(), KEPT);
        assert_eq!(latest[0].reason.as_deref(), Some("999"));
        assert_eq!((latest[0].caller.as_str(), latest[0].peer.as_str()), ("soar", "local"));
        assert_eq!(&*latest[0].target, "POST /elsewhere", "without the query");
    }

    #[tokio::test]
    async fn a_long_reason_is_cut_between_characters() {
        let recent_errors = RecentErrors::default();
        recent_errors.record(&ended(&"ä€".repeat(500)), 500, "id", &subject("/"));
        let reason = recent_errors.latest()[0].reason.clone().unwrap();
        assert!(reason.len() <= LONGEST && reason.len() > LONGEST - 4);
    }
}
