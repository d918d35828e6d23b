//! How many connections there may be and how much memory the heads of their requests may take, and who makes way when all is taken.
//!
//! A newcomer that finds no place gets that of a connection which does nothing: of the peer with most connections, the one that has
//! done nothing for the longest time. So a peer that takes all places gives up its own for those of others, and shares end up equal;
//! programs behind one address, as in a pod, make way for each other. There is no cap for a peer: alone it may have all places. Memory
//! for a long head is taken in the same way from those connections that hold some and do nothing.
//!
//! Invariants: a connection with a request in flight never makes way; nor does a peer for one that would have more than it.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::connection_state::ConnectionState;
use super::{Config, Peer};
use crate::memory::{MemoryBudget, Reservation};

/// How often a newcomer that waits looks for somebody who can make way. Whoever was asked may need a while: a peer that takes the rest of
/// its answer, or does not react at all.
const POLL: Duration = Duration::from_millis(100);

/// How often the operator hears that all places are taken.
const WARN_EVERY: Duration = Duration::from_mins(1);

/// All places of a listener.
#[derive(Debug)]
pub(super) struct ConnectionLimiter {
    free: Arc<Semaphore>,
    count: u32,
    /// How long a connection must have done nothing to make way: a request or the taking of an answer may be on its way. It also bounds
    /// how fast a flood of connections can drive out itself and those behind the same address: all of them once in this time.
    idle_min: Duration,
    heads: Arc<MemoryBudget>,
    /// Held by the one who has others make way for its head.
    asking: tokio::sync::Mutex<()>,
    taken: Mutex<Taken>,
}

/// How many connections a listener has, for people and monitors. Clones look at the same listener.
#[derive(Clone, Debug)]
pub struct Connections(pub(super) Arc<ConnectionLimiter>);

impl Connections {
    /// Open now.
    #[must_use]
    pub fn open(&self) -> u32 {
        let free = u32::try_from(self.0.free.available_permits()).unwrap_or(u32::MAX);
        self.most().saturating_sub(free)
    }

    /// As many as there may be.
    #[must_use]
    pub fn most(&self) -> u32 {
        self.0.count
    }
}

