//! The flights of one version that wait: most of them in the queue, some for a lift only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::time::Instant;

use crate::coalesce::flight::Flight;

/// Those who may be taken aboard, by place. There are never more than there are flights.
#[derive(Debug, Default)]
pub(super) struct Room {
    waiting: BTreeMap<u64, Waiting>,
    /// How many ids they ask for, those asked for twice counted twice.
    ids: usize,
    /// When those of them that queue will get their slots, as predicted when they came.
    starts: BTreeSet<(Instant, u64)>,
}

#[derive(Debug)]
struct Waiting {
    flight: Arc<Flight>,
    start: Option<Instant>,
}

impl Room {
    /// Takes in one more, at its place.
    pub(super) fn enter(&mut self, place: u64, flight: Arc<Flight>) {
        self.ids += flight.request().ids().len();
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
        self.ids -= gone.flight.request().ids().len();
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

    /// How many ids they ask for, those asked for twice counted twice.
    pub(super) fn ids(&self) -> usize {
        self.ids
    }

    /// In the order of their places.
    pub(super) fn flights(&self) -> impl Iterator<Item = &Arc<Flight>> {
        self.waiting.values().map(|waiting| &waiting.flight)
    }

    /// Whether the slots that come until then can take everybody along, with so many ids in each call.
    pub(super) fn takes_all(&self, until: Instant, max_ids: usize) -> bool {
        let slots = self.starts.range(..=(until, u64::MAX));
        // No more slots are looked at than are needed.
        slots.take(self.ids.div_ceil(max_ids)).count() * max_ids >= self.ids
    }
}
