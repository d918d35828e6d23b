//! The domain: a question to one of the operations, its canonical key, and the answer. Pure: no I/O, no clock.
//!
//! One invariant: a [`Request`] can only be built checked and canonical, so two questions that mean the same are the same value,
//! with the same [`Key`], and are asked upstream with the same bytes.

mod answer;
mod body;
mod cache_sink;
mod call;
mod delegated;
mod entity;
mod envelope;
mod fields;
mod finished;
mod id_class;
mod ids;
mod invalid;
mod key;
mod options;
mod plain;
mod redact;
mod request;
mod row;
mod rows;
mod split_error;
mod upstream_profile;
mod upstream_response;
mod walk;

pub use crate::operation::{Endpoint, EntityId, Operation, Target, route};
pub use answer::{Answer, next_links};
pub use cache_sink::Keep;
pub use call::{Call, Forward, Outcome, Served, Status};
pub use delegated::{Delegated, Holder, Payer};
pub use entity::EntityForm;
pub use fields::Fields;
pub use finished::finished;
pub use id_class::SharedIds;
pub use invalid::{Excerpt, Invalid};
pub use key::{Ids, Key, Namespace};
pub use options::Options;
pub use request::Request;
pub use rows::{Layout, Rows};
pub use split_error::SplitError;
pub use upstream_profile::{Ordering, UpstreamProfile};
pub use upstream_response::{ResponseFault, ResponseKind, is_unavailable};