impl Collector for Connections {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (name, help, count) in [
            ("connections", "Connections of callers that are open", self.open()),
            (
                "connections_limit",
                "Connections of callers that may be open",
                self.most(),
            ),
        ] {
            let gauge = ConstGauge::new(i64::from(count));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Taken {
    places: HashMap<u64, Holder>,
    /// How many each peer has; no peer has none.
    peers: HashMap<Address, usize>,
    next: u64,
    said: Option<Instant>,
}

/// Whom to count a connection to. Over Unix sockets all are one.
pub(super) type Address = Option<IpAddr>;

#[derive(Debug)]
struct Holder {
    address: Address,
    activity: Arc<ConnectionState>,
    asked: bool,
}

/// A place; given back when dropped.
#[derive(Debug)]
pub(super) struct ConnectionSlot {
    places: Arc<ConnectionLimiter>,
    number: u64,
    activity: Arc<ConnectionState>,
    _permit: OwnedSemaphorePermit,
}

impl ConnectionLimiter {
    /// As many as `config` says, at least one.
    pub(super) fn new(config: &Config) -> Arc<Self> {
        let count = config.max_connections.max(1);
        Arc::new(Self {
            free: Arc::new(Semaphore::new(count as usize)),
            count,
            idle_min: config.idle_min,
            heads: MemoryBudget::new(config.head_bytes / 2),
            asking: tokio::sync::Mutex::default(),
            taken: Mutex::default(),
        })
    }

    /// The memory for long heads.
    #[cfg(test)]
    pub(super) fn heads(&self) -> &Arc<MemoryBudget> {
        &self.heads
    }

    /// Memory for a long head from `peer`, however long it takes; others may have to make way for it. Cancel safe.
    pub(super) async fn reserve_head(&self, bytes: usize, peer: Address) -> Reservation {
        let reserved = self.heads.reserve(bytes);
        tokio::pin!(reserved);
        // One at a time: the others stand behind it anyway.
        let _turn = tokio::select! {
            biased;
            reservation = &mut reserved => return reservation,
            turn = self.asking.lock() => turn,
        };
        loop {
            self.taken()
                .ask(peer, self.idle_min, ConnectionState::holds_head_memory);
            tokio::select! {
                biased;
                reservation = &mut reserved => return reservation,
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }

    /// A place for `peer`, however long it takes; `None` never, as long as there are places at all. Cancel safe: nothing is taken, though
    /// somebody may have been asked to make way.
    pub(super) async fn take(self: &Arc<Self>, peer: &Peer) -> Option<ConnectionSlot> {
        if let Some(place) = self.try_take(peer) {
            return Some(place);
        }
        self.taken().say();
        let permit = Arc::clone(&self.free).acquire_owned();
        tokio::pin!(permit);
        loop {
            self.taken().ask(peer.address(), self.idle_min, |_| true);
            tokio::select! {
                permit = &mut permit => return Some(self.seat(permit.ok()?, peer)),
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }

    /// A place for `peer` if one is free.
    pub(super) fn try_take(self: &Arc<Self>, peer: &Peer) -> Option<ConnectionSlot> {
        let permit = Arc::clone(&self.free).try_acquire_owned().ok()?;
        Some(self.seat(permit, peer))
    }

    /// Whether one is free.
    pub(super) fn has_free(&self) -> bool {
        self.free.available_permits() > 0
    }

    /// Waits until nobody is left. Cancel safe.
    pub(super) async fn emptied(&self) {
        // The semaphore is never closed, and nobody takes a place any more.
        let _ = self.free.acquire_many(self.count).await;
    }

    fn seat(self: &Arc<Self>, permit: OwnedSemaphorePermit, peer: &Peer) -> ConnectionSlot {
        let (address, activity) = (peer.address(), ConnectionState::new());
        let mut taken = self.taken();
        let number = taken.next;
        taken.next += 1;
        *taken.peers.entry(address).or_default() += 1;
        let holder = Holder {
            address,
            activity: Arc::clone(&activity),
            asked: false,
        };
        taken.places.insert(number, holder);
        drop(taken);
        ConnectionSlot {
            places: Arc::clone(self),
            number,
            activity,
            _permit: permit,
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// Asks one connection of those that are `wanted` to make way for a newcomer from `address`, if there is one that can.
    fn ask(&mut self, address: Address, idle_min: Duration, wanted: impl Fn(&ConnectionState) -> bool) {
        let now = Instant::now();
        let count = |of: Address| self.peers.get(&of).copied().unwrap_or(0);
        let newcomer = count(address);
        let able = self.places.iter().filter_map(|(number, holder)| {
            let since = holder.activity.quiet_since()?;
            let has = count(holder.address);
            let may = !holder.asked
                && since + idle_min <= now
                && (holder.address == address || has > newcomer)
                && wanted(&holder.activity);
            // With the newcomer, its own peer would have one more.
            may.then(|| (has + usize::from(holder.address == address), since, *number))
        });
        let most = able.max_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)).then(b.2.cmp(&a.2)));
        if let Some(holder) = most.and_then(|(_, _, number)| self.places.get_mut(&number)) {
            holder.asked = true;
            holder.activity.evict();
        }
    }

    fn say(&mut self) {
        let now = Instant::now();
        if self.said.is_none_or(|said| said + WARN_EVERY <= now) {
            self.said = Some(now);
            tracing::warn!("as many connections are open as allowed; idle ones make way, and further ones wait");
        }
    }
}

impl ConnectionSlot {
    /// What the connection at this place does.
    pub(super) fn activity(&self) -> &Arc<ConnectionState> {
        &self.activity
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        let Some(holder) = taken.places.remove(&self.number) else {
            return;
        };
        if let Some(count) = taken.peers.get_mut(&holder.address) {
            *count -= 1;
            if *count == 0 {
                taken.peers.remove(&holder.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use http::Version;

    const QUIET: Duration = Duration::from_secs(1);

    fn limiter(count: u32) -> Arc<ConnectionLimiter> {
        ConnectionLimiter::new(&Config {
            max_connections: count,
            idle_min: QUIET,
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

    /// Those of `places` that were asked, by their position.
    fn asked(places: &[ConnectionSlot]) -> Vec<usize> {
        let asked = |place: &ConnectionSlot| place.places.taken().places[&place.number].asked;
        (0..places.len()).filter(|at| asked(&places[*at])).collect()
    }

    /// Lets a newcomer look once.
    fn looks(places: &Arc<ConnectionLimiter>, newcomer: &Peer) {
        assert!(places.take(newcomer).now_or_never().is_none(), "all are taken");
    }

    #[tokio::test(start_paused = true)]
    async fn the_connection_of_the_peer_with_most_that_did_nothing_for_longest_makes_way() {
        let places = limiter(5);
        let mut taken = Vec::new();
        for last in [2, 3, 3, 3, 2] {
            taken.push(places.try_take(&peer(last)).unwrap());
            pass(QUIET).await;
        }
        // The oldest of peer 3 has just answered.
        drop(taken[1].activity().request(Version::HTTP_11));
        taken[1].activity().stamp();
        looks(&places, &peer(4));
        assert_eq!(asked(&taken), [2]);
        looks(&places, &peer(4));
        assert_eq!(asked(&taken), [2, 3], "the next one, when the first does not go");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_gets_the_place_that_becomes_free() {
        let places = limiter(1);
        let place = places.try_take(&peer(2)).unwrap();
        pass(QUIET).await;
        let newcomer = peer(3);
        let waiting = places.take(&newcomer);
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        assert_eq!(asked(std::slice::from_ref(&place)), [0]);
        drop(place);
        assert!(waiting.await.is_some());
        places.emptied().await;
        assert!(places.taken().peers.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_with_a_request_in_flight_never_makes_way() {
        let places = limiter(2);
        let taken: Vec<_> = (0..2).map(|_| places.try_take(&peer(2)).unwrap()).collect();
        let _requests: Vec<_> = taken
            .iter()
            .map(|place| place.activity().request(Version::HTTP_2))
            .collect();
        pass(QUIET * 100).await;
        looks(&places, &peer(3));
        assert_eq!(asked(&taken), [0; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_makes_way_for_others_until_they_have_as_many() {
        let places = limiter(4);
        let taken = [2, 2, 3, 3].map(|last| places.try_take(&peer(last)).unwrap());
        let _requests = [&taken[0], &taken[1]].map(|place| place.activity().request(Version::HTTP_11));
        pass(QUIET).await;
        // All that peer 2 has are busy: it does not get those of peer 3, who has no more.
        looks(&places, &peer(2));
        assert_eq!(asked(&taken), [0; 0]);
        // Who has fewer does.
        looks(&places, &peer(4));
        assert_eq!(asked(&taken), [2]);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_for_a_head_is_given_up_by_the_connection_that_does_nothing_with_it() {
        let places = limiter(4);
        let taken = [2, 2, 2].map(|last| places.try_take(&peer(last)).unwrap());
        let mut held: Vec<_> = taken[1..]
            .iter()
            .map(|slot| {
                slot.activity().set_head_memory(400);
                places.heads().try_reserve(400).unwrap()
            })
            .collect();
        let newcomer = peer(3).address();
        let mut waiting = Box::pin(places.reserve_head(600, newcomer));
        assert!((&mut waiting).now_or_never().is_none());
        pass(QUIET).await;
        assert!((&mut waiting).now_or_never().is_none());
        assert_eq!(asked(&taken), [1], "the first one has none, and is left alone");
        held.remove(0);
        assert_eq!(waiting.await.bytes(), 600);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_connection_is_left_a_second_for_its_request() {
        let places = limiter(1);
        let taken = [places.try_take(&peer(2)).unwrap()];
        pass(QUIET / 2).await;
        looks(&places, &peer(2));
        assert_eq!(asked(&taken), [0; 0]);
        pass(QUIET / 2).await;
        looks(&places, &peer(2));
        assert_eq!(asked(&taken), [0]);
    }
}
