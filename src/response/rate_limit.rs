//! The quota as the header fields `RateLimit-Policy` and `RateLimit` show it.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

use super::answer::put;
use super::field;

pub(super) const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
pub(super) const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Passes the quota windows as they are at this moment to a function. It is called once for each
/// response, so it must be cheap and must not block.
pub type RateLimit = Arc<dyn Fn(Instant, &mut dyn FnMut(&Windows)) + Send + Sync>;

/// The quota windows at one moment, with their header fields already written: many responses share
/// them between two upstream calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Windows {
    list: Vec<Window>,
    operation: Option<&'static str>,
    pub(super) policy: Option<HeaderValue>,
    pub(super) left: Option<HeaderValue>,
}

impl Windows {
    /// `list` has the shortest window first. If it is empty, there are no header fields.
    /// `operation` is the name of the operation whose calls alone count in these windows, if there
    /// is one.
    pub fn new(list: Vec<Window>, operation: Option<&'static str>) -> Self {
        Self {
            operation,
            policy: field::rate_limit_policy(&list),
            left: field::rate_limit(&list),
            list,
        }
    }

    /// The windows, shortest first.
    pub fn list(&self) -> &[Window] {
        &self.list
    }

    /// The name of the operation whose calls alone count in these windows.
    pub(super) fn operation(&self) -> Option<&'static str> {
        self.operation
    }

    pub(super) fn put(&self, fields: &mut HeaderMap) {
        put(fields, RATE_LIMIT_POLICY, self.policy.clone());
        put(fields, RATE_LIMIT, self.left.clone());
    }
}

/// One quota window as callers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The policy's name, such as `1m`.
    pub name: Arc<str>,
    /// Calls per window.
    pub quota: u64,
    /// The window's length in seconds, at least 1.
    pub window_s: u64,
    /// Calls left.
    pub remaining: u64,
    /// Seconds during which no more than `remaining` calls may be made.
    pub reset_s: u64,
    /// For a policy that spreads the calls of another window: what it does at present, as a
    /// sentence.
    pub spread: Option<String>,
}
