//! A stored answer, and the memory it takes.
//!
//! Sizes include the overhead of the allocator and of moka, so that the cache's bound limits the
//! growth of the process. The numbers follow from the structs and the allocator's rounding, and
//! `tests/bench/run --only memory` compares them with the growth of a gateway's resident memory.

use std::sync::OnceLock;
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use crate::cache::entity::EntityIndex;
use crate::cache::freshness::Age;
use crate::cache::refresh::RefreshState;
use crate::memory::Reservation;
use crate::scan::{self, Key, UpstreamResponse};

/// What the allocator adds to an allocation on average: its header and rounding.
pub(super) const ALLOCATION_BYTES: usize = 16;

/// What a shared buffer takes besides its bytes: one allocation for the bytes and one for the
/// reference count.
pub(super) const BUFFER_BYTES: usize = 2 * ALLOCATION_BYTES + 24;

/// What moka takes for an entry: the slots of its table, of which a third is in use on average, its
/// bucket, the shared key and value, the entry's dates and weight, its nodes in two queues, and its
/// part of the frequency sketch.
const MOKA_BYTES: usize = 416;

/// What an entry takes without its content: its place in moka, and its key.
pub(super) fn slot_bytes(key: &Key) -> usize {
    MOKA_BYTES + ALLOCATION_BYTES + key.len()
}

/// A stored answer and the state of its refreshes.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) answer: UpstreamResponse,
    /// When the call left.
    pub(super) asked: Instant,
    /// When the answer was given.
    stored: Instant,
    ttl: Duration,
    pub(super) weight: u32,
    /// Whether the body may contain a link to a next page. Computed once instead of for every hit.
    pub(super) may_link: bool,
    /// For a list: where its entities are, once one of them has been asked for.
    pub(super) entities: OnceLock<Box<EntityIndex>>,
    pub(super) refresh_state: RefreshState,
}

impl Entry {
    /// An answer that was made at `stored`, by the host or by a cache in front of it. Its body is
    /// kept as it is, with the buffer that it is a part of.
    pub(super) fn at(key: &Key, answer: &UpstreamResponse, (asked, stored): (Instant, Instant), ttl: Duration) -> Self {
        let answer = answer.without_passing_fields();
        let may_link = scan::next_links(&answer.body).next().is_some();
        // The entry itself, its header fields with their texts, and its body.
        let rounding = 2 * ALLOCATION_BYTES + 2 * BUFFER_BYTES;
        let own = size_of::<Self>() + answer.headers.bytes() + answer.body.len();
        let weight = slot_bytes(key) + own + rounding;
        Self {
            may_link,
            answer,
            asked,
            stored,
            ttl,
            weight: u32::try_from(weight).unwrap_or(u32::MAX),
            entities: OnceLock::new(),
            refresh_state: RefreshState::new(stored),
        }
    }

    /// Attaches the memory reservation of the body, which lasts until the last reader drops the
    /// body.
    pub(super) fn with_memory(self, reservation: Reservation) -> Self {
        Self {
            answer: self.answer.with_memory(reservation),
            ..self
        }
    }

    /// Whether the answer is an error about the request, which is never served stale.
    pub(super) fn is_negative(&self) -> bool {
        self.answer.status != StatusCode::OK
    }

    /// When the entry becomes stale.
    pub(super) fn fresh_until(&self) -> Instant {
        self.stored + self.ttl
    }

    pub(super) fn age(&self, now: Instant) -> Age {
        Age {
            age: now.saturating_duration_since(self.stored),
            ttl: self.ttl,
        }
    }
}
