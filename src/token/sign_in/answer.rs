//! Turns a response into a token or an error: what is wrong with it, and how long it asks to wait
//! (`Retry-After`, RFC 9110 §10.2.3).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, DATE};
use http::{HeaderMap, Response, StatusCode};
use jiff::Timestamp;
use tokio::time::Instant;

use crate::net::retry_after;
use crate::secret::Secret;
use crate::telemetry::log::steers;
use crate::token::error::Endpoint;
use crate::token::sign_in::response::Issued;
use crate::token::sign_in::response::{self, ErrorMembers, TokenResponse, decoded};
use crate::token::{Code, Error, Reason, aadsts};

/// The longest part of sign-in's message that is kept.
const MAX_MESSAGE: usize = 500;

/// A response, and what it is read with.
pub(super) struct Received<'a> {
    pub(super) endpoint: Endpoint,
    pub(super) answer: &'a Response<Bytes>,
    /// The gateway's clock when the request left.
    pub(super) now: Timestamp,
    /// The same for its stopwatch, and how long the machine had been suspended.
    pub(super) asked: (Instant, Duration),
    /// The secret that must not be repeated, whatever the response contains.
    pub(super) proof: &'a Secret,
}

/// Converts the error of an exchange with `endpoint`.
pub(super) fn unreachable_because(endpoint: Endpoint, error: crate::BoxError) -> Error {
    Error::Unavailable {
        reason: Reason::Unreachable(endpoint),
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
        let server_now = server_time(self.answer.headers()).unwrap_or(self.now);
        let issued = response.issued(server_now, self.asked);
        issued.map_err(|problem| self.error(&response.error, Some(problem)))
    }

    fn error(&self, members: &ErrorMembers, problem: Option<Unusable>) -> Error {
        let (status, headers) = (self.answer.status(), self.answer.headers());
        let code = code(self.endpoint, status, members, self.proof);
        let asked = retry_after::wait(headers, Some(self.now)).map(|wait| wait.min(MAX_WAIT));
        let mut message = message(members, self.proof);
        if self.passes(&code) {
            let unreadable = status.is_success() || status.is_redirection();
            let reason = match status {
                // Entra's number, if there is one, says more than the status.
                StatusCode::TOO_MANY_REQUESTS if !matches!(code, Code::Aadsts(_)) => Reason::Throttled,
                _ if unreadable && matches!(code, Code::Http(..)) => Reason::Unreadable,
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
        // 404 and 410: the machine's service is starting or being updated.
        let starting = self.endpoint != Endpoint::Entra && matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE);
        // A successful response that contains an error is that error.
        let refused = status.is_client_error() || (status.is_success() && !matches!(code, Code::Http(..)));
        busy || starting || !refused || aadsts::is_transient(code)
    }
}

fn code(endpoint: Endpoint, status: StatusCode, members: &ErrorMembers, proof: &Secret) -> Code {
    if let Some(number) = members.aadsts() {
        return Code::Aadsts(number);
    }
    let word = members.error.as_str();
    let plausible = !word.is_empty() && word.len() <= 64 && word.bytes().all(|b| b.is_ascii_graphic());
    let plausible = plausible && !repeats(word, proof);
    if plausible {
        Code::OAuth(word.into())
    } else {
        Code::Http(endpoint, status)
    }
}

/// The description in one bounded line, with the number that Microsoft's support asks for.
fn message(members: &ErrorMembers, proof: &Secret) -> Arc<str> {
    if repeats(&members.description, proof) {
        return "its answer repeated the credential and is not shown".into();
    }
    let first = members.description.lines().next().unwrap_or_default();
    let mut text: String = first.chars().filter(|c| !steers(*c)).take(MAX_MESSAGE).collect();
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

/// What is wrong with a response. Its text never quotes the response, which may contain a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    #[error("its body is empty")]
    Empty,
    #[error("its body is a web page, as login pages and proxies send it")]
    WebPage,
    #[error("its body is not JSON")]
    NotJson,
    #[error("its body is JSON, but not an object")]
    NotObject,
    #[error("its JSON has no access_token")]
    NoToken,
    #[error("its access_token is not a text")]
    TokenNotText,
    #[error("its access_token is empty")]
    TokenEmpty,
    #[error("its access_token holds characters that no header field can carry")]
    TokenNotSendable,
    #[error("its token has expired already, by expires_in or expires_on")]
    TokenExpired,
    #[error("it redirects, which is not followed")]
    Redirect,
}

impl Unusable {
    /// What a text is that is no JSON object.
    pub(super) fn of_text(text: &str) -> Self {
        match text.trim_start().as_bytes().first() {
            None => Self::Empty,
            Some(b'<') => Self::WebPage,
            Some(b'{') => Self::NotJson,
            Some(_) if response::is_json(text) => Self::NotObject,
            Some(_) => Self::NotJson,
        }
    }

    /// The problem together with the response's status and type:
    /// `HTTP 200, text/html: its body is empty`.
    pub(super) fn explained(self, status: StatusCode, headers: &HeaderMap) -> String {
        format!("HTTP {}, {}: {self}", status.as_u16(), content_type(headers))
    }
}

/// The media type of a response, in a bounded form that can be logged.
fn content_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media = value.and_then(|value| value.split(';').next()).map(str::trim);
    let is_token = |c: char| c.is_ascii_alphanumeric() || "/.+-".contains(c);
    match media {
        Some(media) if (1..=64).contains(&media.len()) && media.chars().all(is_token) => media,
        Some(_) => "an odd content type",
        None => "no content type",
    }
}

/// The longest wait that is obeyed; a server that asks for more is asked again after this.
const MAX_WAIT: Duration = Duration::from_hours(1);

/// The server's clock, from its `Date` field.
pub(super) fn server_time(headers: &HeaderMap) -> Option<Timestamp> {
    retry_after::date(headers.get(DATE)?.to_str().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_told_apart() {
        for (text, expected) in [
            ("", Unusable::Empty),
            (" \r\n", Unusable::Empty),
            ("\n<!DOCTYPE html>", Unusable::WebPage),
            ("{\"access_token\":", Unusable::NotJson),
            ("Too Many Requests", Unusable::NotJson),
            ("[1]", Unusable::NotObject),
            ("\"token\"", Unusable::NotObject),
            ("null", Unusable::NotObject),
        ] {
            assert_eq!(Unusable::of_text(text), expected, "{text}");
        }
    }

    #[test]
    fn the_content_type_is_shown_in_a_bounded_form() {
        let explained = |value: &[u8]| {
            let value = http::HeaderValue::from_bytes(value).unwrap();
            Unusable::Empty.explained(StatusCode::OK, &HeaderMap::from_iter([(header::CONTENT_TYPE, value)]))
        };
        assert_eq!(
            explained(b"text/html; charset=utf-8"),
            "HTTP 200, text/html: its body is empty"
        );
        for odd in [&b"x\xff"[..], b"a b", &[b'a'; 100]] {
            let text = explained(odd);
            assert!(text.ends_with("content type: its body is empty"), "{text}");
        }
    }
}
