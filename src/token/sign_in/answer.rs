//! Turns a response into a token or an error.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use jiff::Timestamp;

use super::issued::Issued;
use super::response::{ErrorMembers, TokenResponse, decoded};
use super::unusable::Unusable;
use super::wait;
use crate::secret::Secret;
use crate::token::{Code, Error, Reason, aadsts};

/// The longest part of sign-in's message that is kept.
const MAX_MESSAGE: usize = 500;

/// The service that responded: the metadata service of machines has rules of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Entra,
    Imds,
}

/// A response, and what it is read with.
pub(super) struct Received<'a> {
    pub(super) endpoint: Endpoint,
    pub(super) answer: &'a Response<Bytes>,
    /// The gateway's clock.
    pub(super) now: Timestamp,
    /// The secret that must not be repeated, whatever the response contains.
    pub(super) proof: &'a Secret,
}

/// Converts the exchange's error.
pub(super) fn unreachable_because(error: crate::BoxError) -> Error {
    Error::Unavailable {
        reason: Reason::Unreachable,
        message: Arc::default(),
        retry_after: None,
        source: Some(error.into()),
    }
}

impl Received<'_> {
    /// The token of the response.
    ///
    /// # Errors
    ///
    /// When it contains none. Proxies turn rejections into responses that claim success, too.
    pub(super) fn issued(&self) -> Result<Issued, Error> {
        // Throttling is answered in plain text, and proxies answer in HTML.
        let response = TokenResponse::parse(&decoded(self.answer.body()));
        let status = self.answer.status();
        if !status.is_success() {
            let members = response.map(|response| response.error).unwrap_or_default();
            return Err(self.error(&members, status.is_redirection().then_some(Unusable::Redirect)));
        }
        let response = response.map_err(|problem| self.error(&ErrorMembers::default(), Some(problem)))?;
        // Times in the response are relative to the server's clock, if it sends its time.
        let server_now = wait::date(self.answer.headers()).unwrap_or(self.now);
        let issued = response.issued(server_now);
        issued.map_err(|problem| self.error(&response.error, Some(problem)))
    }

    fn error(&self, members: &ErrorMembers, problem: Option<Unusable>) -> Error {
        let (status, headers) = (self.answer.status(), self.answer.headers());
        let code = code(status, members, self.proof);
        let asked = wait::asked(headers, self.now);
        let mut message = message(members, self.proof);
        if self.passes(&code) {
            let unreadable = status.is_success() || status.is_redirection();
            let reason = match status {
                // Entra's number, if there is one, says more than the status.
                StatusCode::TOO_MANY_REQUESTS if !matches!(code, Code::Aadsts(_)) => Reason::Throttled,
                _ if unreadable && matches!(code, Code::Http(_)) => Reason::Unreadable,
                _ => Reason::Failed { code },
            };
            if let (Reason::Unreadable, Some(problem), true) = (&reason, problem, message.is_empty()) {
                message = problem.explained(status, headers).into();
            }
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

    fn passes(&self, code: &Code) -> bool {
        let status = self.answer.status();
        let busy = matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
        );
        // 404 and 410: the metadata service is starting or being updated.
        let starting = self.endpoint == Endpoint::Imds && matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE);
        // A successful response that contains an error is that error.
        let refused = status.is_client_error() || (status.is_success() && !matches!(code, Code::Http(_)));
        busy || starting || !refused || aadsts::is_transient(code)
    }
}

fn code(status: StatusCode, members: &ErrorMembers, proof: &Secret) -> Code {
    if let Some(number) = members.aadsts() {
        return Code::Aadsts(number);
    }
    let word = members.error.as_str();
    let plausible = !word.is_empty() && word.len() <= 64 && word.bytes().all(|b| b.is_ascii_graphic());
    let plausible = plausible && !repeats(word, proof);
    if plausible {
        Code::OAuth(word.into())
    } else {
        Code::Http(status)
    }
}

/// The description in one bounded line, with the number that Microsoft's support asks for.
fn message(members: &ErrorMembers, proof: &Secret) -> Arc<str> {
    if repeats(&members.description, proof) {
        return "its answer repeated the credential and is not shown".into();
    }
    let first = members.description.lines().next().unwrap_or_default();
    let mut text: String = first.chars().filter(|c| !c.is_control()).take(MAX_MESSAGE).collect();
    let trace: String = members
        .trace_id
        .chars()
        .filter(char::is_ascii_graphic)
        .take(64)
        .collect();
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
