//! The metrics of calls, and the results of the latest ones for the status page: whether the
//! upstream rejects calls, and how.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use tokio::time::Instant;
use url::Url;

use crate::scan::{Operation, TokenOwner};
use crate::telemetry::{Counters, metrics, named_enum};

/// Bounds in seconds: an answer of a near host takes tens of milliseconds, and an attempt's default
/// timeout is 60 s.
const BUCKETS: [f64; 12] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// A region's address and its name in metrics, which is unique.
pub type Region = (Arc<Url>, Arc<str>);

metrics! {
    /// Counts calls by region. Clones share the counts.
    #[derive(Clone, Debug)]
    pub struct Metrics {
        /// Attempts at calls to Defender, sent or not, by region, operation, and the answer's status
        /// or the error's name (RFC 9209).
        calls: Family<CallLabels, Counter> = "upstream_calls",
        /// Time of calls that did not lack memory: from the start, connection included, to the end
        /// of the answer or the failure.
        duration: Family<RegionLabel, Histogram, fn() -> Histogram> = "upstream_duration" in Seconds
            => new_with_constructor(|| Histogram::new(BUCKETS)),
        /// Every address that calls will go to. Another one, which cannot occur, would be counted
        /// as `other`, so that the number of series is bounded.
        names: Arc<HashMap<Arc<Url>, Arc<str>>>,
        /// Attempts at calls with the gateway's own token, by what they say about Defender (local:
        /// nothing, because the gateway lacked memory).
        results: Counters<CallResult> = "upstream_results" => by("result"),
        recent: RecentCalls,
    }
}

named_enum! {
    /// What a call says about the upstream.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum CallResult, as_str {
        /// It answers.
        Answered = "answered",
        /// It does not accept the token, or the tenant has no licence.
        Unauthorized = "unauthorized",
        /// The token lacks a permission.
        Forbidden = "forbidden",
        /// It gave no answer to the request.
        Failed = "failed",
        /// Nothing: the gateway lacked memory for the call, or for so long an answer.
        Local = "local",
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    region: Arc<str>,
    operation: &'static str,
    status: Status,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RegionLabel {
    region: Arc<str>,
}

/// The HTTP status of an answer of Defender's, or the RFC 9209 token of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Status {
    Answer(StatusCode),
    Error(&'static str),
}

impl Status {
    fn result(self) -> CallResult {
        match self {
            Self::Answer(StatusCode::UNAUTHORIZED) => CallResult::Unauthorized,
            Self::Answer(StatusCode::FORBIDDEN) => CallResult::Forbidden,
            Self::Answer(status) if status.is_server_error() || matches!(status.as_u16(), 408 | 421 | 425) => {
                CallResult::Failed
            }
            Self::Answer(_) => CallResult::Answered,
            Self::Error(token) if token.starts_with("proxy_") || token == "http_response_body_size" => {
                CallResult::Local
            }
            Self::Error(_) => CallResult::Failed,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer(status) => write!(f, "{}", status.as_u16()),
            Self::Error(token) => f.write_str(token),
        }
    }
}

impl EncodeLabelValue for Status {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        match self {
            Self::Answer(status) => status.as_u16().encode(encoder),
            Self::Error(token) => token.encode(encoder),
        }
    }
}

impl Metrics {
    /// The same counts, for calls to these regions.
    pub fn of_regions(&self, regions: impl IntoIterator<Item = Region>) -> Self {
        Self {
            names: Arc::new(regions.into_iter().collect()),
            ..self.clone()
        }
    }

    /// The results of the latest calls.
    pub fn recent(&self) -> &RecentCalls {
        &self.recent
    }

    /// The same counts, for calls with other credentials: the results of those before say nothing
    /// about them.
    pub fn of_other_credentials(&self) -> Self {
        Self {
            recent: RecentCalls::default(),
            ..self.clone()
        }
    }

    /// The name of the region at `base`.
    pub(super) fn region(&self, base: &Url) -> Arc<str> {
        self.names.get(base).cloned().unwrap_or_else(|| "other".into())
    }

    /// Counts a call to a region, and how long it took, if that is known.
    pub(super) fn count(
        &self,
        region: Arc<str>,
        operation: Operation,
        status: Status,
        owner: TokenOwner,
        took: Option<Duration>,
    ) {
        if owner == TokenOwner::Gateway {
            self.results.of(status.result()).inc();
        }
        let labels = CallLabels {
            region: Arc::clone(&region),
            operation: operation.declaration().name,
            status,
        };
        self.calls.get_or_create(&labels).inc();
        if let Some(took) = took {
            let duration = self.duration.get_or_create(&RegionLabel { region });
            duration.observe(took.as_secs_f64());
        }
    }
}

/// The number of calls: a minute's worth, so that old results soon disappear.
const KEPT: usize = 20;

/// Older calls say nothing about the present.
const OLDEST: Duration = Duration::from_hours(1);

/// A single call says nothing for longer than this, which is less than the half hour after which a
/// problem is an alert: one failure that nobody asks after is none.
const LONE: Duration = Duration::from_mins(25);

/// After so many calls in a row that went well, the upstream has recovered if nearly all before
/// them failed.
const RECOVERED: usize = 3;

/// The latest calls that were made with the gateway's own token. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct RecentCalls(Arc<Mutex<VecDeque<Recent>>>);

/// When a call ended, how, and the code of its rejection.
type Recent = (Instant, Status, Option<String>);

