//! How long an answer is fresh, as a whole and for each id; and so which scan sessions have ended,
//! and will not change again.
//!
//! How a running session looks is not documented. A session counts as finished only if everything
//! in its row fits a scan that has ended, in either case of names; if anything is missing, doubled,
//! unknown or contradictory, it counts as running.

use std::borrow::Cow;
use std::time::Duration;

use http::{StatusCode, header};
use serde::Deserialize;

use crate::cache::Config;
use crate::cache::memory_store::Cache;
use crate::operation::Lifetime;
use crate::scan::{Headers, Request, Rows, TokenOwner, UpstreamResponse};

/// How long an answer is fresh.
#[derive(Debug)]
pub(super) struct Lifetimes {
    /// As a whole: until the first of its ids is stale.
    pub(super) whole: Duration,
    /// By id.
    pub(super) ids: Vec<Duration>,
}

impl Lifetimes {
    pub(super) fn map(self, change: impl Fn(Duration) -> Duration) -> Self {
        Self {
            whole: change(self.whole),
            ids: self.ids.into_iter().map(change).collect(),
        }
    }
}

impl Cache {
    /// How long an answer is fresh; `None` when it must not be stored.
    pub(super) fn freshness(
        &self,
        request: &Request,
        answer: &UpstreamResponse,
        rows: Option<&Rows>,
    ) -> Option<Lifetimes> {
        let longest = match answer.status {
            StatusCode::OK => Duration::MAX,
            StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => Config::NEGATIVE_TTL,
            _ => return None,
        };
        if forbids_storing(&answer.headers) || answer.may_hold_secrets(request.endpoint()) {
            return None;
        }
        let factor = if self.prefetches(request.endpoint()) {
            // Answers that are refreshed together are refreshed in one call.
            1.0
        } else {
            1.0 - rand::random::<f64>() / 10.0
        };
        let lifetimes = self.lifetimes(request, rows);
        Some(lifetimes.map(|ttl| ttl.min(longest).mul_f64(factor)))
    }

    /// How long an answer with these rows is fresh, as a whole and for each id.
    pub(super) fn lifetimes(&self, request: &Request, rows: Option<&Rows>) -> Lifetimes {
        let Config { ttl, finished_ttl, .. } = self.config;
        let can_finish = request.endpoint().operation.declaration().lifetime == Lifetime::Finished;
        let ids: Vec<_> = match rows {
            Some(rows) if can_finish => {
                let finished = finished(request, rows).into_iter();
                finished
                    .map(|finished| if finished { finished_ttl } else { ttl })
                    .collect()
            }
            _ => vec![ttl; request.ids().len()],
        };
        Lifetimes {
            whole: ids.iter().min().copied().unwrap_or(ttl),
            ids,
        }
    }
}

/// Whether a response is about the gateway's own token and not about the request.
pub(super) fn rejects_gateway(request: &Request, answer: &UpstreamResponse) -> bool {
    answer.status == StatusCode::UNAUTHORIZED && TokenOwner::of(request) == TokenOwner::Gateway
}

/// Only `no-store` is obeyed. Web frameworks send `no-cache` or `private` with every answer by
/// default, meant for browsers and shared proxies. This cache serves one application's own
/// requests, and the operator decides how long they are fresh.
fn forbids_storing(headers: &Headers) -> bool {
    headers
        .get_all(header::CACHE_CONTROL)
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|directive| directive.trim().eq_ignore_ascii_case("no-store"))
}

/// For each requested id, in order, whether it has rows and all of them are about finished
/// sessions.
fn finished(request: &Request, rows: &Rows) -> Vec<bool> {
    let mut states = vec![None; request.ids().len()];
    for (id, text, _) in rows.iter() {
        if let Some(state) = states.get_mut(id) {
            *state = Some(state.unwrap_or(true) && is_finished(text));
        }
    }
    states.into_iter().map(|state| state.unwrap_or(false)).collect()
}

/// A session. A member that is there under two names is doubled, which is an error.
#[derive(Deserialize)]
struct Session<'a> {
    #[serde(borrow, rename = "ScanStatus", alias = "scanStatus")]
    status: Cow<'a, str>,
    #[serde(rename = "NumberOfTargets", alias = "numberOfTargets")]
    targets: u64,
    #[serde(
        rename = "NumberOfSuccessfullyScannedTargets",
        alias = "numberOfSuccessfullyScannedTargets"
    )]
    succeeded: u64,
    #[serde(
        borrow,
        rename = "ListScannedTargets",
        alias = "listScannedTargets",
        alias = "scannedTargets",
        alias = "ScannedTargets"
    )]
    list: Vec<Target<'a>>,
}

