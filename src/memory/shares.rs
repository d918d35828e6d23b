//! What the total is divided into.

use std::sync::Arc;

use super::MemoryBudget;

/// The program itself with its tables, threads and remembered questions, and the connections to the outside.
pub const BASE: usize = 24 << 20;

/// The total where neither a container nor the configuration says anything, unless it is more than half of the machine.
pub const DEFAULT_TOTAL: usize = 1 << 30;

/// With less, a gateway cannot work well; it works as if it had as much.
pub const LEAST_TOTAL: usize = 48 << 20;

/// Below this memory is tight.
const TIGHT: usize = 512 << 20;

/// A connection of a caller: its task, HTTP's buffers, and what the kernel needs for a socket without its buffers.
pub const CONNECTION: usize = 32 << 10;

/// A request at the same time as others of its connection, until its answer is taken: the stream, its task and its fields.
pub const STREAM: usize = 6 << 10;

/// A request that memory could not answer, without its body.
pub const REQUEST: usize = 8 << 10;

/// Buffers that grow double, and a body is copied once on its way: for each byte that is read, so many are reserved.
pub const ALLOCATED_PER_BYTE: usize = 2;

/// An answer of the upstream of more bytes is a large one.
pub const LARGE_ANSWER: usize = 64 << 10;

/// What each purpose may take, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// All of it.
    pub total: usize,
    /// Reserved for no purpose: what the allocator keeps, the kernel's buffers for connections, and the pages of the
    /// program's file. A quarter of the total but at most 64 MiB, where little is left a third
    /// of that, and always an eighth.
    pub spare: usize,
    /// Answers in the cache, and those that it has let go of but callers have yet to take.
    pub cache: usize,
    /// Connections of callers, at [`CONNECTION`] each.
    pub connections: usize,
    /// Half for heads of requests as far as they are long, half for requests that share a connection.
    pub heads: usize,
    /// Bodies of requests while they are read.
    pub bodies: usize,
    /// Requests that wait for an answer of the upstream.
    pub waiting: usize,
    /// Small answers of the upstream, from the call on until all have taken them.
    pub small_answers: usize,
    /// Large ones.
    pub large_answers: usize,
}

impl Shares {
    /// Divides `total`. `cache` is what the operator wants for the cache; without a word it gets a quarter of what is divided.
    ///
    /// ```
    /// use defender_gateway::memory::Shares;
    ///
    /// let shares = Shares::of(128 << 20, Some(16 << 20));
    /// assert!(shares.sum() <= 128 << 20);
    /// ```
    #[must_use]
    pub fn of(total: usize, cache: Option<usize>) -> Self {
        let total = total.max(LEAST_TOTAL);
        let spare = (total / 4).min((total - BASE) / 3).min(TIGHT / 8).max(total / 8);
        let divided = total - spare - BASE;
        // A fifth is for answers that the cache has let go of.
        let cache = cache
            .unwrap_or(0)
            .saturating_add(cache.unwrap_or(0) / 4)
            .clamp(divided / 4, divided / 2);
        let part = |of_twenty: usize| (divided - cache) / 20 * of_twenty;
        Self {
            total,
            spare,
            cache,
            connections: part(4),
            heads: part(2),
            bodies: part(2),
            waiting: part(2),
            small_answers: part(2),
            large_answers: part(8),
        }
    }

    /// What all of them take together when each is used up.
    #[must_use]
    pub fn sum(&self) -> usize {
        BASE + self.spare
            + self.cache
            + self.connections
            + self.heads
            + self.bodies
            + self.waiting
            + self.small_answers
            + self.large_answers
    }

    /// The most that the cache may hold.
    #[must_use]
    pub fn max_cached(&self) -> usize {
        self.cache / 5 * 4
    }

    /// How many connections of callers there may be.
    #[must_use]
    pub fn max_connections(&self) -> u32 {
        u32::try_from(self.connections / CONNECTION).unwrap_or(u32::MAX)
    }

    /// What the kernel may keep for each direction of a caller's connection, in bytes. Where memory is tight, so are the buffers of all who
    /// neither read nor are read; a round trip of a millisecond still lets 16 MB a second pass.
    #[must_use]
    pub fn socket_buffer(&self) -> u32 {
        if self.total < TIGHT { 16 << 10 } else { 64 << 10 }
    }

    /// The same for a connection to the upstream; `None`: the kernel's own choice. Where memory is tight, a host at a hundred milliseconds
    /// sends some 600 kB a second for each of its connections.
    #[must_use]
    pub fn receive_buffer(&self) -> Option<u32> {
        (self.total < TIGHT).then_some(64 << 10)
    }

    /// The longest body of a request: all of it must fit into the share, with what it takes while it grows.
    #[must_use]
    pub fn max_body(&self) -> usize {
        self.bodies / ALLOCATED_PER_BYTE
    }

    /// The budgets that answers of the upstream take from.
    #[must_use]
    pub fn answers(&self) -> AnswerMemory {
        AnswerMemory {
            small: MemoryBudget::new(self.small_answers),
            large: MemoryBudget::new(self.large_answers),
        }
    }
}

/// Memory for answers of the upstream, from the call on until the last caller has taken its answer. Clones share it.
///
/// How long an answer is becomes known when it has been read. Each begins as a small one; one that turns out to be large waits until the
/// longest one would fit, and gives back what it did not need: two that grow can never wait for each other.
#[derive(Clone, Debug)]
pub struct AnswerMemory {
    /// For answers of up to [`LARGE_ANSWER`] bytes, and for the beginnings of the others.
    pub small: Arc<MemoryBudget>,
    /// For the others.
    pub large: Arc<MemoryBudget>,
}

impl AnswerMemory {
    /// The longest answer: two of them fit.
    #[must_use]
    pub fn max_answer(&self) -> usize {
        self.large.bytes() / 2 / ALLOCATED_PER_BYTE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_shares_never_add_up_to_more_than_the_total(total in 0_usize..8 << 30, cache in proptest::option::of(0_usize..8 << 30)) {
            let shares = Shares::of(total, cache);
            prop_assert!(shares.sum() <= total.max(LEAST_TOTAL), "{shares:?}");
            prop_assert!(shares.max_connections() >= 48 && shares.max_body() >= 128 << 10, "{shares:?}");
            // At least two calls at a time, and an answer of a thousand rows.
            prop_assert!(shares.small_answers >= 4 * LARGE_ANSWER && shares.answers().max_answer() >= 512 << 10, "{shares:?}");
        }
    }

    #[test]
    fn without_a_limit_nothing_is_tighter_than_it_was() {
        let shares = Shares::of(DEFAULT_TOTAL, None);
        assert!(
            shares.max_connections() >= 2048 && shares.max_cached() >= 64 << 20,
            "{shares:?}"
        );
    }
}
