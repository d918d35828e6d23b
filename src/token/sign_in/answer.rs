//! Turns a response without a usable token into an error.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use jiff::Timestamp;

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

/// A parsed response, without what may be secret.
#[derive(Debug)]
pub(super) struct Received<'a> {
    pub(super) endpoint: Endpoint,
    pub(super) status: StatusCode,
    pub(super) headers: &'a HeaderMap,
    /// The gateway's clock.
    pub(super) now: Timestamp,
    /// The secret that must not be repeated, whatever the response contains.
    pub(super) proof: &'a Secret,
}

impl Received<'_> {
    /// The server's clock if it sends its time, otherwise ours. Times in the response are relative
    /// to it.
    pub(super) fn server_now(&self) -> Timestamp {
        wait::date(self.headers).unwrap_or(self.now)
    }

    /// Turns an unsuccessful response into an error.
    pub(super) fn failure(&self, answer: &Response<Bytes>) -> Error {
        // Throttling is answered in plain text, and proxies answer in HTML.
        let members = TokenResponse::parse(&decoded(answer.body())).map(|response| response.error);
        let redirects = self.status.is_redirection().then_some(Unusable::Redirect);
        self.error(&members.unwrap_or_default(), redirects)
    }

    /// Turns a response that claims success into an error. Proxies also turn rejections into such
    /// responses.
    pub(super) fn unusable(&self, members: &ErrorMembers, problem: Unusable) -> Error {
        self.error(members, Some(problem))
    }

    fn error(&self, members: &ErrorMembers, problem: Option<Unusable>) -> Error {
        let code = code(self.status, members, self.proof);
        let asked = wait::asked(self.headers, self.now);
        let mut message = message(members, self.proof);
        if self.passes(&code) {
            let unreadable = self.status.is_success() || self.status.is_redirection();
            let reason = match self.status {
                // Entra's number, if there is one, says more than the status.
                StatusCode::TOO_MANY_REQUESTS if !matches!(code, Code::Aadsts(_)) => Reason::Throttled,
                _ if unreadable && matches!(code, Code::Http(_)) => Reason::Unreadable,
                _ => Reason::Failed { code },
            };
            if let (Reason::Unreadable, Some(problem), true) = (&reason, problem, message.is_empty()) {
                message = problem.explained(self.status, self.headers).into();
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
        let busy = matches!(
            self.status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
        );
        // 404 and 410: the metadata service is starting or being updated.
        let starting =
            self.endpoint == Endpoint::Imds && matches!(self.status, StatusCode::NOT_FOUND | StatusCode::GONE);
        // A successful response that contains an error is that error.
        let refused = self.status.is_client_error() || (self.status.is_success() && !matches!(code, Code::Http(_)));
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
