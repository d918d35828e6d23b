//! The flights that may still be joined.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::caller::Caller;
use crate::scan::{Key, Request};
use crate::single_flight::batcher::Batcher;
use crate::single_flight::flight::Flight;
use crate::single_flight::flight_result::ResultReceiver;

/// By key. Keys are long, and looked for three times a call.
type SingleFlight = HashMap<Key, Arc<Flight>, foldhash::quality::RandomState>;

/// At most one flight for each key. There are never more than there are requests waiting, each of which holds a connection of the server.
#[derive(Debug)]
pub(super) struct FlightTable {
    pool: Option<Arc<Batcher>>,
    flights: Mutex<SingleFlight>,
}

impl FlightTable {
    /// No flights yet. In `pool` plain ones meet others.
    pub(super) fn new(pool: Option<Arc<Batcher>>) -> Self {
        Self {
            pool,
            flights: Mutex::default(),
        }
    }

    /// A seat in the flight for `request`; in a new one, which the caller has to start, when there is none that will do.
    pub(super) fn join(self: &Arc<Self>, request: &Arc<Request>, caller: &Arc<Caller>) -> Joined {
        let now = Instant::now();
        let mut flights = self.flights();
        let pending_guard = flights.entry(request.key().clone());
        if let Entry::Occupied(flight) = &pending_guard
            && let Some((id, inbox)) = flight.get().join(caller, now)
        {
            return Joined {
                seat: self.seat(Arc::clone(flight.get()), id),
                inbox,
                start: None,
            };
        }
        let pool = self.pool.clone().filter(|pool| pool.suits(request));
        let (flight, id, inbox) = Flight::new(Arc::clone(request), pool, caller, now);
        let flight = Arc::new(flight);
        pending_guard.insert_entry(Arc::clone(&flight));
        Joined {
            seat: self.seat(Arc::clone(&flight), id),
            inbox,
            start: Some(flight),
        }
    }

    /// Takes a flight off, unless a later one has taken its place already.
    pub(super) fn remove(&self, flight: &Arc<Flight>) {
        let mut flights = self.flights();
        if let Entry::Occupied(other) = flights.entry(flight.request().key().clone())
            && Arc::ptr_eq(other.get(), flight)
        {
            other.remove();
        }
    }

    /// How many flights may be joined.
    pub(super) fn len(&self) -> usize {
        self.flights().len()
    }

    fn seat(self: &Arc<Self>, flight: Arc<Flight>, id: u64) -> WaiterGuard {
        WaiterGuard {
            flight_table: Arc::clone(self),
            flight,
            id,
        }
    }

    fn flights(&self) -> MutexGuard<'_, SingleFlight> {
        // Nothing in here panics halfway through a change.
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What boarding brings.
pub(super) struct Joined {
    pub(super) seat: WaiterGuard,
    pub(super) inbox: ResultReceiver,
    /// The flight is new and has to be started.
    pub(super) start: Option<Arc<Flight>>,
}

/// A waiter's place in a flight. Dropping it strikes the waiter off.
pub(super) struct WaiterGuard {
    flight_table: Arc<FlightTable>,
    pub(super) flight: Arc<Flight>,
    pub(super) id: u64,
}

impl Drop for WaiterGuard {
    fn drop(&mut self) {
        if self.flight.leave(self.id) {
            self.flight_table.remove(&self.flight);
        }
    }
}
