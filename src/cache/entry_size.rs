//! The memory that entries take besides their own bytes, so that the cache's bound limits the
//! growth of the process.
//!
//! The numbers follow from the structs and the allocator's rounding, and
//! `tests/bench/run --only memory` compares them with the growth of a gateway's resident memory.

use crate::scan::Key;

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
