//! The flights of one endpoint that wait: most of them in the queue, some for a lift only.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::caller::Name;
use crate::single_flight::flight::Flight;

/// Those who may be taken aboard, by place. There are never more than there are flights.
#[derive(Debug, Default)]
pub(super) struct PendingFlights {
    waiting: BTreeMap<u64, Waiting>,
    /// The ids they ask for, each with the number of those who do.
    ids: HashMap<Box<str>, usize, foldhash::quality::RandomState>,
    /// When those of them that queue will get their slots, as predicted when they came.
    starts: BTreeSet<(Instant, u64)>,
    /// Who came last, and when; and when the last of all others came.
    latest: Option<(Name, Instant)>,
    before: Option<Instant>,
}

#[derive(Debug)]
struct Waiting {
    flight: Arc<Flight>,
    start: Option<Instant>,
}

impl PendingFlights {
    /// Takes in one more, at its place.
    pub(super) fn enter(&mut self, place: u64, flight: Arc<Flight>) {
        for id in flight.request().ids() {
            *self.ids.entry(id.into()).or_default() += 1;
        }
        self.waiting.insert(place, Waiting { flight, start: None });
    }

    /// It has a place in the queue, and will get its slot at `start`. Who is not here is about to leave already.
    pub(super) fn queues(&mut self, place: u64, start: Instant) {
        let Some(waiting) = self.waiting.get_mut(&place) else {
            return;
        };
        if let Some(before) = waiting.start.replace(start) {
            self.starts.remove(&(before, place));
        }
        self.starts.insert((start, place));
    }

    /// It has no place in the queue, or no more.
    pub(super) fn queues_not(&mut self, place: u64) {
        if let Some(before) = self.waiting.get_mut(&place).and_then(|waiting| waiting.start.take()) {
            self.starts.remove(&(before, place));
        }
    }

    /// Lets one go; `true` when others may have counted on its slot.
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

    /// Lets all go whom `gone` picks.
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

    /// Notes that a question of this caller came, and tells whether one of somebody else came shortly before.
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

    /// How many of those who wait get a slot until then, as far as `most`.
    pub(super) fn slots(&self, until: Instant, most: usize) -> usize {
        self.starts.range(..=(until, u64::MAX)).take(most).count()
    }
}
