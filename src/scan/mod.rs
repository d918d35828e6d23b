//! The domain: a request to one of the operations, its canonical key, and its answer. Pure: no I/O,
//! no clock.
//!
//! Invariant: a [`Request`] can only be built checked and canonical, so two requests that mean the
//! same are equal values with the same [`Key`], and are sent upstream with the same bytes.

mod call;
mod caller_token;
mod id_class;
mod ids;
mod key;
mod members;
mod merge_evidence;
mod options;
mod parse;
mod redact;
mod request;
mod response_kind;
mod rows;
#[cfg(test)]
mod tests;
mod upstream_profile;
mod upstream_response;

pub use crate::operation::{Endpoint, EntityId, Operation, Target, route};
pub use call::{CacheSink, Call, CallObserver, ForwardReason, Outcome, ServedResponse, Status, StoredRows};
pub use caller_token::{CallerToken, Payer, TokenId, TokenOwner};
pub use id_class::SharedIds;
pub use ids::canonical;
pub use key::{Ids, Key, Namespace, hex};
pub use members::range_in;
pub use merge_evidence::{Comparison, MergeEvidence, MergeFinding, MergeRecord, Merging};
pub use options::Options;
pub use parse::{Excerpt, ParseError};
pub use request::Request;
pub use response_kind::{ResponseFault, ResponseKind, is_unavailable};
pub use rows::{Layout, Rows, SplitError};
pub use upstream_profile::{Ordering, UpstreamProfile};
pub use upstream_response::{Headers, UpstreamResponse, next_links};
