//! The table of flights that requests may still join.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::attempt::{LateBoundRequest, QueuePosition, Refusal};
use crate::caller::Name;
use crate::scan::{CacheSink, Call, Key, Merging, Payer, Request, UpstreamProfile};
use crate::single_flight::batcher::{BatchMember, Batcher};
use crate::single_flight::flight::{Departure, Flight, Stage};
use crate::single_flight::waiter::ResultReceiver;
use crate::single_flight::{BatchConfig, Metrics, PredictedWait};
use crate::telemetry::trace;

/// Keys are long and are looked up three times a call, so a fast hash is used.
type Flights = HashMap<Key, Vec<Arc<Flight>>, foldhash::quality::RandomState>;

/// So many flights a request joins at most, after which it has one of its own: each of them was
/// predicted to leave in time.
const MOST_JOINED: usize = 3;

/// The flights for each key, in the order in which they began. Only the last may be joined; the
/// others are there because somebody could not join them, or was better off alone, and the first
/// that leaves takes all along that still wait. There are never more flights than waiting requests, each of
/// which holds a connection of the server.
#[derive(Debug)]
pub(super) struct FlightTable {
    /// The batcher, if requests may be batched.
    pub(super) batcher: Option<Arc<Batcher>>,
    pub(super) upstream_profile: Arc<UpstreamProfile>,
    pub(super) metrics: Metrics,
    /// Notified when a flight has ended.
    pub(super) ended: Notify,
    flights: Mutex<Flights>,
}

impl FlightTable {
    /// An empty table, whose flights share calls as `merge` says.
    pub(super) fn new(
        merge: BatchConfig,
        upstream_profile: Arc<UpstreamProfile>,
        predicted_wait: PredictedWait,
        metrics: Metrics,
    ) -> Self {
        let batcher = || Batcher::new(merge, Arc::clone(&upstream_profile), predicted_wait, metrics.clone());
        Self {
            batcher: (merge.when != Merging::Off).then(|| Arc::new(batcher())),
            upstream_profile,
            metrics,
            ended: Notify::new(),
            flights: Mutex::default(),
        }
    }

    /// Adds a waiter to the flight for `request`, unless the waiter has `left` it, or too many. If
    /// there is none that may be joined, it is the first waiter of a new flight, whose answer goes
    /// to `cache_sink`, and which the caller of this function has to start (`true`).
    pub(super) fn join(
        self: &Arc<Self>,
        Call { request, caller }: &Call,
        left: &[Arc<Flight>],
        cache_sink: &Arc<dyn CacheSink>,
    ) -> (WaiterGuard, ResultReceiver, bool) {
        let now = Instant::now();
        let guard = |flight: Arc<Flight>, id| WaiterGuard {
            flight_table: Arc::clone(self),
            flight,
            id,
        };
        let mut flights = self.flights();
        let equal = flights.entry(request.key().clone()).or_default();
        if let Some(flight) = equal.last()
            && left.len() < MOST_JOINED
            && !left.last().is_some_and(|left| Arc::ptr_eq(left, flight))
            && let Some((id, receiver)) = flight.join(caller, now)
        {
            return (guard(Arc::clone(flight), id), receiver, false);
        }
        let batcher = self.batcher.clone().filter(|batcher| batcher.accepts(request));
        let (flight, id, receiver) = Flight::new(Arc::clone(request), batcher, Arc::clone(cache_sink), caller, now);
        let flight = Arc::new(flight);
        equal.push(Arc::clone(&flight));
        (guard(flight, id), receiver, true)
    }

    /// The request to send for a flight whose slot has just been granted; `None` when it needs no
    /// call of its own any more. The flights for the same request give their places in the queue
    /// back, and wait for its answer.
    fn depart(&self, flight: &Arc<Flight>) -> Option<Arc<Request>> {
        // Held until the others are taken along, so that none of them leaves in the same moment, and
        // nobody joins them.
        let flights = self.flights();
        let request = if let Some(batcher) = &flight.batcher {
            batcher.start(flight)?
        } else if flight.start(Instant::now()) == Departure::Cancelled {
            return None;
        } else {
            Arc::clone(&flight.request)
        };
        // Rows that other calls brought may be too old for the others.
        if let Stage::Departed(departed) = flight.stage()
            && !flight.has_stored_rows()
        {
            let equal = flights.get(flight.request.key()).into_iter().flatten();
            let taken_along = equal.filter_map(|other| {
                Some(BatchMember {
                    flight: Arc::clone(other),
                    stored: None,
                    sender: other.take_equal_sender(departed)?,
                })
            });
            flight.take_along(taken_along.collect());
        }
        Some(request)
    }

    /// The other flights for the same request.
    pub(super) fn others(&self, flight: &Arc<Flight>) -> Vec<Arc<Flight>> {
        let flights = self.flights();
        let equal = flights.get(flight.request.key()).into_iter().flatten();
        equal.filter(|other| !Arc::ptr_eq(other, flight)).cloned().collect()
    }

    /// Removes a flight, which has ended. If it was the last for its key, the one before it may be
    /// joined again; after an answer (`is_answered`) only one that still waits.
    pub(super) fn remove(&self, flight: &Arc<Flight>, is_answered: bool) {
        if let Entry::Occupied(mut entry) = self.flights().entry(flight.request.key().clone()) {
            let equal = entry.get_mut();
            let was_last = equal.last().is_some_and(|last| Arc::ptr_eq(last, flight));
            equal.retain(|other| !Arc::ptr_eq(other, flight));
            // The answer of one that has left would be older than the one that was just given.
            while is_answered && was_last && equal.pop_if(|last| last.stage() != Stage::Waiting).is_some() {}
            if equal.is_empty() {
                entry.remove();
            }
        }
        self.ended.notify_waiters();
    }

    /// How many requests have flights.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.flights().len()
    }

    fn flights(&self) -> MutexGuard<'_, Flights> {
        // No code that holds the lock panics halfway through a change.
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A flight that asks for a slot.
#[derive(Debug)]
pub(super) struct QueuedFlight {
    pub(super) flight_table: Arc<FlightTable>,
    pub(super) flight: Arc<Flight>,
}

impl LateBoundRequest for QueuedFlight {
    fn bind(&self) -> Option<Arc<Request>> {
        self.flight_table.depart(&self.flight)
    }

    fn queues(self: Arc<Self>, place: QueuePosition, start: Instant) {
        self.flight.wait_again(Instant::now(), Some(start));
        if let Some(batcher) = &self.flight.batcher {
            batcher.queues(&self.flight, place, start);
        }
    }

    fn refused(&self, refusal: Box<dyn Refusal>) {
        self.flight.refused(refusal);
    }

    fn payer(&self) -> Payer {
        self.flight.request.payer()
    }

    fn cost_sharers(&self) -> Option<Vec<Name>> {
        self.flight.cost_sharers()
    }

    fn trace(&self) -> trace::Call {
        self.flight.trace_call()
    }
}

/// Keeps a waiter in its flight. Dropping it removes the waiter.
pub(super) struct WaiterGuard {
    flight_table: Arc<FlightTable>,
    pub(super) flight: Arc<Flight>,
    pub(super) id: u64,
}

impl WaiterGuard {
    /// Whether the call is, or was, made under the waiter's name.
    pub(super) fn leads(&self) -> bool {
        self.flight.state().waiters.leader == self.id
    }
}

impl Drop for WaiterGuard {
    fn drop(&mut self) {
        if self.flight.leave(self.id) {
            self.flight_table.remove(&self.flight, false);
        }
    }
}
