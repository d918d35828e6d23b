//! The scenario file as it is written.

use std::time::Duration;

use serde::Deserialize;

use crate::sim::history::{Casing, Duplicates, EntityForm, Envelope, Layout, Matching, NextLink, Order, Unknown};
use crate::sim::limit::{Rejected, Scope, Shape};
use crate::sim::{Message, RetryAfter, span};

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct File {
    pub(super) seed: Option<u64>,
    pub(super) quota: Quota,
    pub(super) history: History,
    pub(super) sign_in: SignIn,
    pub(super) regions: Vec<Region>,
    pub(super) events: Vec<Event>,
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
pub(super) struct History {
    pub(super) casing: Option<Casing>,
    pub(super) order: Option<Order>,
    pub(super) unknown: Option<Unknown>,
    pub(super) matching: Option<Matching>,
    pub(super) duplicates: Option<Duplicates>,
    pub(super) page_size: Option<usize>,
    pub(super) next_link: Option<NextLink>,
    pub(super) layout: Option<Layout>,
    pub(super) envelope: Option<Envelope>,
    pub(super) age: Option<Span>,
    pub(super) max_ids: Option<usize>,
    pub(super) definitions: Option<usize>,
    pub(super) agents: Option<usize>,
    pub(super) entity: Option<EntityForm>,
    pub(super) running: Option<bool>,
    pub(super) secrets: Option<bool>,
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

/// All kinds of fault in one form. Which keys belong to which kind is checked later, where the
/// message can name both.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fault {
    pub(super) kind: String,
    pub(super) status: Option<u16>,
    pub(super) code: Option<u32>,
    pub(super) wait: Option<Span>,
    pub(super) over: Option<Span>,
    pub(super) share: Option<f64>,
    pub(super) times: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Event {
    pub(super) at: Span,
    pub(super) action: String,
    pub(super) region: Option<String>,
    pub(super) latency: Option<Span>,
    pub(super) jitter: Option<Span>,
    pub(super) faults: Option<Vec<Fault>>,
    pub(super) limits: Option<Vec<String>>,
    pub(super) shape: Option<Shape>,
    pub(super) calls: Option<u32>,
    pub(super) per_hour: Option<u32>,
}

/// A duration with its unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Span(#[serde(deserialize_with = "span::deserialize")] pub(super) Duration);
