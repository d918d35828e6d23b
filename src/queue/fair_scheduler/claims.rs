//! What is expected of callers besides what waits: it claims slots in a forecast, and nothing else.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::class::Class;
use crate::caller::Name;

/// Requests that do not wait but are expected. They claim slots in a forecast, and nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// Requests that were refused and told when to come back.
    pub returning: usize,
    /// Callers that ask again whenever they are answered.
    pub loops: usize,
    /// How many requests these have answered in a thousand seconds, if there are slots.
    pub rate: u64,
}

impl Expected {
    pub(super) fn is_none(self) -> bool {
        self.returning == 0 && self.loops == 0
    }

    /// How many more requests the loops can make within that time.
    pub(super) fn asks_within(self, time: Duration) -> usize {
        if self.loops == 0 {
            return 0;
        }
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let asks = millis.saturating_mul(self.rate) / 1_000_000;
        usize::try_from(asks).unwrap_or(usize::MAX).saturating_add(self.loops)
    }
}

impl Class {
    /// A refused request of this caller, of which something is expected, claims a slot from `due`
    /// on.
    pub(super) fn claim(&mut self, caller: &Name, due: Instant) {
        if let Some(dues) = self.dues_of_mut(caller) {
            insert(dues, due);
            insert(&mut self.dues, due);
        }
    }

    /// It does not any more.
    pub(super) fn withdraw(&mut self, caller: &Name, due: Instant) {
        if self.dues_of_mut(caller).is_some_and(|dues| remove(dues, due)) {
            remove(&mut self.dues, due);
        }
    }

    /// When the refused requests of this caller are due that claim slots.
    pub(super) fn dues_of(&self, caller: &Name) -> Option<&VecDeque<Instant>> {
        let flow = self.flows.get(caller).map(|flow| &flow.dues);
        flow.or_else(|| self.idle.get(caller).map(|idle| &idle.dues))
    }

    fn dues_of_mut(&mut self, caller: &Name) -> Option<&mut VecDeque<Instant>> {
        if let Some(flow) = self.flows.get_mut(caller) {
            return Some(&mut flow.dues);
        }
        self.idle.get_mut(caller).map(|idle| &mut idle.dues)
    }
}

fn insert(dues: &mut VecDeque<Instant>, due: Instant) {
    let at = dues.partition_point(|other| *other <= due);
    dues.insert(at, due);
}

fn remove(dues: &mut VecDeque<Instant>, due: Instant) -> bool {
    let at = dues.partition_point(|other| *other < due);
    dues.get(at) == Some(&due) && dues.remove(at).is_some()
}
