//! Limits the number of connections and the memory of their request heads, and evicts idle
//! connections when either is used up.
//!
//! A new connection without a free slot gets the slot of an idle one: of the peer with the most
//! connections, the one that has been idle for longest. So a peer that takes all slots loses them
//! to others until all peers have equal shares; programs behind one address, as in a pod, evict
//! each other's idle connections. There is no limit for a single peer: alone it may have all slots.
//! Memory for a long head is taken in the same way from idle connections that hold some.
//!
//! Invariants: a connection with a request in flight is never evicted, and no peer loses a slot to
//! a peer that would then have more.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::connection_state::ConnectionState;
use super::{Config, Peer};
use crate::memory::{MemoryBudget, Reservation};

/// How often a waiting connection looks for another one to evict. An eviction may take a while,
/// because the peer still reads its response or does not react at all.
const POLL: Duration = Duration::from_millis(100);

/// How often the log says that all slots are taken.
const WARN_EVERY: Duration = Duration::from_mins(1);

/// All slots of a listener.
#[derive(Debug)]
pub(super) struct ConnectionLimiter {
    pub(super) free: Arc<Semaphore>,
    pub(super) count: u32,
    /// How long a connection must have been idle to be evicted, because a request, or a read of its
    /// response, may be on its way. It also bounds how fast a flood of connections can evict its
    /// own connections and those behind the same address: all of them once in this time.
    idle_min: Duration,
    head_budget: Arc<MemoryBudget>,
    /// Held by the connection that evicts others for the memory of its head.
    evicting: tokio::sync::Mutex<()>,
    table: Mutex<SlotTable>,
}

#[derive(Debug, Default)]
struct SlotTable {
    slots: HashMap<u64, SlotEntry>,
    /// The number of connections of each peer that has any.
    peers: HashMap<Address, usize>,
    next: u64,
    warned_at: Option<Instant>,
}

/// The peer that a connection counts for. All connections over Unix sockets count as one peer.
pub(super) type Address = Option<IpAddr>;

#[derive(Debug)]
struct SlotEntry {
    address: Address,
    state: Arc<ConnectionState>,
    eviction_requested: bool,
}

/// A slot, which is released when it is dropped.
#[derive(Debug)]
pub(super) struct ConnectionSlot {
    limiter: Arc<ConnectionLimiter>,
    number: u64,
    state: Arc<ConnectionState>,
    _permit: OwnedSemaphorePermit,
}

impl ConnectionLimiter {
    /// The number of slots is that of `config`, at least one.
    pub(super) fn new(config: &Config) -> Arc<Self> {
        let count = config.max_connections.max(1);
        Arc::new(Self {
            free: Arc::new(Semaphore::new(count as usize)),
            count,
            idle_min: config.idle_min,
            head_budget: MemoryBudget::new(config.head_bytes / 2),
            evicting: tokio::sync::Mutex::default(),
            table: Mutex::default(),
        })
    }

