//! The results of the latest calls, for the status page: whether the upstream rejects calls, and
//! how.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use super::metrics::Status;

/// The number of calls: a minute's worth, so that old results soon disappear.
const KEPT: usize = 20;

/// Older calls say nothing about the present.
const OLDEST: Duration = Duration::from_hours(1);

/// The latest calls that were made with the gateway's own token. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct RecentCalls(Arc<Mutex<VecDeque<(Instant, Status)>>>);

/// The results of the latest calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecentSnapshot {
    /// The number of calls.
    pub calls: usize,
    /// Answered 401.
    pub unauthorized: usize,
    /// Answered 403.
    pub forbidden: usize,
    /// Answered 5xx and the like, or not at all.
    pub failed: usize,
    /// How the latest of those failed: a status, or the RFC 9209 name of an error.
    pub latest_failure: Option<String>,
}

impl RecentCalls {
    pub(super) fn note(&self, status: Status) {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        calls.truncate(KEPT - 1);
        calls.push_front((Instant::now(), status));
    }

    pub fn snapshot(&self) -> RecentSnapshot {
        let now = Instant::now();
        let calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut snapshot = RecentSnapshot::default();
        let young = calls
            .iter()
            .take_while(|(at, _)| now.saturating_duration_since(*at) <= OLDEST);
        for (_, status) in young {
            snapshot.calls += 1;
            match status {
                Status::Answer(StatusCode::UNAUTHORIZED) => snapshot.unauthorized += 1,
                Status::Answer(StatusCode::FORBIDDEN) => snapshot.forbidden += 1,
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
        for status in [403, 403, 401, 503, 429, 200, 404] {
            recent.note(answer(status));
        }
        recent.note(Status::Error("connection_refused"));
        let snapshot = recent.snapshot();
        assert_eq!(
            (
                snapshot.calls,
                snapshot.forbidden,
                snapshot.unauthorized,
                snapshot.failed
            ),
            (8, 2, 1, 2)
        );
        assert_eq!(snapshot.latest_failure.as_deref(), Some("connection_refused"));
        for _ in 0..KEPT {
            recent.note(answer(200));
        }
        assert_eq!(recent.snapshot().forbidden, 0);
        assert_eq!(recent.snapshot().calls, KEPT);
        tokio::time::advance(OLDEST * 2).await;
        assert_eq!(recent.snapshot(), RecentSnapshot::default());
    }
}
