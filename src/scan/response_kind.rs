//! Classifies responses of upstream hosts: whether they are Defender's answers.
//!
//! Between the gateway and Defender there are front ends, proxies and portals that respond in its
//! place: with an HTML page and 200, with an empty body, with a status of their own. Such a
//! response says nothing about the request. A response counts as an answer only if it has the shape
//! of Defender's answers.
//!
//! Pure: the consequences (another region, a stale answer, nothing stored) are decided by the
//! callers.

use http::{StatusCode, header};
use serde::Deserialize;

use crate::operation::Shape;
use crate::scan::members::{each_member, text_of};
use crate::scan::{Endpoint, UpstreamResponse};

/// The class of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseKind {
    /// Defender's answer: rows, or a rejection of the request in Defender's format (such as 400,
    /// 401, 403, 404), or of its token in any format.
    Answer,
    /// 429, in whatever format: it must reach the ledger even if a front end sent it.
    Throttled,
    /// No answer: the host, or something in front of it, could not give one.
    Fault(ResponseFault),
}

/// Why a response is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ResponseFault {
    /// The status says so, in whatever format: 5xx, 408 (it did not get the request in time), 421
    /// (the request was for another host), 425.
    #[error("the status says that the upstream could not answer")]
    Unavailable,
    /// A status that Defender does not use: 1xx, 2xx other than 200, 3xx, or above 599.
    #[error("Defender does not answer with this status")]
    Status,
    /// The content type is not JSON. If it is missing, the body decides.
    #[error("the content type is not JSON")]
    ContentType,
    /// There is no body.
    #[error("the body is empty")]
    Empty,
    /// The body is not one whole JSON object: it was cut off, or is something else.
    #[error("the body is not a whole JSON object")]
    NotJson,
    /// 200 without an array `value` (for an entity: or an `id` or context), or with an `error`;
    /// another status without an object `error`.
    #[error("the body is not of the shape of Defender's answers")]
    Shape,
}

impl ResponseFault {
    /// Whether the response may be passed on when there is nothing better: its status alone says
    /// that it is no answer. The status of everything else would mislead, such as the 200 of a
    /// portal, or the 404 of a front end that knows no such site.
    pub fn may_pass(self) -> bool {
        self == Self::Unavailable
    }
}

impl ResponseKind {
    /// The class of a response to a request to `endpoint`. Of a 200 the whole body is checked.
    pub fn of(endpoint: Endpoint, response: &UpstreamResponse) -> Self {
        let status = response.status;
        let expected = match status.as_u16() {
            429 => return Self::Throttled,
            408 | 421 | 425 | 500..=599 => return Self::Fault(ResponseFault::Unavailable),
            200 => match endpoint.operation.declaration().shape {
                Shape::List => Expected::Rows,
                Shape::Entity => Expected::Entity,
            },
            401 if rejects_token(response) => return Self::Answer,
            400..=499 => Expected::Error,
            _ => return Self::Fault(ResponseFault::Status),
        };
        match check(response, expected) {
            Ok(()) => Self::Answer,
            Err(fault) => Self::Fault(fault),
        }
    }

    /// Whether it is an answer to the request, rows or a rejection.
    pub fn is_answer(self) -> bool {
        self == Self::Answer
    }
}

impl UpstreamResponse {
    /// Whether its content type is JSON or missing.
    pub fn may_be_json(&self) -> bool {
        let mut types = self.headers.get_all(header::CONTENT_TYPE);
        types.all(|value| value.to_str().is_ok_and(is_json))
    }

    /// The code of a rejection in Defender's format, if it is a plain word: `DisabledFeature`.
    pub fn rejection_code(&self) -> Option<String> {
        let code = self.rejection()?.code;
        let is_word = (1..=64).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
        is_word.then_some(code)
    }