#[derive(Deserialize)]
struct Target<'a> {
    #[serde(borrow, rename = "ScanStatus", alias = "scanStatus")]
    status: Cow<'a, str>,
}

fn is_finished(row: &[u8]) -> bool {
    let Ok(session) = serde_json::from_slice::<Session<'_>>(row) else {
        return false;
    };
    let is_complete = u64::try_from(session.list.len()).is_ok_and(|listed| listed == session.targets);
    let is_counted = session.succeeded <= session.targets
        && (folded(&session.status) != "success" || session.succeeded == session.targets);
    let has_ended = is_final(&session.status) && session.list.iter().all(|target| is_final(&target.status));
    is_complete && is_counted && has_ended
}

/// Whether a status is a known final one.
fn is_final(status: &str) -> bool {
    matches!(
        &*folded(status),
        "success" | "partialsuccess" | "fail" | "failed" | "failure"
    )
}

/// In lower case, without the space that parts of the documentation have.
fn folded(status: &str) -> String {
    status.to_ascii_lowercase().replace(' ', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(status: &str, numbers: (u64, u64), targets: &[&str]) -> [String; 2] {
        let list = |name: &str| {
            let targets = targets.iter().map(|status| format!(r#"{{"{name}":"{status}"}}"#));
            targets.collect::<Vec<_>>().join(",")
        };
        let (good, all) = numbers;
        [
            format!(
                r#"{{"ScanStatus":"{status}","NumberOfSuccessfullyScannedTargets":{good},"NumberOfTargets":{all},"ListScannedTargets":[{}],"SessionIds":"a"}}"#,
                list("ScanStatus")
            ),
            format!(
                r#"{{"sessionId":"a","scanStatus":"{status}","numberOfSuccessfullyScannedTargets":{good},"numberOfTargets":{all},"generalErrorMessage":null,"scannedTargets":[{}]}}"#,
                list("scanStatus")
            ),
        ]
    }

    #[test]
    fn ended_sessions_are_finished_in_both_casings() {
        for (status, numbers, targets) in [
            ("Success", (2, 2), &["Success", "Success"][..]),
            ("Partial Success", (1, 2), &["Success", "Failure"]),
            ("PartialSuccess", (1, 2), &["Fail", "success"]),
            ("Failure", (0, 1), &["Failed"]),
            ("Fail", (0, 0), &[]),
        ] {
            for row in row(status, numbers, targets) {
                assert!(is_finished(row.as_bytes()), "{row}");
            }
        }
    }

    #[test]
    fn whatever_is_not_certain_still_runs() {
        let running = [
            row("InProgress", (1, 2), &["Success", "InProgress"]),
            row("Success", (1, 2), &["Success", "Success"]),
            row("Success", (2, 2), &["Success"]),
            row("Success", (2, 2), &["Success", "Success", "Success"]),
            row("Partial Success", (1, 2), &["Success", "Pending"]),
            row("PartialSuccess", (3, 2), &["Success", "Success"]),
            row("", (0, 0), &[]),
            row("Completed", (0, 0), &[]),
        ];
        for row in running.iter().flatten() {
            assert!(!is_finished(row.as_bytes()), "{row}");
        }
        let [documented, metadata] = row("Success", (1, 1), &["Success"]);
        for (row, part, other) in [
            (&documented, r#""ScanStatus":"Success","#, r#""ScanStatus":null,"#),
            (
                &documented,
                r#""ScanStatus":"Success","#,
                r#""ScanStatus":"Success","scanStatus":"Success","#,
            ),
            (&documented, r#""NumberOfTargets":1,"#, ""),
            (&documented, r#""NumberOfTargets":1,"#, r#""NumberOfTargets":null,"#),
            (&documented, "ListScannedTargets", "Others"),
            (
                &metadata,
                r#""scannedTargets""#,
                r#""ListScannedTargets":[],"scannedTargets""#,
            ),
            (&metadata, r#"{"scanStatus":"Success"}"#, "{}"),
            (&metadata, r#"{"scanStatus":"Success"}"#, "null"),
        ] {
            let changed = row.replacen(part, other, 1);
            assert_ne!(&changed, row);
            assert!(!is_finished(changed.as_bytes()), "{changed}");
        }
    }
}
