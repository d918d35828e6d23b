//! What `/status` shows about merging.

use serde_json::{Value, json};

use super::sources::Current;
use super::status::seconds;
use crate::scan::{MergeEvidence, MergeFinding, SplitError};
use crate::single_flight;

/// How requests are merged, and what has been found out about that.
pub(super) fn show(current: &Current) -> Value {
    let metrics = current.merging.as_ref();
    let evidence = current.merge_evidence.as_ref().map(|profile| profile.merge_evidence());
    let findings = evidence.map(MergeEvidence::findings);
    let is_proven = |findings: &Vec<MergeFinding>| findings.iter().any(|finding| finding.record.is_proven());
    let resting = metrics.and_then(single_flight::Metrics::resting);
    json!({
        "enabled": metrics.is_some() && findings.as_ref().is_none_or(is_proven),
        "mode": match (metrics, &findings) {
            (_, Some(_)) => "auto",
            (Some(_), None) => "on",
            (None, None) => "off",
        },
        "evidence": findings.map(|findings| findings.iter().map(finding).collect::<Vec<_>>()),
        "calls": metrics.map_or(0, single_flight::Metrics::merged_calls),
        "requests": metrics.map_or(0, single_flight::Metrics::merged_requests),
        "rests_for_s": resting.map(|(left, _)| seconds(left)),
        "rests_because": resting.map(|(_, split_error)| split_error.to_string()),
    })
}

fn finding(finding: &MergeFinding) -> Value {
    let record = &finding.record;
    json!({
        "operation": finding.endpoint.name(),
        "version": finding.endpoint.version.as_str(),
        "state": finding.state(),
        "says": finding.to_string(),
        "calls": record.calls,
        "answers": record.answers,
        "ids": record.ids,
        "rows": record.rows,
        "contradictions": record.contradictions,
        "contradiction": record.contradiction.map(SplitError::as_str),
        "pause_s": finding.pause.map(seconds),
    })
}
