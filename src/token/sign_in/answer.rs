//! What an answer that brings no token means.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;

use super::wait;
use crate::secret::Secret;
use crate::token::{Code, Error, Reason, explain};

/// Longest part of sign-in's words that is kept.
const MAX_MESSAGE: usize = 500;

/// Who answered: the metadata service of machines has rules of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Entra,
    Imds,
}

/// Entra's error object, and RFC 6749's, which is part of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Body {
    error: String,
    error_description: String,
    error_codes: Vec<u32>,
    trace_id: String,
}

/// Turns an answer without a token into an error. `proof` is what must not be repeated, whatever the answer holds.
pub(super) fn failure(endpoint: Endpoint, answer: &Response<Bytes>, now: Timestamp, proof: &Secret) -> Error {
    let status = answer.status();
    // Throttling is answered in plain text, and proxies answer in HTML.
    let body: Body = serde_json::from_slice(answer.body()).unwrap_or_default();
    let code = code(status, &body, proof);
    let asked = wait::asked(answer.headers(), now);
    let message = message(&body, proof);
    if passes(endpoint, status, &code) {
        let reason = match status {
            // Entra's number, where it gives one, says more than the status.
            StatusCode::TOO_MANY_REQUESTS if !matches!(code, Code::Aadsts(_)) => Reason::Throttled,
            status if status.is_success() || status.is_redirection() => Reason::Unreadable,
            _ => Reason::Failed { code },
        };
        return Error::Unavailable {
            reason,
            message,
            retry_after: asked,
            source: None,
        };
    }
    Error::Refused {
        code,
        message,
        retry_after: asked.unwrap_or(Duration::ZERO),
    }
}

fn passes(endpoint: Endpoint, status: StatusCode, code: &Code) -> bool {
    let busy = matches!(
        status,
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
    );
    // 404 and 410: the metadata service is starting or being updated.
    let starting = endpoint == Endpoint::Imds && matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE);
    busy || starting || !status.is_client_error() || explain::is_transient(code)
}

fn code(status: StatusCode, body: &Body, proof: &Secret) -> Code {
    if let Some(number) = body.error_codes.first() {
        return Code::Aadsts(*number);
    }
    let word = body.error.as_str();
    let plausible = !word.is_empty() && word.len() <= 64 && word.bytes().all(|b| b.is_ascii_graphic());
    let plausible = plausible && !repeats(word, proof);
    if plausible {
        Code::OAuth(word.into())
    } else {
        Code::Http(status)
    }
}

/// The description in one bounded line, with the number that Microsoft's support asks for.
fn message(body: &Body, proof: &Secret) -> Arc<str> {
    if repeats(&body.error_description, proof) {
        return "its answer repeated the credential and is not shown".into();
    }
    let first = body.error_description.lines().next().unwrap_or_default();
    let mut text: String = first.chars().filter(|c| !c.is_control()).take(MAX_MESSAGE).collect();
    let trace: String = body.trace_id.chars().filter(char::is_ascii_graphic).take(64).collect();
    if !trace.is_empty() && !text.contains(&trace) && !repeats(&trace, proof) {
        text.push_str(" (trace id ");
        text.push_str(&trace);
        text.push(')');
    }
    text.into()
}

fn repeats(text: &str, proof: &Secret) -> bool {
    !proof.expose().is_empty() && text.contains(proof.expose())
}
