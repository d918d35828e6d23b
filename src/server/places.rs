//! The places for connections, and who makes way when all are taken.
//!
//! A newcomer that finds no place gets that of a connection which does nothing: of the peer with most connections, the one that has
//! done nothing for the longest time. So a peer that takes all places gives up its own for those of others, and shares end up equal;
//! programs behind one address, as in a pod, make way for each other. There is no cap for a peer: alone it may have all places.
//!
//! Invariants: a connection with a request in flight never makes way; nor does a peer for one that would have more than it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::Peer;
use super::activity::Activity;

/// How long a connection must have done nothing to make way: a request or the taking of an answer may be on its way. It also bounds
/// how fast a flood of connections can drive out itself and those behind the same address: all of them once in this time.
const QUIET: Duration = Duration::from_secs(1);

/// How often a newcomer that waits looks for somebody who can make way. Whoever was asked may need a while: a peer that takes the rest of
/// its answer, or does not react at all.
const LOOK: Duration = Duration::from_millis(100);

/// How often the operator hears that all places are taken.
const SAY: Duration = Duration::from_mins(1);

/// All places of a listener.
#[derive(Debug)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    count: u32,
    taken: Mutex<Taken>,
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
type Address = Option<IpAddr>;

#[derive(Debug)]
struct Holder {
    address: Address,
    activity: Arc<Activity>,
    asked: bool,
}

/// A place; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    activity: Arc<Activity>,
    _permit: OwnedSemaphorePermit,
}

impl Places {
    /// So many places, at least one.
    pub(super) fn new(count: u32) -> Arc<Self> {
        let count = count.max(1);
        Arc::new(Self {
            free: Arc::new(Semaphore::new(count as usize)),
            count,
            taken: Mutex::default(),
        })
    }

    /// A place for `peer`, however long it takes; `None` never, as long as there are places at all. Cancel safe: nothing is taken, though
    /// somebody may have been asked to make way.
    pub(super) async fn take(self: &Arc<Self>, peer: &Peer) -> Option<Place> {
        if let Some(place) = self.try_take(peer) {
            return Some(place);
        }
        self.taken().say();
        let permit = Arc::clone(&self.free).acquire_owned();
        tokio::pin!(permit);
        loop {
            self.taken().ask(peer.address());
            tokio::select! {
                permit = &mut permit => return Some(self.seat(permit.ok()?, peer)),
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// A place for `peer` if one is free.
    pub(super) fn try_take(self: &Arc<Self>, peer: &Peer) -> Option<Place> {
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

    fn seat(self: &Arc<Self>, permit: OwnedSemaphorePermit, peer: &Peer) -> Place {
        let (address, activity) = (peer.address(), Activity::new());
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
        Place {
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
    /// Asks one connection to make way for a newcomer from `address`, if there is one that can.
    fn ask(&mut self, address: Address) {
        let now = Instant::now();
        let count = |of: Address| self.peers.get(&of).copied().unwrap_or(0);
        let newcomer = count(address);
        let able = self.places.iter().filter_map(|(number, holder)| {
            let since = holder.activity.quiet_since()?;
            let has = count(holder.address);
            let may = !holder.asked && since + QUIET <= now && (holder.address == address || has > newcomer);
            // With the newcomer, its own peer would have one more.
            may.then(|| (has + usize::from(holder.address == address), since, *number))
        });
        let most = able.max_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)).then(b.2.cmp(&a.2)));
        if let Some(holder) = most.and_then(|(_, _, number)| self.places.get_mut(&number)) {
            holder.asked = true;
            holder.activity.make_way();
        }
    }

    fn say(&mut self) {
        let now = Instant::now();
        if self.said.is_none_or(|said| said + SAY <= now) {
            self.said = Some(now);
            tracing::warn!("as many connections are open as allowed; idle ones make way, and further ones wait");
        }
    }
}

impl Place {
    /// What the connection at this place does.
    pub(super) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }
}

impl Drop for Place {
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

    fn peer(last: u8) -> Peer {
        Peer::tcp(([10, 0, 0, last], 9).into(), ([10, 0, 0, 1], 80).into())
    }

    async fn pass(time: Duration) {
        tokio::time::advance(time).await;
    }

    /// Those of `places` that were asked, by their position.
    fn asked(places: &[Place]) -> Vec<usize> {
        let asked = |place: &Place| place.places.taken().places[&place.number].asked;
        (0..places.len()).filter(|at| asked(&places[*at])).collect()
    }

    /// Lets a newcomer look once.
    fn looks(places: &Arc<Places>, newcomer: &Peer) {
        assert!(places.take(newcomer).now_or_never().is_none(), "all are taken");
    }

    #[tokio::test(start_paused = true)]
    async fn the_connection_of_the_peer_with_most_that_did_nothing_for_longest_makes_way() {
        let places = Places::new(5);
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
        let places = Places::new(1);
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
        let places = Places::new(2);
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
        let places = Places::new(4);
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
    async fn a_new_connection_is_left_a_second_for_its_request() {
        let places = Places::new(1);
        let taken = [places.try_take(&peer(2)).unwrap()];
        pass(QUIET / 2).await;
        looks(&places, &peer(2));
        assert_eq!(asked(&taken), [0; 0]);
        pass(QUIET / 2).await;
        looks(&places, &peer(2));
        assert_eq!(asked(&taken), [0]);
    }
}
