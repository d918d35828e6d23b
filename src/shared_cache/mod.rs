//! The second-level cache and single flight over all replicas, in the store.
//!
//! An answer that one replica got is written to the store, and a replica that does not have it in
//! memory looks it up there before it asks the upstream. The first replica that finds nothing takes
//! a *lease* on the request and asks; the others wait for its answer. When that leader fails or
//! dies, another replica takes the lease.
//!
//! The shared cache never delays a request for long: a request that memory can answer does not come
//! here, a lookup takes at most [`Config::look`], and after a failure the store's circuit breaker
//! is open for a while, during which every replica asks for itself.
//!
//! ```text
//! memory ─ miss ─► lookup ─┬─ answer found ──────────────► served, and inserted into memory
//!                          ├─ nothing: lease taken ──────► asks; the answer is written, the lease ends, followers get an event
//!                          ├─ another has the lease ─────► waits for the event, then looks up again, until the deadline
//!                          └─ store slow or unreachable ─► asks for itself
//! ```
//!
//! # Times
//!
//! The clocks of replicas differ, so only the store's clock is used: an answer carries the store's
//! time, as its writer knows it from its latest exchange, and its age is computed from the store's
//! time when it is read. Both err by one exchange at most, towards a greater age. A write that
//! arrives late changes nothing, because it names the end of the freshness and not its length.
//!
//! # What is never shared
//!
//! Requests with a caller's own token, answers that a caller or the upstream forbade to store, and
//! secrets. What is written is an answer's status, header fields and body, under a digest of the
//! request. Requests with `no-cache` do no lookup and wait for no other replica.
//!
//! # Versions
//!
//! The version of the format is part of every key and the first byte of every value. A value that
//! cannot be read is counted and treated as missing.
//!
//! Invariant: whatever the store replies, a request gets the answer that it would get without a
//! store, or a fresh one that another replica got to an equal request.

mod backend;
mod codec;
mod config;
mod layer;
mod lease;
mod metrics;
mod write_queue;

pub use codec::{DecodeError, StoreTime, StoredResponse};
pub use config::{Config, Name};
pub use layer::{InsertLocal, SharedCache};
pub use metrics::{Metrics, Snapshot};
pub use write_queue::Publisher;
