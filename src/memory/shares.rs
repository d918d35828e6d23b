//! The division of the total.

use std::sync::Arc;

use super::MemoryBudget;

/// The program itself with its tables, threads and cached last requests, and the connections to the
/// outside.
pub const BASE: usize = 24 << 20;

/// The total when neither a container nor the configuration limits it, unless it is more than half
/// of the machine's memory.
pub const DEFAULT_TOTAL: usize = 1 << 30;

/// A gateway cannot work well with less, so it works as if it had as much.
pub const LEAST_TOTAL: usize = 48 << 20;

/// Below this, memory is tight.
const TIGHT: usize = 512 << 20;

/// A caller's connection: its task, hyper's buffers, and what the kernel needs for a socket besides
/// its buffers.
pub const CONNECTION: usize = 32 << 10;

/// One of several concurrent requests of a connection, until its response is read: the stream, its
/// task and its header fields.
pub const STREAM: usize = 6 << 10;

/// A request that memory could not answer, without its body.
pub const REQUEST: usize = 8 << 10;

/// The bytes reserved for each byte that is read, because buffers double as they grow, and a body
/// is copied once.
pub const ALLOCATED_PER_BYTE: usize = 2;

/// An upstream answer with more bytes is a large one.
pub const LARGE_ANSWER: usize = 64 << 10;

/// The bytes for each purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// The total.
    pub total: usize,
    /// Reserved for no purpose: what the allocator keeps, the kernel's buffers for connections, and
    /// the pages of the program's file. A quarter of the total but at most 64 MiB, where little is
    /// left a third of that, and always an eighth.
    pub spare: usize,
    /// Answers in the cache, and former entries that callers still read, or whose rows requests
    /// hold that wait for others.
    pub cache: usize,
    /// Callers' connections, at [`CONNECTION`] each.
    pub connections: usize,
    /// Half for long request heads, half for requests that share a connection.
    pub heads: usize,
    /// Bodies of requests while they are read.
    pub bodies: usize,
    /// Requests that wait for an upstream answer.
    pub waiting: usize,
    /// Small upstream answers, from the call until all callers have read them.
    pub small_answers: usize,
    /// Large upstream answers.
    pub large_answers: usize,
}

impl Shares {
    /// Divides `total`. `cache` is the operator's setting for the cache; by default it gets a
    /// quarter of what is divided.
    ///
    /// ```
    /// use defender_gateway::testing::memory::Shares;
    ///
    /// let shares = Shares::of(128 << 20, Some(16 << 20));
    /// assert!(shares.sum() <= 128 << 20);
    /// ```
    pub fn of(total: usize, cache: Option<usize>) -> Self {
        let total = total.max(LEAST_TOTAL);
        let spare = (total / 4).min((total - BASE) / 3).min(TIGHT / 8).max(total / 8);
        let divided = total - spare - BASE;
        // A fifth is for former entries.
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

    /// The sum of all shares.
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

    /// The most that the cache's entries may take.
    pub fn max_cached(&self) -> usize {
        self.cache / 5 * 4
    }

    /// The most connections of callers.
    pub fn max_connections(&self) -> u32 {
        u32::try_from(self.connections / CONNECTION).unwrap_or(u32::MAX)
    }

    /// The kernel's buffer for each direction of a caller's connection, in bytes. When memory is
    /// tight the buffers are small; with a round trip of a millisecond they still allow 16 MB a
    /// second.
    pub fn socket_buffer(&self) -> u32 {
        if self.total < TIGHT { 16 << 10 } else { 64 << 10 }
    }

    /// The same for a connection to the upstream; `None` for the kernel's default. When memory is
    /// tight, a host at a distance of a hundred milliseconds sends some 600 kB a second on each
    /// connection.
    pub fn receive_buffer(&self) -> Option<u32> {
        (self.total < TIGHT).then_some(64 << 10)
    }

    /// The longest body of a request: it must fit into the share, with what it takes while it
    /// grows.
    pub fn max_body(&self) -> usize {
        self.bodies / ALLOCATED_PER_BYTE
    }

    /// The budgets of upstream answers.
    pub fn answers(&self) -> AnswerMemory {
        AnswerMemory {
            small: MemoryBudget::new(self.small_answers),
            large: MemoryBudget::new(self.large_answers),
        }
    }
}

/// The memory of upstream answers, from the call until the last caller has read its answer. Clones
/// share it.
///
/// The length of an answer is known only when it has been read. Each begins as a small one; one
/// that turns out to be large waits until the longest possible one would fit, and releases what it
/// did not need. So two growing answers can never wait for each other.
#[derive(Clone, Debug)]
pub struct AnswerMemory {
    /// For answers of up to [`LARGE_ANSWER`] bytes, and for the beginnings of longer ones.
    pub small: Arc<MemoryBudget>,
    /// For longer ones.
    pub large: Arc<MemoryBudget>,
}

impl AnswerMemory {
    /// The budget for an answer of this many bytes.
    pub fn of(&self, bytes: usize) -> &Arc<MemoryBudget> {
        if bytes > LARGE_ANSWER { &self.large } else { &self.small }
    }

    /// The longest answer: two of them fit.
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