/// The results of the latest calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecentSnapshot {
    /// The number of calls.
    pub calls: usize,
    /// Answered 401.
    pub unauthorized: usize,
    /// Answered 403.
    pub forbidden: usize,
    /// The code that the latest of those had.
    pub forbidden_code: Option<String>,
    /// Answered 5xx and the like, or not at all.
    pub failed: usize,
    /// How the latest of those failed: a status, or the RFC 9209 name of an error.
    pub latest_failure: Option<String>,
}

impl RecentCalls {
    pub(super) fn note(&self, status: Status, code: Option<String>) {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        calls.truncate(KEPT - 1);
        calls.push_front((Instant::now(), status, code));
        // What was before a recovery would accuse the upstream, or the credentials, until the last
        // of it is forgotten.
        let results = calls.iter().map(|(_, status, ..)| status.result());
        let good = results
            .clone()
            .take_while(|result| *result == CallResult::Answered)
            .count();
        let before = results.skip(good);
        let bad = before.filter(|result| !matches!(result, CallResult::Answered | CallResult::Local));
        let bad = bad.count();
        if good >= RECOVERED && bad * 4 >= (calls.len() - good) * 3 && (bad > 2 || calls.len() < KEPT) {
            calls.truncate(good);
        }
    }

    pub fn snapshot(&self) -> RecentSnapshot {
        let now = Instant::now();
        let calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut snapshot = RecentSnapshot::default();
        let age = |call: &Recent| now.saturating_duration_since(call.0);
        let young = calls.iter().take_while(|call| age(call) <= OLDEST).count();
        let is_stale = young == 1 && calls.front().is_some_and(|call| age(call) > LONE);
        for (_, status, code) in calls.iter().take(if is_stale { 0 } else { young }) {
            snapshot.calls += 1;
            match status.result() {
                CallResult::Unauthorized => snapshot.unauthorized += 1,
                CallResult::Forbidden => {
                    if snapshot.forbidden == 0 {
                        snapshot.forbidden_code.clone_from(code);
                    }
                    snapshot.forbidden += 1;
                }
                CallResult::Failed => {
                    snapshot.failed += 1;
                    snapshot.latest_failure.get_or_insert_with(|| status.to_string());
                }
                CallResult::Answered | CallResult::Local => {}
            }
        }
        snapshot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_the_latest_calls_count_and_only_while_they_are_young() {
        let recent = RecentCalls::default();
        let answer = |status| Status::Answer(StatusCode::from_u16(status).unwrap());
        for status in [429, 200, 404] {
            recent.note(answer(status), None);
        }
        recent.note(answer(403), Some("Forbidden".into()));
        recent.note(answer(403), Some("DisabledFeature".into()));
        for status in [401, 503] {
            recent.note(answer(status), None);
        }
        recent.note(Status::Error("connection_refused"), None);
        // What is the gateway's own lack of memory is nobody else's failure.
        recent.note(Status::Error("proxy_internal_error"), None);
        recent.note(Status::Error("http_response_body_size"), None);
        let snapshot = recent.snapshot();
        assert_eq!(
            (
                snapshot.calls,
                snapshot.forbidden,
                snapshot.unauthorized,
                snapshot.failed
            ),
            (10, 2, 1, 2)
        );
        assert_eq!(snapshot.latest_failure.as_deref(), Some("connection_refused"));
        assert_eq!(snapshot.forbidden_code.as_deref(), Some("DisabledFeature"));
        for _ in 0..KEPT {
            recent.note(answer(200), None);
        }
        assert_eq!(recent.snapshot().forbidden, 0);
        assert_eq!(recent.snapshot().calls, KEPT);
        tokio::time::advance(OLDEST * 2).await;
        assert_eq!(recent.snapshot(), RecentSnapshot::default());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lone_failure_is_soon_forgotten_and_one_of_a_few_is_not() {
        let recent = RecentCalls::default();
        let forbidden = Status::Answer(StatusCode::FORBIDDEN);
        recent.note(forbidden, None);
        tokio::time::advance(LONE + Duration::from_secs(1)).await;
        assert_eq!(recent.snapshot(), RecentSnapshot::default());
        // Another half an hour later: it lasts.
        recent.note(forbidden, None);
        tokio::time::advance(LONE + Duration::from_secs(1)).await;
        assert_eq!(recent.snapshot().forbidden, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_recovery_is_seen_after_three_calls_and_a_lucky_moment_is_none() {
        let note = |recent: &RecentCalls, statuses: &[u16]| {
            for status in statuses {
                recent.note(Status::Answer(StatusCode::from_u16(*status).unwrap()), None);
            }
            recent.snapshot()
        };
        let recent = RecentCalls::default();
        assert_eq!(note(&recent, &[403; KEPT]).forbidden, KEPT);
        assert_eq!(note(&recent, &[200, 200]).forbidden, KEPT - 2);
        let recovered = note(&recent, &[200]);
        assert_eq!((recovered.forbidden, recovered.calls), (0, 3));
        // The only call so far failed.
        let recent = RecentCalls::default();
        assert_eq!(note(&recent, &[503]).failed, 1);
        assert_eq!(note(&recent, &[200, 404, 429]).failed, 0);
        // One in ten, and one in two, may be good three times in a row.
        let recent = RecentCalls::default();
        for _ in 0..5 {
            note(&recent, &[200; 9]);
            note(&recent, &[503]);
            assert!(note(&recent, &[200; 3]).failed > 0);
        }
        let recent = RecentCalls::default();
        note(&recent, &[503, 200, 503, 200, 503, 200, 503]);
        assert_eq!(note(&recent, &[200; 4]).failed, 4);
    }
}
