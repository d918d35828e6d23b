//! The content of an error response.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;

use super::{ErrorCode, Outcome, Window, Windows};
use crate::caller::RequestId;

/// An error response before it is written: the members of RFC 9457, Defender's members, and its
/// header fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The HTTP status.
    pub status: StatusCode,
    /// The outcome of the request.
    pub outcome: Outcome,
    /// `error.code`, which clients written for Defender look at. It is stable.
    pub code: &'static str,
    /// `type`: [`Problem::BLANK`], or a registered problem type.
    pub type_uri: &'static str,
    /// `title`, which is the same for all problems with this code.
    pub title: &'static str,
    /// `detail` and `error.message`: a description of this case for people.
    pub detail: Cow<'static, str>,
    /// `Retry-After`, rounded up to whole seconds.
    pub retry_after: Option<Duration>,
    /// `wait_needed`: the wait, in seconds, that the request needs if it is sent again now.
    pub wait_needed: Option<u64>,
    /// `Proxy-Status`: why the gateway made the response itself, as RFC 9209 §2.3 names it.
    pub proxy_status: &'static str,
    /// `error.target`; the request id if there is nothing better.
    pub target: Option<Cow<'static, str>>,
    /// Whether the quota is the reason, so that `violated-policies` names windows of it.
    pub blames_quota: bool,
    /// The gateway had no memory for the request.
    pub for_memory: bool,
    /// Further header fields, such as `Allow`; their names are in lower case.
    pub fields: &'static [(&'static str, &'static str)],
}

impl Problem {
    /// RFC 9457 §4.2.1: the status alone describes the problem.
    pub const BLANK: &str = "about:blank";
    /// The quota, or the caller's share of it, does not allow the request now.
    pub const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";
    /// The gateway's capacity is reduced for a while.
    pub const REDUCED_CAPACITY: &str = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity";

    /// A problem whose title and `Proxy-Status` follow from its code.
    pub fn new(kind: ErrorCode, detail: impl Into<Cow<'static, str>>) -> Self {
        let status = kind.status();
        Self {
            status,
            outcome: kind.outcome(),
            code: kind.code(),
            type_uri: Self::BLANK,
            title: status.canonical_reason().unwrap_or("Error"),
            detail: detail.into(),
            retry_after: None,
            wait_needed: None,
            proxy_status: kind.proxy_status(),
            target: None,
            blames_quota: false,
            for_memory: false,
            fields: &[],
        }
    }

    /// A 429 as the rate limit draft describes it.
    pub fn quota_exceeded(detail: impl Into<Cow<'static, str>>, retry_after: Duration) -> Self {
        Self {
            type_uri: Self::QUOTA_EXCEEDED,
            title: "Quota exceeded",
            retry_after: Some(retry_after),
            ..Self::new(ErrorCode::TooManyRequests, detail)
        }
    }

    /// The gateway can do less than usual for a while.
    pub fn reduced_capacity(kind: ErrorCode, detail: impl Into<Cow<'static, str>>, retry_after: Duration) -> Self {
        Self {
            type_uri: Self::REDUCED_CAPACITY,
            retry_after: Some(retry_after),
            ..Self::new(kind, detail)
        }
    }

    /// The same problem with additional header fields.
    pub fn with_fields(self, fields: &'static [(&'static str, &'static str)]) -> Self {
        Self { fields, ..self }
    }

    /// The body, `application/problem+json`. `windows` are the quota's windows as they are now.
    pub(super) fn body(&self, id: &RequestId, windows: &Windows) -> Bytes {
        let violated = self.violated(windows.list());
        let mut detail = Cow::Borrowed(&*self.detail);
        if let [
            Window {
                spread: Some(spread), ..
            },
        ] = violated.as_slice()
        {
            detail = Cow::Owned(format!("{detail}; {spread}"));
        }
        if let Some(operation) = windows.operation().filter(|_| !violated.is_empty()) {
            detail = Cow::Owned(format!(
                "{detail}; this quota is that of the operation {operation} alone"
            ));
        }
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
        // It contains only strings and numbers, so it cannot fail; an empty body would still have
        // the right status.
        serde_json::to_vec(&body).unwrap_or_default().into()
    }

    /// The windows with no call left, if the quota is the reason. If each has one, the policy that
    /// spreads the longest window over waiting requests, or else that window.
    fn violated<'a>(&self, windows: &'a [Window]) -> Vec<&'a Window> {
        if !self.blames_quota {
            return Vec::new();
        }
        let mut violated: Vec<_> = windows.iter().filter(|window| window.remaining == 0).collect();
        if violated.is_empty() {
            let scarcest = |window: &&Window| (window.spread.is_some(), window.window_s);
            violated.extend(windows.iter().max_by_key(scarcest));
        }
        violated
    }
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
