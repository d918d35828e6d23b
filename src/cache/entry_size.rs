//! What things take in memory besides their own bytes, so that the cache's bound is one on the process's growth.
//!
//! Reckoned from the structs and the allocator's rounding, and held against the growth of a gateway's resident memory by
//! `tests/bench/run --only memory`.

use crate::scan::Key;

/// What the allocator adds to an allocation, on average: its own header, and rounding up.
pub(super) const ALLOCATION_BYTES: usize = 16;

/// What a shared buffer takes besides its bytes: an allocation for them, and another for the count of its owners.
pub(super) const BUFFER_BYTES: usize = 2 * ALLOCATION_BYTES + 24;

/// What moka takes for an entry: the slots of its table, of which a third is in use on average, its bucket, the shared key and value, the
/// entry's dates and weight, its nodes in two queues, and its part of the frequency sketch.
const MOKA_BYTES: usize = 416;

/// What an entry takes by being there: a place in moka, and its key.
pub(super) fn slot_bytes(key: &Key) -> usize {
    MOKA_BYTES + ALLOCATION_BYTES + key.len()
}
