//! The pending flights of one endpoint: most of them are in the queue, some only wait to join a
//! batch.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::caller::Name;
use crate::single_flight::flight::Flight;

/// The flights that may become members of a batch, by place. There are never more than there are
/// flights.
#[derive(Debug, Default)]
pub(super) struct PendingFlights {
    waiting: BTreeMap<u64, Waiting>,
    /// The ids they ask for, each with the number of flights that do.
    ids: HashMap<Box<str>, usize, foldhash::quality::RandomState>,
    /// When the queued ones among them will get their slots, as predicted when they queued.
    starts: BTreeSet<(Instant, u64)>,
    /// The latest caller and when it asked, and when the latest of all other callers asked.
    latest: Option<(Name, Instant)>,
    before: Option<Instant>,
}

#[derive(Debug)]
struct Waiting {
    flight: Arc<Flight>,
    start: Option<Instant>,
}

impl PendingFlights {
    /// Adds a flight at its place.
    pub(super) fn add_pending(&mut self, place: u64, flight: Arc<Flight>) {
        for id in flight.request().ids() {
            *self.ids.entry(id.into()).or_default() += 1;
        }
        self.waiting.insert(place, Waiting { flight, start: None });
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

    /// Records that the flight is not, or is no longer, queued.
    pub(super) fn not_queued(&mut self, place: u64) {
        if let Some(before) = self.waiting.get_mut(&place).and_then(|waiting| waiting.start.take()) {
            self.starts.remove(&(before, place));
        }
    }

    /// Removes a flight. `true` when it had a predicted slot, which other flights may have counted
    /// on.
    pub(super) fn leave(&mut self, place: u64) -> bool {
        let Some(gone) = self.waiting.remove(&place) else {
            return false;
        };
        for id in gone.flight.request().ids() {
            if let Some(count) = self.ids.get_mut(id) {
                *count -= 1;
                if *count == 0 {
                    self.ids.remove(id);
                }
            }
        }
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
        for place in gone {
            self.leave(place);
        }
    }

    /// How many different ids they ask for.
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
        self.waiting.values().map(|waiting| &waiting.flight)
    }

    /// How many pending flights get a slot until then; counting stops at `most`.
    pub(super) fn slots(&self, until: Instant, most: usize) -> usize {
        self.starts.range(..=(until, u64::MAX)).take(most).count()
    }
}
