//! What is known of the requests that have ended: the metrics, and for the status page the latest
//! ones without a successful response.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use super::callers::{Caller, Callers};
use super::open_request::Subject;
use crate::caller::Name;
use crate::response::{Ended, Outcome};
use crate::scan::{self, ForwardReason, Operation};

/// The metrics of requests and their durations. Clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    duration: Family<OutcomeLabel, Histogram>,
    panics: Counter,
    exhausted: Counter,
    recent_errors: RecentErrors,
    callers: Callers,
    totals: Arc<Totals>,
}

#[derive(Debug, Default)]
struct Totals {
    outcomes: [AtomicU64; Outcome::COUNT],
    /// How many forwarded requests asked for a part of their ids only.
    partial: AtomicU64,
    /// The counters of successful responses, resolved once, so that a hit need not look them up.
    good: [Good; Operation::ALL.len()],
}

/// Indexed by outcome.
type Good = [OnceLock<(Counter, Histogram)>; scan::Outcome::ALL.len()];

/// The labels of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    /// `None` when the path is no operation's.
    pub(super) operation: Option<Operation>,
    pub(super) caller: &'a Caller,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    operation: &'static str,
    outcome: &'static str,
    status: u16,
}

impl RequestLabels {
    fn of(operation: Option<Operation>, outcome: Outcome, status: u16) -> Self {
        Self {
            operation: operation.map_or("none", |operation| operation.declaration().name),
            outcome: outcome.as_str(),
            status,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// From a hit in memory to the longest wait in the queue, in seconds.
const BUCKETS: [f64; 16] = [
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0, 600.0,
];

/// How requests to an operation commonly end. These series are there from the start: one that first
/// appears with the value 1 hides that increase from `increase()`, and with it the first failures
/// after a start, which in a short job are all there are.
const EXPECTED: [(Outcome, &[u16]); 7] = [
    (Outcome::Served(scan::Outcome::Hit), &[200]),
    (Outcome::Served(scan::Outcome::Stale), &[200]),
    (Outcome::Served(scan::Outcome::Collapsed), &[200]),
    (Outcome::Served(scan::Outcome::Merged), &[200]),
    (Outcome::Served(scan::Outcome::Forwarded), &[200]),
    (Outcome::Refused, &[429, 503]),
    (Outcome::Failed, &[401, 403, 500, 502, 503, 504]),
];

impl Metrics {
    /// Registers `requests`, `request_duration_seconds`, `caller_requests`, `panics` and
    /// `memory_refused`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            duration: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            panics: Counter::default(),
            exhausted: Counter::default(),
            recent_errors: RecentErrors::default(),
            callers: Callers::register(registry),
            totals: Arc::default(),
        };
        for operation in Operation::ALL {
            for (outcome, status) in EXPECTED
                .iter()
                .flat_map(|(outcome, all)| all.iter().map(move |one| (outcome, one)))
            {
                let labels = RequestLabels::of(Some(operation), *outcome, *status);
                metrics.requests.get_or_create_owned(&labels);
            }
        }
        registry.register(
            "requests",
            "Requests answered, by operation (`none`: the path is unknown), how, and with which status (499: the caller went away)",
            metrics.requests.clone(),
        );
        registry.register(
            "request_duration_seconds",
            "Time from the last header field to the answer",
            metrics.duration.clone(),
        );
        registry.register(
            "panics",
            "Requests lost to a defect in the gateway",
            metrics.panics.clone(),
        );
        registry.register(
            "memory_refused",
            "Requests refused for want of memory",
            metrics.exhausted.clone(),
        );
        metrics
    }

    /// The counter for [`response::Config`](crate::response::Config).
    pub fn panics(&self) -> Counter {
        self.panics.clone()
    }

    /// The other one.
    pub fn exhausted(&self) -> Counter {
        self.exhausted.clone()
    }

    /// The latest requests without a successful response.
    pub fn recent_errors(&self) -> RecentErrors {
        self.recent_errors.clone()
    }

    /// The counts by caller.
    pub fn callers(&self) -> &Callers {
        &self.callers
    }

    /// How many requests have ended with this outcome since the start.
    pub fn ended(&self, outcome: Outcome) -> u64 {
        self.totals.outcomes[outcome.index()].load(Ordering::Relaxed)
    }

    /// How many forwarded requests asked only for the ids that were not stored.
    pub fn partial(&self) -> u64 {
        self.totals.partial.load(Ordering::Relaxed)
    }

    pub(super) fn count(&self, asked: Asked<'_>, outcome: Outcome, status: u16, seconds: f64) {
        let look_up = || self.look_up(asked.operation, outcome, status);
        let (requests, duration) = match (asked.operation, outcome) {
            (Some(operation), Outcome::Served(served)) if status == 200 => {
                self.totals.good[operation as usize][served as usize].get_or_init(look_up)
            }
            _ => &look_up(),
        };
        requests.inc();
        duration.observe(seconds);
        self.totals.outcomes[outcome.index()].fetch_add(1, Ordering::Relaxed);
        self.callers.count(asked.caller, outcome);
    }

    /// Counted after its outcome, so that there are never more of these than forwarded requests.
    pub(super) fn forwarded(&self, outcome: Outcome, forward: Option<ForwardReason>) {
        if outcome == Outcome::Served(scan::Outcome::Forwarded) && forward == Some(ForwardReason::Partial) {
            self.totals.partial.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn look_up(&self, operation: Option<Operation>, outcome: Outcome, status: u16) -> (Counter, Histogram) {
        let requests = self
            .requests
            .get_or_create_owned(&RequestLabels::of(operation, outcome, status));
        let outcome = outcome.as_str();
        let duration = self.duration.get_or_create_owned(&OutcomeLabel { outcome });
        (requests, duration)
    }
}

/// The number of records: a screen full. With their texts shortened at [`LONGEST`] they take less
/// than 20 kB.
const KEPT: usize = 32;

/// Longer reasons are shortened; the log has them in full.
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
            reason: ended.cause.as_deref().map(shortened),
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

fn shortened(reason: &str) -> Arc<str> {
    let mut end = LONGEST.min(reason.len());
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason[..end].into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::access_log::open_request::Origin;
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
        let caller = metrics.callers().get(&Name::new("soar"));
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

    #[test]
    fn the_first_failure_is_an_increase() {
        let mut registry = Registry::default();
        let _metrics = Metrics::register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for operation in Operation::ALL.map(|operation| operation.declaration().name) {
            for (outcome, status) in [("failed", 403), ("failed", 502), ("refused", 429), ("hit", 200)] {
                let line = format!(
                    "requests_total{{operation=\"{operation}\",outcome=\"{outcome}\",status=\"{status}\"}} 0\n"
                );
                assert!(text.contains(&line), "{line} in {text}");
            }
        }
    }

    #[tokio::test]
    async fn a_long_reason_is_cut_between_characters() {
        let recent_errors = RecentErrors::default();
        recent_errors.record(&ended(&"ä€".repeat(500)), 500, "id", &subject("/"));
        let reason = recent_errors.latest()[0].reason.clone().unwrap();
        assert!(reason.len() <= LONGEST && reason.len() > LONGEST - 4);
    }
}