    /// Waits for memory for a long head from `peer`; other connections may be evicted for it.
    /// Cancel safe.
    pub(super) async fn reserve_head(&self, bytes: usize, peer: Address) -> Reservation {
        let reserved = self.head_budget.reserve(bytes);
        tokio::pin!(reserved);
        // One at a time, because the others would have to wait behind it anyway.
        let _turn = tokio::select! {
            biased;
            reservation = &mut reserved => return reservation,
            turn = self.evicting.lock() => turn,
        };
        loop {
            self.table()
                .evict_one(peer, self.idle_min, ConnectionState::holds_head_memory);
            tokio::select! {
                biased;
                reservation = &mut reserved => return reservation,
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }

    /// Waits for a slot for `peer`. It is `None` only if there are no slots at all. Cancel safe: no
    /// slot is taken, though a connection may have been evicted.
    pub(super) async fn take(self: &Arc<Self>, peer: &Peer) -> Option<ConnectionSlot> {
        if let Some(slot) = self.try_take(peer) {
            return Some(slot);
        }
        self.table().warn();
        let permit = Arc::clone(&self.free).acquire_owned();
        tokio::pin!(permit);
        loop {
            self.table().evict_one(peer.address(), self.idle_min, |_| true);
            tokio::select! {
                permit = &mut permit => return Some(self.new_slot(permit.ok()?, peer)),
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }

    /// A slot for `peer`, if one is free.
    pub(super) fn try_take(self: &Arc<Self>, peer: &Peer) -> Option<ConnectionSlot> {
        let permit = Arc::clone(&self.free).try_acquire_owned().ok()?;
        Some(self.new_slot(permit, peer))
    }

    /// Whether a slot is free.
    pub(super) fn has_free(&self) -> bool {
        self.free.available_permits() > 0
    }

    /// The connections that have a slot. Free slots do not tell: who waits takes them in advance.
    pub(super) fn open(&self) -> u32 {
        u32::try_from(self.table().slots.len()).unwrap_or(u32::MAX)
    }

    /// Waits until all connections have ended. Cancel safe.
    pub(super) async fn emptied(&self) {
        // The semaphore is never closed, and no more slots are taken.
        let _ = self.free.acquire_many(self.count).await;
    }

    fn new_slot(self: &Arc<Self>, permit: OwnedSemaphorePermit, peer: &Peer) -> ConnectionSlot {
        let (address, state) = (peer.address(), ConnectionState::new());
        let mut table = self.table();
        let number = table.next;
        table.next += 1;
        *table.peers.entry(address).or_default() += 1;
        let entry = SlotEntry {
            address,
            state: Arc::clone(&state),
            eviction_requested: false,
        };
        table.slots.insert(number, entry);
        drop(table);
        ConnectionSlot {
            limiter: Arc::clone(self),
            number,
            state,
            _permit: permit,
        }
    }

    fn table(&self) -> MutexGuard<'_, SlotTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SlotTable {
    /// Evicts one connection of those that are `wanted`, for a new connection from `address`, if
    /// one may be evicted.
    fn evict_one(&mut self, address: Address, idle_min: Duration, wanted: impl Fn(&ConnectionState) -> bool) {
        let now = Instant::now();
        let count = |of: Address| self.peers.get(&of).copied().unwrap_or(0);
        let newcomer = count(address);
        let able = self.slots.iter().filter_map(|(number, entry)| {
            let since = entry.state.idle_since()?;
            let has = count(entry.address);
            let may = !entry.eviction_requested
                && since + idle_min <= now
                && (entry.address == address || has > newcomer)
                && wanted(&entry.state);
            // With the new connection, its own peer would have one more.
            may.then(|| (has + usize::from(entry.address == address), since, *number))
        });
        let most = able.max_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)).then(b.2.cmp(&a.2)));
        if let Some(entry) = most.and_then(|(_, _, number)| self.slots.get_mut(&number)) {
            entry.eviction_requested = true;
            entry.state.evict();
        }
    }

    fn warn(&mut self) {
        let now = Instant::now();
        if self.warned_at.is_none_or(|warned_at| warned_at + WARN_EVERY <= now) {
            self.warned_at = Some(now);
            tracing::warn!("as many connections are open as allowed; idle ones make way, and further ones wait");
        }
    }
}

impl ConnectionSlot {
    /// The state of the connection with this slot.
    pub(super) fn state(&self) -> &Arc<ConnectionState> {
        &self.state
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut table = self.limiter.table();
        let Some(entry) = table.slots.remove(&self.number) else {
            return;
        };
        if let Some(count) = table.peers.get_mut(&entry.address) {
            *count -= 1;
            if *count == 0 {
                table.peers.remove(&entry.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use http::Version;

    const IDLE_MIN: Duration = Duration::from_secs(1);

    fn limiter(count: u32) -> Arc<ConnectionLimiter> {
        ConnectionLimiter::new(&Config {
            max_connections: count,
            idle_min: IDLE_MIN,
            head_bytes: 2000,
            ..Config::default()
        })
    }

    fn peer(last: u8) -> Peer {
        Peer::tcp(([10, 0, 0, last], 9).into(), ([10, 0, 0, 1], 80).into())
    }

    async fn pass(time: Duration) {
        tokio::time::advance(time).await;
    }

    /// The positions of the `slots` whose eviction was requested.
    fn eviction_requested(slots: &[ConnectionSlot]) -> Vec<usize> {
        let eviction_requested = |slot: &ConnectionSlot| slot.limiter.table().slots[&slot.number].eviction_requested;
        (0..slots.len()).filter(|at| eviction_requested(&slots[*at])).collect()
    }

    /// Lets a new connection try to evict one.
    fn looks(limiter: &Arc<ConnectionLimiter>, newcomer: &Peer) {
        assert!(limiter.take(newcomer).now_or_never().is_none(), "all are taken");
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_connection_of_the_peer_with_most_is_evicted() {
        let limiter = limiter(5);
        let mut taken = Vec::new();
        for last in [2, 3, 3, 3, 2] {
            taken.push(limiter.try_take(&peer(last)).unwrap());
            pass(IDLE_MIN).await;
        }
        // The oldest connection of peer 3 has just been answered.
        drop(taken[1].state().request(Version::HTTP_11));
        taken[1].state().stamp();
        looks(&limiter, &peer(4));
        assert_eq!(eviction_requested(&taken), [2]);
        looks(&limiter, &peer(4));
        assert_eq!(
            eviction_requested(&taken),
            [2, 3],
            "the next one, when the first does not go"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_connection_gets_the_slot_that_becomes_free() {
        let limiter = limiter(1);
        let slot = limiter.try_take(&peer(2)).unwrap();
        pass(IDLE_MIN).await;
        let newcomer = peer(3);
        let waiting = limiter.take(&newcomer);
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        assert_eq!(eviction_requested(std::slice::from_ref(&slot)), [0]);
        drop(slot);
        assert!(waiting.await.is_some());
        limiter.emptied().await;
        assert!(limiter.table().peers.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_for_the_last_connection_counts_as_none() {
        let limiter = limiter(3);
        let slot = limiter.try_take(&peer(2)).unwrap();
        let mut emptied = Box::pin(limiter.emptied());
        assert!((&mut emptied).now_or_never().is_none());
        assert_eq!(limiter.open(), 1);
        drop(slot);
        emptied.await;
        assert_eq!(limiter.open(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_with_a_request_in_flight_is_never_evicted() {
        let limiter = limiter(2);
        let taken: Vec<_> = (0..2).map(|_| limiter.try_take(&peer(2)).unwrap()).collect();
        let _requests: Vec<_> = taken.iter().map(|slot| slot.state().request(Version::HTTP_2)).collect();
        pass(IDLE_MIN * 100).await;
        looks(&limiter, &peer(3));
        assert_eq!(eviction_requested(&taken), [0; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_loses_slots_to_others_until_they_have_as_many() {
        let limiter = limiter(4);
        let taken = [2, 2, 3, 3].map(|last| limiter.try_take(&peer(last)).unwrap());
        let _requests = [&taken[0], &taken[1]].map(|slot| slot.state().request(Version::HTTP_11));
        pass(IDLE_MIN).await;
        // All connections of peer 2 are busy, and it gets none from peer 3, which has no more than
        // it.
        looks(&limiter, &peer(2));
        assert_eq!(eviction_requested(&taken), [0; 0]);
        // A peer with fewer connections gets one.
        looks(&limiter, &peer(4));
        assert_eq!(eviction_requested(&taken), [2]);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_for_a_head_is_taken_from_an_idle_connection() {
        let limiter = limiter(4);
        let taken = [2, 2, 2].map(|last| limiter.try_take(&peer(last)).unwrap());
        let mut held: Vec<_> = taken[1..]
            .iter()
            .map(|slot| {
                slot.state().set_head_memory(400);
                limiter.head_budget.try_reserve(400).unwrap()
            })
            .collect();
        let newcomer = peer(3).address();
        let mut waiting = Box::pin(limiter.reserve_head(600, newcomer));
        assert!((&mut waiting).now_or_never().is_none());
        pass(IDLE_MIN).await;
        assert!((&mut waiting).now_or_never().is_none());
        assert_eq!(
            eviction_requested(&taken),
            [1],
            "the first one has none, and is left alone"
        );
        held.remove(0);
        assert_eq!(waiting.await.bytes(), 600);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_connection_is_left_a_second_for_its_request() {
        let limiter = limiter(1);
        let taken = [limiter.try_take(&peer(2)).unwrap()];
        pass(IDLE_MIN / 2).await;
        looks(&limiter, &peer(2));
        assert_eq!(eviction_requested(&taken), [0; 0]);
        pass(IDLE_MIN / 2).await;
        looks(&limiter, &peer(2));
        assert_eq!(eviction_requested(&taken), [0]);
    }
}
