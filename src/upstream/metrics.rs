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

use crate::scan::Operation;
use crate::telemetry::metrics;

/// Bounds in seconds: an answer of a near host takes tens of milliseconds, and an attempt's default
/// timeout is 60 s.
const BUCKETS: [f64; 12] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// A region's address and its name in metrics, which is unique.
pub type Region = (Arc<Url>, Arc<str>);

metrics! {
    /// Counts calls by region. Clones share the counts.
    #[derive(Clone, Debug)]
    pub struct Metrics {
        /// Calls to Defender, by region, operation, and the answer's status or the error's name
        /// (RFC 9209).
        calls: Family<CallLabels, Counter> = "upstream_calls",
        /// Time from a call's start, connection included, to the end of its answer or its failure.
        duration: Family<RegionLabel, Histogram, fn() -> Histogram> = "upstream_duration" in Seconds
            => new_with_constructor(|| Histogram::new(BUCKETS)),
        /// Every address that calls will go to. Another one, which cannot occur, would be counted
        /// as `other`, so that the number of series is bounded.
        names: Arc<HashMap<Arc<Url>, Arc<str>>>,
        recent: RecentCalls,
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
    /// Whether the upstream gave no answer to the request.
    fn is_failure(self) -> bool {
        match self {
            Self::Answer(status) => status.is_server_error() || matches!(status.as_u16(), 408 | 421 | 425),
            // The gateway's own lack of memory, for the call or for so long an answer, says nothing
            // about the upstream.
            Self::Error(token) => !token.starts_with("proxy_") && token != "http_response_body_size",
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

    /// The name of the region at `base`.
    pub(super) fn region(&self, base: &Url) -> Arc<str> {
        self.names.get(base).cloned().unwrap_or_else(|| "other".into())
    }

    /// Counts a call to a region.
    pub(super) fn count(&self, region: Arc<str>, operation: Operation, status: Status, took: Duration) {
        let labels = CallLabels {
            region: Arc::clone(&region),
            operation: operation.declaration().name,
            status,
        };
        self.calls.get_or_create(&labels).inc();
        let duration = self.duration.get_or_create(&RegionLabel { region });
        duration.observe(took.as_secs_f64());
    }
}

/// The number of calls: a minute's worth, so that old results soon disappear.
const KEPT: usize = 20;

/// Older calls say nothing about the present.
const OLDEST: Duration = Duration::from_hours(1);

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
    }

    pub fn snapshot(&self) -> RecentSnapshot {
        let now = Instant::now();
        let calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut snapshot = RecentSnapshot::default();
        let young = calls
            .iter()
            .take_while(|(at, ..)| now.saturating_duration_since(*at) <= OLDEST);
        for (_, status, code) in young {
            snapshot.calls += 1;
            match status {
                Status::Answer(StatusCode::UNAUTHORIZED) => snapshot.unauthorized += 1,
                Status::Answer(StatusCode::FORBIDDEN) => {
                    if snapshot.forbidden == 0 {
                        snapshot.forbidden_code.clone_from(code);
                    }
                    snapshot.forbidden += 1;
                }
                status if status.is_failure() => {
                    snapshot.failed += 1;
                    snapshot.latest_failure.get_or_insert_with(|| status.to_string());
                }
                _ => {}
            }
        }
        snapshot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_the_latest_calls_of_the_last_hour_count() {
        let recent = RecentCalls::default();
        let answer = |status| Status::Answer(StatusCode::from_u16(status).unwrap());
        recent.note(answer(403), Some("Forbidden".into()));
        recent.note(answer(403), Some("DisabledFeature".into()));
        for status in [401, 503, 429, 200, 404] {
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
}
