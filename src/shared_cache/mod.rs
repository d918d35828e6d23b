//! What replicas share besides the quota: answers, and calls under way, through a store.
//!
//! Below the memory of each replica lies that of all: an answer that one of them was given is written to the store, and a replica that
//! does not have it looks there before it asks. The first to look in vain takes a *lease* on the question and asks; the others wait for
//! its answer instead of asking too. When the leader fails or dies, one of them takes over.
//!
//! It is a convenience and never in the way: a request that memory can answer does not come here, a look takes at most
//! [`Config::look`], and after a failure the store is left alone for a while, in which every replica asks for itself.
//!
//! ```text
//! memory ─ miss ─► look ─┬─ answer there ─────────────────────► served, and kept in memory
//!                        ├─ nothing there: lease taken ──────► asks; the answer is written, the lease ends, followers are told
//!                        ├─ somebody has the lease ─ told ───► look again, until the deadline
//!                        └─ store slow or gone ──────────────► asks for itself
//! ```
//!
//! # Times
//!
//! Clocks of replicas differ, so only the store's is used: an answer is stamped with the store's time, as its writer knows it from its
//! latest exchange, and its age is told by the store's time when it is read. Both err by one exchange at most, to the side of older.
//! A write that is taken late changes nothing, because it names the end of the freshness, not its length.
//!
//! # What is never shared
//!
//! Questions asked with a caller's own token, answers that a caller or the upstream forbade to store, and secrets: what is written is an
//! answer's status, fields and body, under a digest of the question. Requests with `no-cache` do not look and do not follow.
//!
//! # Versions
//!
//! The version of the format is part of every name and the first byte of every value. What cannot be read, for whatever reason, is
//! counted and as good as not there.
//!
//! Invariant: whatever the store says or does, a request gets the answer that it would get without a store, or a fresh one that another
//! replica got to the same question.

mod backend;
mod clock;
mod codec;
mod config;
mod layer;
mod lease;
mod lookup;
mod metrics;
mod publisher;
mod registry;
mod subscriber;
mod waiters;
mod write_queue;

pub use clock::StoreTime;
pub use codec::{DecodeError, Value};
pub use config::{Config, Name};
pub use layer::{Freshness, InsertLocal, Layer, SharedCache, SharedCacheService, Snapshot};
pub use metrics::Metrics;
pub use publisher::Publisher;
