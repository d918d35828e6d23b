//! Errors in Defender's shape.

use http::{StatusCode, header};
use serde_json::json;

use crate::clock::Wall;
use crate::sim::config::{Config, Message, RetryAfter};
use crate::sim::limit::Rejection;
use crate::sim::rng::Rng;
use crate::sim::wire::Reply;

/// Why a call is rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
        }
    }

    pub(super) fn bad(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub(super) fn unauthorized(reason: &str) -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "Unauthorized",
            format!("Unauthorized request - reason of failure: {reason}"),
        )
    }

    pub(super) fn odata(message: impl Into<String>) -> Self {
        Self::bad("ODataError", message)
    }

    /// The response; its `target` is a new tracking id.
    pub(super) fn reply(&self, rng: &mut Rng) -> Reply {
        let document = json!({
            "error": {"code": self.code, "message": self.message, "target": rng.guid()},
        });
        Reply::new(self.status, "application/json; charset=utf-8", document.to_string())
    }
}

/// The 429 of the quota, as captured in 2021 and 2022.
pub(super) fn throttled(rejection: &Rejection, config: &Config, rng: &mut Rng) -> Reply {
    let seconds = rejection.retry_after.as_millis().div_ceil(1_000).max(1);
    let (calls, clock) = (rejection.limit.calls(), rejection.limit.clock());
    let message = match config.throttle.message {
        Message::WithSeconds => format!(
            "API calls quota exceeded! Maximum allowed {calls} per {clock} for the key Destination+TenantID+AppID. \
             You can send requests again in {seconds} seconds."
        ),
        Message::Absent => String::new(),
        Message::WithoutSeconds => format!("API calls quota exceeded! maximum allowed {calls} per {clock}"),
    };
    let reply = Refusal::new(StatusCode::TOO_MANY_REQUESTS, "429", message).reply(rng);
    match config.throttle.header {
        RetryAfter::Absent => reply,
        RetryAfter::Seconds => reply.with(header::RETRY_AFTER, &seconds.to_string()),
        RetryAfter::Date => reply.with(header::RETRY_AFTER, &http_date(&config.wall, rejection)),
    }
}

/// The end of the wait as an HTTP date, rounded up to the second.
fn http_date(wall: &Wall, rejection: &Rejection) -> String {
    let then = wall
        .now()
        .checked_add(rejection.retry_after)
        .unwrap_or(jiff::Timestamp::MAX);
    let up = i64::from(then.subsec_nanosecond() > 0);
    jiff::Timestamp::from_second(then.as_second().saturating_add(up))
        .unwrap_or(jiff::Timestamp::MAX)
        .strftime("%a, %d %b %Y %H:%M:%S GMT")
        .to_string()
}
