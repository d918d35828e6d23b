//! Which scan sessions have ended, and so will not change again.
//!
//! How a running session looks is not documented. A session counts as finished only if everything
//! in its row fits a scan that has ended, in either case of names; if anything is missing, doubled,
//! unknown or contradictory, it counts as running.

use std::borrow::Cow;

use serde::Deserialize;

use crate::scan::{Request, Rows};

/// For each requested id, in order, whether it has rows and all of them are about finished
/// sessions.
pub fn finished(request: &Request, rows: &Rows) -> Vec<bool> {
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
