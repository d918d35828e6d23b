//! What an error answer says.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};

use super::{Kind, Outcome, Window};
use crate::caller::RequestId;

/// An error answer before it is written: RFC 9457's members, Defender's, and the fields that go with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The HTTP status.
    pub status: StatusCode,
    /// How a request ends that is answered so.
    pub outcome: Outcome,
    /// `error.code`: what clients written for Defender look at. Stable.
    pub code: &'static str,
    /// `type`: [`Problem::BLANK`], or a registered problem type.
    pub type_uri: &'static str,
    /// `title`: the same for all problems of this kind.
    pub title: &'static str,
    /// `detail` and `error.message`: this case, for people.
    pub detail: Cow<'static, str>,
    /// `Retry-After`, rounded up to whole seconds.
    pub retry_after: Option<Duration>,
    /// `wait_needed`: how long a wait would have been let in, in seconds.
    pub wait_needed: Option<u64>,
    /// `Proxy-Status`.
    pub fault: Fault,
    /// `error.target`; the request id when there is nothing better.
    pub target: Option<Cow<'static, str>>,
    /// Which quota windows `violated-policies` names.
    pub policies: Policies,
    /// Further fields, such as `Allow`; names in lower case.
    pub fields: &'static [(&'static str, &'static str)],
}

impl Problem {
    /// RFC 9457 §4.2.1: the status says it all.
    pub const BLANK: &str = "about:blank";
    /// The quota, or the caller's share of it, does not allow the request now.
    pub const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";
    /// The gateway can do less than usual for a while.
    pub const REDUCED_CAPACITY: &str = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity";

    /// A problem whose title and `Proxy-Status` follow from its status.
    #[must_use]
    pub fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        let status = kind.status();
        Self {
            status,
            outcome: Outcome::of_kind(kind),
            code: kind.code(),
            type_uri: Self::BLANK,
            title: status.canonical_reason().unwrap_or("Error"),
            detail: detail.into(),
            retry_after: None,
            wait_needed: None,
            fault: if status.is_client_error() {
                Fault::Request
            } else {
                Fault::Internal
            },
            target: None,
            policies: Policies::None,
            fields: &[],
        }
    }

    /// 429 in the words of the rate limit draft.
    #[must_use]
    pub fn quota_exceeded(detail: impl Into<Cow<'static, str>>, retry_after: Duration, policies: Policies) -> Self {
        Self {
            type_uri: Self::QUOTA_EXCEEDED,
            title: "Quota exceeded",
            retry_after: Some(retry_after),
            policies,
            ..Self::new(Kind::TooManyRequests, detail)
        }
    }

    /// The same problem with another `Proxy-Status`.
    #[must_use]
    pub fn with_fault(self, fault: Fault) -> Self {
        Self { fault, ..self }
    }

    /// The same problem with a `Retry-After`.
    #[must_use]
    pub fn with_retry_after(self, after: Duration) -> Self {
        Self {
            retry_after: Some(after),
            ..self
        }
    }

    /// The same problem with fields of its own.
    #[must_use]
    pub fn with_fields(self, fields: &'static [(&'static str, &'static str)]) -> Self {
        Self { fields, ..self }
    }

    /// The body, `application/problem+json`. `windows` are the quota's as they are now.
    pub(super) fn body(&self, id: &RequestId, windows: &[Window]) -> Bytes {
        let violated = self.policies.violated(windows);
        let detail = match violated.as_slice() {
            [
                Window {
                    spread: Some(spread), ..
                },
            ] => Cow::Owned(format!("{}; {spread}", self.detail)),
            _ => Cow::Borrowed(&*self.detail),
        };
        let body = Document {
            r#type: self.type_uri,
            title: self.title,
            status: self.status.as_u16(),
            detail: &detail,
            instance: format!("/requests/{}", id.as_str()),
            violated_policies: violated.iter().map(|window| &*window.name).collect(),
            wait_needed: self.wait_needed,
            error: DefenderError {
                code: self.code,
                message: &detail,
                target: self.target.as_deref().unwrap_or(id.as_str()),
            },
        };
        // Only strings and numbers, so it cannot fail; an empty body would still carry its status.
        serde_json::to_vec(&body).unwrap_or_default().into()
    }
}

/// Which quota windows an answer blames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policies {
    /// None: the upstream's quota has nothing to do with it.
    None,
    /// Those with no call left. Where each has one, the one that spreads the longest window over those who wait, or that window.
    Spent,
}

impl Policies {
    fn violated(self, windows: &[Window]) -> Vec<&Window> {
        let spent = windows.iter().filter(|window| window.remaining == 0);
        let scarcest = windows
            .iter()
            .max_by_key(|window| (window.spread.is_some(), window.window_s));
        let mut violated: Vec<&Window> = match self {
            Self::None => return Vec::new(),
            Self::Spent => spent.collect(),
        };
        if violated.is_empty() {
            violated.extend(scarcest);
        }
        violated
    }
}

/// Why the gateway answers by itself: the error types of RFC 9209 §2.3 that apply here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request is wrong or comes too often.
    Request,
    /// The gateway's policy forbids the request.
    Denied,
    /// No upstream host could be reached.
    Unavailable,
    /// No answer within the time allowed.
    ResponseTimeout,
    /// The exchange with the upstream failed; the token says how.
    Exchange(&'static str),
    /// The gateway is set up wrongly: its credentials are refused.
    Configuration,
    /// The gateway answered by itself, and that is as it should be.
    Local,
    /// The gateway failed.
    Internal,
}

impl Fault {
    /// The registered token.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Request => "http_request_error",
            Self::Denied => "http_request_denied",
            Self::Unavailable => "destination_unavailable",
            Self::ResponseTimeout => "http_response_timeout",
            Self::Exchange(token) => token,
            Self::Configuration => "proxy_configuration_error",
            Self::Local => "proxy_internal_response",
            Self::Internal => "proxy_internal_error",
        }
    }
}

/// The JSON Schema of [`Document`], for the description; a test holds them together.
pub(super) fn schema() -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["type", "title", "status", "detail", "instance", "error"],
        "properties": {
            "type": {"type": "string", "enum": [Problem::BLANK, Problem::QUOTA_EXCEEDED, Problem::REDUCED_CAPACITY]},
            "title": text("The same for all problems of this kind."),
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": text("This case, for people."),
            "instance": text("`/requests/` and the request's id."),
            "violated-policies": {
                "type": "array",
                "minItems": 1,
                "items": {"type": "string"},
                "description": "The quota policies with no call left, by their names in RateLimit-Policy: windows, or `pace` while the longest one is being spread.",
            },
            "wait_needed": {
                "type": "integer",
                "minimum": 1,
                "description": "How many seconds of `Prefer: wait` would have been let in, where a longer wait would have helped.",
            },
            "error": {
                "type": "object",
                "additionalProperties": false,
                "required": ["code", "message", "target"],
                "properties": {
                    "code": {"type": "string"},
                    "message": text("The same as `detail`."),
                    "target": text("The part of the request that is wrong, or the request's id."),
                },
                "description": "Defender's form, for clients that were written for it.",
            },
        },
    })
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    instance: String,
    #[serde(rename = "violated-policies", skip_serializing_if = "Vec::is_empty")]
    violated_policies: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wait_needed: Option<u64>,
    error: DefenderError<'a>,
}

#[derive(Serialize)]
struct DefenderError<'a> {
    code: &'a str,
    message: &'a str,
    target: &'a str,
}
