//! The scenario file as it is written.

use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use crate::sim::history::History;
use crate::sim::limit::{Rejected, Scope, Shape};
use crate::sim::{Message, RetryAfter, span};

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct File {
    pub(super) seed: Option<u64>,
    pub(super) quota: Quota,
    pub(super) history: Option<History>,
    pub(super) sign_in: SignIn,
    pub(super) regions: Vec<Spanned<Region>>,
    pub(super) events: Vec<Spanned<Event>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Quota {
    pub(super) limits: Option<Vec<String>>,
    pub(super) scope: Option<Scope>,
    pub(super) shape: Option<Shape>,
    pub(super) rejected: Option<Rejected>,
    pub(super) retry_after: Option<RetryAfter>,
    pub(super) message: Option<Message>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct SignIn {
    pub(super) latency: Option<Span>,
    pub(super) token_lifetime: Option<Span>,
    pub(super) refresh_in: Option<Span>,
    pub(super) roles: Option<Vec<String>>,
    pub(super) faults: Vec<Fault>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Region {
    pub(super) name: String,
    #[serde(default)]
    pub(super) latency: Span,
    #[serde(default)]
    pub(super) jitter: Span,
    #[serde(default)]
    pub(super) faults: Vec<Fault>,
}

/// A fault of any kind. Which further keys belong to which kind is checked later, where the message
/// can name both.
#[derive(Debug, Deserialize)]
pub(super) struct Fault {
    pub(super) kind: String,
    pub(super) share: Option<f64>,
    pub(super) times: Option<u32>,
    #[serde(flatten)]
    pub(super) keys: toml::Table,
}

/// An event; its action takes further keys, in the same way.
#[derive(Debug, Deserialize)]
pub(super) struct Event {
    pub(super) at: Span,
    pub(super) action: String,
    #[serde(flatten)]
    pub(super) keys: toml::Table,
}

/// A duration with its unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Span(#[serde(deserialize_with = "span::deserialize")] pub(super) Duration);
