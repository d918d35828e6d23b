//! Those who wait for a flight, and who of them leads it.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::attempt::Place;
use crate::caller::{Caller, Name};
use crate::coalesce::news::{Inbox, News};
use crate::telemetry::trace::Participant;

/// The waiters of one flight, in the order of arrival.
pub(super) struct Waiters {
    list: BTreeMap<u64, Waiter>,
    next_id: u64,
    lead: u64,
    lead_name: Name,
    storable: bool,
}

/// One of them.
pub(super) struct Waiter {
    pub(super) caller: Arc<Caller>,
    place: Place,
    pub(super) tell: oneshot::Sender<News>,
}

/// In whose name the call is made.
#[derive(Clone, Debug)]
pub(super) struct Lead {
    pub(super) caller: Arc<Caller>,
    pub(super) place: Place,
}

impl Waiters {
    /// Nobody yet; `first` will lead.
    pub(super) fn new(first: &Caller) -> Self {
        Self {
            list: BTreeMap::new(),
            next_id: 0,
            lead: 0,
            lead_name: first.name.clone(),
            storable: false,
        }
    }

    /// Takes in one more.
    pub(super) fn admit(&mut self, caller: &Arc<Caller>, now: Instant) -> (u64, Inbox) {
        let (tell, inbox) = oneshot::channel();
        let id = self.next_id;
        self.next_id += 1;
        self.storable |= !caller.freshness.no_store;
        let waiter = Waiter {
            caller: Arc::clone(caller),
            place: Place::new(now),
            tell,
        };
        self.list.insert(id, waiter);
        (id, inbox)
    }

    /// Removes one; `false` when it was gone already.
    pub(super) fn remove(&mut self, id: u64) -> bool {
        self.list.remove(&id).is_some()
    }

    /// Removes those whom `concerns` picks.
    pub(super) fn take(&mut self, concerns: impl Fn(u64, &Waiter) -> bool) -> BTreeMap<u64, Waiter> {
        let (taken, kept) = std::mem::take(&mut self.list)
            .into_iter()
            .partition(|(id, waiter)| concerns(*id, waiter));
        self.list = kept;
        taken
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether one of them, present or gone, has not forbidden storing the answer.
    pub(super) fn are_storable(&self) -> bool {
        self.storable
    }

    pub(super) fn lead_id(&self) -> u64 {
        self.lead
    }

    /// The lead, or another if the lead has left; `None` when all have.
    pub(super) fn lead_or_successor(&mut self) -> Option<Lead> {
        match self.list.get(&self.lead) {
            Some(waiter) => Some(waiter.lead()),
            None => self.succeed(),
        }
    }

    /// Makes the waiter with the latest deadline the lead; among equals the one who came first.
    pub(super) fn succeed(&mut self) -> Option<Lead> {
        let (id, waiter) = self
            .list
            .iter()
            .max_by_key(|(_, waiter)| (waiter.caller.deadline, Reverse(waiter.place)))?;
        self.lead = *id;
        self.lead_name = waiter.caller.name.clone();
        Some(waiter.lead())
    }

    /// Their places in traces, the lead's first.
    pub(super) fn participants(&self) -> Vec<Participant> {
        let lead = self.list.get(&self.lead).into_iter();
        let others = self.list.iter().filter(|(id, _)| **id != self.lead);
        lead.chain(others.map(|(_, waiter)| waiter))
            .map(|waiter| Participant {
                trace: waiter.caller.trace.clone(),
                entered: waiter.place.entered(),
            })
            .collect()
    }

    /// Every waiter's; the lead's name even when the lead has hung up and nobody is left to pay.
    pub(super) fn names(&self) -> Vec<Name> {
        let mut names: Vec<_> = self.list.values().map(|waiter| waiter.caller.name.clone()).collect();
        if names.is_empty() {
            names.push(self.lead_name.clone());
        }
        names
    }
}

impl Waiter {
    fn lead(&self) -> Lead {
        Lead {
            caller: Arc::clone(&self.caller),
            place: self.place,
        }
    }
}