    /// What a rejection says in words, for people: a short line without anything that steers.
    pub fn rejection_message(&self) -> Option<String> {
        let message = self.rejection()?.message;
        let line: String = message
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(200)
            .collect();
        Some(line.trim().to_owned()).filter(|line| !line.is_empty())
    }

    fn rejection(&self) -> Option<Reason> {
        serde_json::from_slice::<Rejection>(&self.body)
            .ok()
            .map(|rejection| rejection.error)
    }
}

#[derive(Deserialize)]
struct Rejection {
    #[serde(alias = "Error")]
    error: Reason,
}

#[derive(Deserialize)]
struct Reason {
    #[serde(alias = "Code")]
    code: String,
    #[serde(alias = "Message", default)]
    message: String,
}

/// Whether a 401 rejects the token although it may not have Defender's format: what checks tokens
/// in front of Defender's own code sends a challenge (RFC 6750 §3), mostly without a body. A proxy
/// that wants to know who the gateway is sends a page, or a challenge of another scheme.
fn rejects_token(response: &UpstreamResponse) -> bool {
    let mut challenges = response.headers.get_all(header::WWW_AUTHENTICATE).peekable();
    if challenges.peek().is_none() {
        return response.may_be_json() && response.body.trim_ascii().is_empty();
    }
    let scheme = |challenge: &str| challenge.split_ascii_whitespace().next().map(str::to_ascii_lowercase);
    let is_bearer = |challenge| scheme(challenge).as_deref() == Some("bearer");
    challenges.any(|list| list.to_str().is_ok_and(|list| list.split(',').any(is_bearer)))
}

/// Whether a status says that the upstream could not answer now.
pub fn is_unavailable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 421 | 425 | 429 | 500..=599)
}

/// The member that the body must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// An array `value`, and no `error`.
    Rows,
    /// An `id` that is no object, an array `value`, or, because a query may select other members
    /// only, a context as `OData` has it; and no `error`.
    Entity,
    /// An object `error`.
    Error,
}

fn check(response: &UpstreamResponse, expected: Expected) -> Result<(), ResponseFault> {
    if !response.may_be_json() {
        return Err(ResponseFault::ContentType);
    }
    let text = text_of(&response.body).ok_or(ResponseFault::NotJson)?;
    if text.trim_ascii().is_empty() {
        return Err(ResponseFault::Empty);
    }
    let (mut list, mut id, mut context, mut error) = (None, None, None, None);
    let each = each_member(text, |(name, value)| {
        // Of doubled members the last one counts, as for most parsers. Some of the documentation's
        // examples are in Pascal case.
        let known = match &*name {
            "value" => &mut list,
            "id" | "Id" => &mut id,
            "@odata.context" => &mut context,
            "error" => &mut error,
            _ => return Some(()),
        };
        *known = Some(value).filter(|value| *value != "null");
        Some(())
    });
    each.ok_or(ResponseFault::NotJson)?;
    let is_list = || list.is_some_and(|list| list.starts_with('['));
    // What cannot be read is of no use as an id.
    let is_readable = |id: &str| serde_json::from_str::<serde_json::Value>(id).is_ok();
    let has_context = || context.is_some_and(|context| context.starts_with('"'));
    let is_entity = || id.is_some_and(|id| !id.starts_with(['[', '{']) && is_readable(id));
    let fits = match expected {
        Expected::Rows => error.is_none() && is_list(),
        Expected::Entity => error.is_none() && (is_list() || is_entity() || has_context()),
        Expected::Error => error.is_some_and(|error| error.starts_with('{')),
    };
    if fits { Ok(()) } else { Err(ResponseFault::Shape) }
}

/// Whether a media type is JSON, or a type based on it (RFC 6839 §3.1), with any parameters.
fn is_json(media: &str) -> bool {
    let essence = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence.split_once('/').is_some_and(|(kind, name)| {
        matches!(kind, "application" | "text") && (name == "json" || name.ends_with("+json"))
    })
}
