//! The pending flights of one endpoint: most of them are in the queue, some only wait to join a
//! batch.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::RandomState;
use tokio::time::Instant;

use crate::caller::Name;
use crate::scan::Request;
use crate::single_flight::flight::Flight;

/// The flights that may become members of a batch, by place. There are never more than there are
/// flights.
#[derive(Debug, Default)]
pub(super) struct PendingFlights {
    waiting: BTreeMap<u64, Waiting>,
    /// The ids they lack, each with the number of flights that do.
    ids: HashMap<Box<str>, usize, RandomState>,
    /// When the queued ones among them will get their slots, as predicted when they queued.
    starts: BTreeSet<(Instant, u64)>,
    /// The latest caller and when it asked, and when the latest of all other callers asked.
    latest: Option<(Name, Instant)>,
    before: Option<Instant>,
}

#[derive(Debug)]
struct Waiting {
    flight: Arc<Flight>,
    /// What it lacks, if the rows of some of its ids have come.
    lacking: Option<Request>,
    /// How many different ids were lacking when it came, or when that was last counted: its own,
    /// and those of the flights before it.
    ids_until: usize,
    start: Option<Instant>,
}

impl Waiting {
    fn lacking(&self) -> &Request {
        self.lacking.as_ref().unwrap_or_else(|| self.flight.request())
    }
}

impl PendingFlights {
    /// Adds a flight at its place.
    pub(super) fn add_pending(&mut self, place: u64, flight: Arc<Flight>) {
        self.count(flight.request());
        let waiting = Waiting {
            flight,
            lacking: None,
            ids_until: self.ids.len(),
            start: None,
        };
        self.waiting.insert(place, waiting);
    }

    fn count(&mut self, lacking: &Request) {
        for id in lacking.ids() {
            *self.ids.entry(id.into()).or_default() += 1;
        }
    }

    fn discount(&mut self, lacking: &Request) {
        for id in lacking.ids() {
            if let Some(count) = self.ids.get_mut(id) {
                *count -= 1;
                if *count == 0 {
                    self.ids.remove(id);
                }
            }
        }
    }

    /// Records what the flights at these places lack now.
    pub(super) fn lack(&mut self, lacking: Vec<(u64, Request)>) {
        for (place, lacking) in lacking {
            if let Some(mut waiting) = self.waiting.remove(&place) {
                self.discount(waiting.lacking());
                self.count(&lacking);
                waiting.lacking = Some(lacking);
                self.waiting.insert(place, waiting);
            }
        }
        self.count_until();
    }

    /// Counts for each flight how many different ids are lacking up to its place.
    fn count_until(&mut self) {
        let mut ids = HashSet::with_capacity_and_hasher(self.ids.len(), RandomState::default());
        for waiting in self.waiting.values_mut() {
            let lacking = waiting.lacking.as_ref();
            ids.extend(lacking.unwrap_or_else(|| waiting.flight.request()).ids());
            waiting.ids_until = ids.len();
        }
    }

    /// Records that the flight is queued and is predicted to get its slot at `start`. A flight that
    /// is not pending is about to leave already.
    pub(super) fn queues(&mut self, place: u64, start: Instant) {
        let Some(waiting) = self.waiting.get_mut(&place) else {
            return;
        };
        if let Some(before) = waiting.start.replace(start) {
            self.starts.remove(&(before, place));
        }
        self.starts.insert((start, place));
    }

    /// Records that the flight is not, or is no longer, queued, and adds it if it is not pending.
    pub(super) fn not_queued(&mut self, place: u64, flight: &Arc<Flight>) {
        let Some(waiting) = self.waiting.get_mut(&place) else {
            self.add_pending(place, Arc::clone(flight));
            return;
        };
        if let Some(before) = waiting.start.take() {
            self.starts.remove(&(before, place));
        }
    }

    /// Removes a flight. `true` when it had a predicted slot, which other flights may have counted
    /// on.
    pub(super) fn leave(&mut self, place: u64) -> bool {
        let Some(gone) = self.waiting.remove(&place) else {
            return false;
        };
        self.discount(gone.lacking());
        gone.start.is_some_and(|start| self.starts.remove(&(start, place)))
    }

    /// Removes all flights for which `gone` is true.
    pub(super) fn clear(&mut self, gone: impl Fn(&Flight) -> bool) {
        let gone: Vec<u64> = self
            .waiting
            .iter()
            .filter(|(_, waiting)| gone(&waiting.flight))
            .map(|(place, _)| *place)
            .collect();
        for place in &gone {
            self.leave(*place);
        }
        if !gone.is_empty() {
            self.count_until();
        }
    }

    /// How many different ids are lacking up to this place; all of them for a flight that is not
    /// pending.
    pub(super) fn ids_until(&self, place: u64) -> usize {
        self.waiting
            .get(&place)
            .map_or(self.ids.len(), |waiting| waiting.ids_until)
    }

    /// How many different ids they lack.
    pub(super) fn ids(&self) -> usize {
        self.ids.len()
    }

    /// Records a request of `caller`, and tells whether another caller asked within the given time.
    pub(super) fn has_other_callers(&mut self, caller: &Name, within: Duration, now: Instant) -> bool {
        match &mut self.latest {
            Some((name, at)) if name == caller => *at = now,
            latest => self.before = latest.replace((caller.clone(), now)).map(|(_, at)| at),
        }
        self.before.is_some_and(|at| at + within >= now)
    }

    /// In the order of their places.
    pub(super) fn flights(&self) -> impl Iterator<Item = &Arc<Flight>> {
        self.by_place().map(|(_, flight)| flight)
    }

    /// With their places.
    pub(super) fn by_place(&self) -> impl Iterator<Item = (u64, &Arc<Flight>)> {
        self.waiting.iter().map(|(place, waiting)| (*place, &waiting.flight))
    }

    /// How many pending flights get a slot until then; counting stops at `most`.
    pub(super) fn slots(&self, until: Instant, most: usize) -> usize {
        self.starts.range(..=(until, u64::MAX)).take(most).count()
    }
}
