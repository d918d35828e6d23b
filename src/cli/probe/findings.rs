//! What the answers to a probe mean, and the report of it, as people read it.

use std::fmt;

use bytes::Bytes;
use http::header::WWW_AUTHENTICATE;
use http::{Response, StatusCode};
use serde_json::Value;

use crate::app::{advice_on_forbidden, remembered_merging};
use crate::cli::Error;
use crate::config::{Merging, Resolved};
use crate::scan::{Endpoint, MergeFinding, Operation, Ordering, ResponseKind, Rows, UpstreamResponse};
use crate::token::Roles;

/// The evidence so far, and what follows from it.
#[derive(Debug, Default)]
pub(super) struct Report {
    lines: Vec<(&'static str, String)>,
    /// Lines of TOML.
    pub(super) settings: Vec<String>,
}

impl Report {
    pub(super) fn say(&mut self, subject: &'static str, text: impl Into<String>) {
        self.lines.push((subject, text.into()));
    }

    /// What was said about a subject.
    #[cfg(test)]
    pub(super) fn about(&self, subject: &str) -> String {
        let about = self.lines.iter().filter(|(of, _)| *of == subject);
        about.map(|(_, text)| text.as_str()).collect::<Vec<_>>().join("\n")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (subject, text) in &self.lines {
            writeln!(f, "{subject:<12} {text}")?;
        }
        if !self.settings.is_empty() {
            writeln!(f, "\nRecommended settings:")?;
        }
        self.settings.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

/// Says what the gateway itself has found out about merging, or where that stands.
pub(super) fn found_out(config: &Resolved, report: &mut Report) {
    if config.merge.enabled != Merging::Auto {
        return;
    }
    if config.store.url.is_some() {
        let text = "the gateway finds out by itself, and remembers it in the store: see merge in its /status";
        report.say("merging", text);
        return;
    }
    let found = remembered_merging(config);
    if found.is_empty() {
        report.say("merging", "the gateway finds out by itself; nothing is remembered yet");
    }
    for (endpoint, record) in found {
        let finding = MergeFinding {
            endpoint,
            record,
            pause: None,
        };
        let (operation, version) = (endpoint.name(), endpoint.version.as_str());
        report.say("merging", format!("{operation} ({version}): {finding}"));
    }
}

/// Says whether the operations count together, as far as the words of a 429 tell. To spend a window
/// of one to see whether another is refused would tell more, and leave everybody without calls.
pub(super) fn scope(throttled: Option<&str>, report: &mut Report) {
    let named = |text: &&str| {
        let paths = Operation::ALL.map(|operation| operation.declaration().path);
        let mut names = paths.into_iter().flat_map(|path| path.split('/'));
        names.any(|name| !name.is_empty() && !name.starts_with('{') && text.contains(name))
    };
    let verdict = match throttled {
        None => "not known whether operations count together: no call was refused; keep quota.scope = \"all\"".into(),
        Some(text) if named(&text) => {
            format!(
                "a 429 names an operation, so each may count by itself, and quota.scope = \"operation\" may be right: {text}"
            )
        }
        Some(text) => {
            format!("not known whether operations count together: a 429 names none; keep quota.scope = \"all\": {text}")
        }
    };
    report.say("scope", verdict);
}

/// Whether the first call shows that calls are answered, by Defender and by nobody on the way
/// there. `roles` are the token's.
pub(super) fn accepted(answer: &Response<Bytes>, also: &[StatusCode], roles: Roles) -> Result<(), Error> {
    let status = answer.status();
    let fields = answer.headers().iter();
    let response = UpstreamResponse {
        status,
        headers: fields.map(|(name, value)| (name.clone(), value)).collect(),
        body: answer.body().clone(),
    };
    match ResponseKind::of(Endpoint::HISTORY, &response) {
        ResponseKind::Fault(fault) if !fault.may_pass() => {
            return Err(Error::failed(
                "not Defender answered, but something on the way there, such as a proxy",
                format!("{status}: {fault}"),
            ));
        }
        _ => {}
    }
    match status {
        StatusCode::OK => Ok(()),
        status if also.contains(&status) => Ok(()),
        StatusCode::UNAUTHORIZED => Err(Error::user(unauthorized(&response))),
        StatusCode::FORBIDDEN => {
            let code = response.rejection_code();
            let code = code.map_or_else(String::new, |code| format!(" ({code})"));
            let advice = advice_on_forbidden(roles);
            Err(Error::user(format!("Defender answered 403{code}: {advice}")))
        }
        StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST => Err(Error::user(format!(
            "Defender answered {status}: is --id a scan definition of this tenant?"
        ))),
        status => Err(Error::failed("the call failed", format!("Defender answered {status}"))),
    }
}

/// What a 401 means: what checks tokens in front of Defender's own code sends a challenge, and
/// Defender itself, which has accepted the token then, an error.
fn unauthorized(response: &UpstreamResponse) -> String {
    let meaning = match (
        response.headers.get(&WWW_AUTHENTICATE).is_some(),
        response.rejection_code(),
    ) {
        (true, _) => "the token is not accepted: check credentials.scope, defender.cloud and the clock of this machine",
        (false, Some(_)) => "the tenant has no licence for vulnerability management, or is not active",
        (false, None) => "the token is not accepted, or the tenant has no licence for vulnerability management",
    };
    let message = response.rejection_message();
    let said = message.map_or_else(String::new, |message| format!(" ({message})"));
    format!("Defender answered 401{said}: {meaning}")
}

pub(super) fn count(body: &[u8]) -> usize {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    body["value"].as_array().map_or(0, Vec::len)
}

/// Says how rows are written.
pub(super) fn fields(body: &[u8], report: &mut Report) {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let names = body["value"][0]
        .as_object()
        .map(|row| row.keys().map(String::as_str).collect::<Vec<_>>());
    match names {
        Some(names) => report.say("rows", format!("have the members {}", names.join(", "))),
        None => report.say("rows", "none; choose ids with history to learn how they look"),
    }
}

/// Which orders the rows do not contradict.
pub(super) fn order(rows: &Rows) -> String {
    let rows: Vec<_> = rows
        .iter()
        .map(|(id, text, time)| (id, time.map(|time| &text[time])))
        .collect();
    let fits = |ordering: &Ordering| {
        rows.windows(2).all(|pair| {
            ordering
                .compare(pair[0], pair[1])
                .is_some_and(std::cmp::Ordering::is_le)
        })
    };
    let names = Ordering::ALL.into_iter().filter(fits).map(|ordering| match ordering {
        Ordering::NewestFirst => "newest first",
        Ordering::OldestFirst => "oldest first",
        Ordering::Grouped => "grouped by id",
    });
    match names.collect::<Vec<_>>().join(" or ") {
        none if none.is_empty() => "none that is known: answers are not put together from the cache".into(),
        names => names,
    }
}

/// Recommends that calls are not merged.
pub(super) fn advise_against_merging(report: &mut Report) {
    report.settings = vec!["[merge]".into(), "enabled = false".into()];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_kinds_of_401_are_told_apart() {
        let refusal = r#"{"error":{"code":"Unauthorized","message":"reason of failure: No Tvm license"}}"#;
        for (challenge, body, expected) in [
            (
                Some("Bearer error=\"invalid_token\""),
                "",
                "401: the token is not accepted: check",
            ),
            (
                None,
                refusal,
                "401 (reason of failure: No Tvm license): the tenant has no licence",
            ),
            (None, "", "401: the token is not accepted, or the tenant"),
        ] {
            let mut answer = Response::builder()
                .status(401)
                .header("content-type", "application/json");
            if let Some(challenge) = challenge {
                answer = answer.header(WWW_AUTHENTICATE, challenge);
            }
            let answer = answer.body(Bytes::from_static(body.as_bytes())).unwrap();
            let error = accepted(&answer, &[], Roles::Sufficient).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn what_a_429_says_about_its_counter_is_told() {
        for (text, expected) in [
            (None, "no call was refused; keep quota.scope = \"all\""),
            (
                Some("API calls quota exceeded! for the key Destination+TenantID+AppID"),
                "keep quota.scope = \"all\"",
            ),
            (
                Some("quota exceeded for GetScanHistoryBySessionId"),
                "quota.scope = \"operation\" may be right",
            ),
        ] {
            let mut report = Report::default();
            scope(text, &mut report);
            assert!(
                report.about("scope").contains(expected),
                "{text:?}: {}",
                report.about("scope")
            );
        }
    }
}
