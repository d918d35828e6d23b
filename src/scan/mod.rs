//! The domain: a request to one of the operations, its canonical key, and its answer. Pure: no I/O,
//! no clock.
//!
//! Invariant: a [`Request`] can only be built checked and canonical, so two requests that mean the
//! same are equal values with the same [`Key`], and are sent upstream with the same bytes.

mod answer;
mod body;
mod call;
mod caller_token;
mod entity;
mod envelope;
mod fast_parse;
mod fields;
mod finished;
mod id_class;
mod ids;
mod invalid;
mod key;
mod merge_evidence;
mod options;
mod redact;
mod request;
mod row;
mod rows;
mod split_error;
#[cfg(test)]
mod tests;
mod upstream_profile;
mod upstream_response;
mod walk;

pub use crate::operation::{Endpoint, EntityId, Operation, Target, route};
pub use answer::{Answer, next_links};
pub use call::{CacheSink, Call, ForwardReason, Outcome, ServedResponse, Status, StoredRows};
pub use caller_token::{CallerToken, Payer, TokenId};
pub use entity::EntityForm;
pub use fields::Fields;
pub use finished::finished;
pub use id_class::SharedIds;
pub use invalid::{Excerpt, Invalid};
pub use key::{Ids, Key, Namespace};
pub use merge_evidence::{Comparison, MergeEvidence, MergeFinding, MergeRecord};
pub use options::Options;
pub use request::Request;
pub use rows::{Layout, Rows};
pub use split_error::SplitError;
pub use upstream_profile::{Ordering, UpstreamProfile};
pub use upstream_response::{ResponseFault, ResponseKind, is_unavailable};
