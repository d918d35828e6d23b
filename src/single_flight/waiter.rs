//! Those who wait for a flight, and who of them leads it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, btree_map};
use std::iter::Chain;
use std::option;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::attempt::Place;
use crate::caller::{Caller, Name};
use crate::single_flight::flight_result::{FlightResult, ResultReceiver};
use crate::telemetry::trace::Participant;

/// The waiters of one flight, in the order of arrival.
pub(super) struct Waiters {
    /// Whoever came first, with the number 0: mostly nobody else comes.
    first: Option<Waiter>,
    others: BTreeMap<u64, Waiter>,
    next_id: u64,
    lead: u64,
    lead_name: Name,
    storable: bool,
}

/// One of them.
pub(super) struct Waiter {
    pub(super) caller: Arc<Caller>,
    place: Place,
    pub(super) tell: oneshot::Sender<FlightResult>,
}

/// In whose name the call is made.
#[derive(Clone, Debug)]
pub(super) struct Lead {
    pub(super) caller: Arc<Caller>,
    pub(super) place: Place,
}

/// Waiters that are waiters no more, in the order of arrival.
pub(super) type Taken = Chain<option::IntoIter<(u64, Waiter)>, btree_map::IntoIter<u64, Waiter>>;

impl Waiters {
    /// Nobody yet; `first` will lead.
    pub(super) fn new(first: &Caller) -> Self {
        Self {
            first: None,
            others: BTreeMap::new(),
            next_id: 0,
            lead: 0,
            lead_name: first.name.clone(),
            storable: false,
        }
    }

    /// Takes in one more.
    pub(super) fn admit(&mut self, caller: &Arc<Caller>, now: Instant) -> (u64, ResultReceiver) {
        let (tell, inbox) = oneshot::channel();
        let id = self.next_id;
        self.next_id += 1;
        self.storable |= !caller.freshness.no_store;
        let waiter = Waiter {
            caller: Arc::clone(caller),
            place: Place::new(now),
            tell,
        };
        if id == 0 {
            self.first = Some(waiter);
        } else {
            self.others.insert(id, waiter);
        }
        (id, inbox)
    }

    /// Removes one; `false` when it was gone already.
    pub(super) fn remove(&mut self, id: u64) -> bool {
        match id {
            0 => self.first.take().is_some(),
            _ => self.others.remove(&id).is_some(),
        }
    }

    /// Removes those whom `concerns` picks.
    pub(super) fn take(&mut self, concerns: impl Fn(u64, &Waiter) -> bool) -> Taken {
        let first = self.first.take_if(|first| concerns(0, first));
        let (taken, kept) = if self.others.is_empty() {
            (BTreeMap::new(), BTreeMap::new())
        } else {
            std::mem::take(&mut self.others)
                .into_iter()
                .partition(|(id, waiter)| concerns(*id, waiter))
        };
        self.others = kept;
        first.map(|first| (0, first)).into_iter().chain(taken)
    }

    fn get(&self, id: u64) -> Option<&Waiter> {
        match id {
            0 => self.first.as_ref(),
            _ => self.others.get(&id),
        }
    }

    fn iter(&self) -> impl Iterator<Item = (u64, &Waiter)> {
        let first = self.first.iter().map(|first| (0, first));
        first.chain(self.others.iter().map(|(id, waiter)| (*id, waiter)))
    }

    pub(super) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.others.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none() && self.others.is_empty()
    }

    /// Whether one of them is in a trace.
    pub(super) fn are_traced(&self) -> bool {
        self.iter().any(|(_, waiter)| waiter.caller.trace.context().is_some())
    }

    /// Whether one of them, present or gone, has not forbidden storing the answer.
    pub(super) fn are_storable(&self) -> bool {
        self.storable
    }

    /// Whether each of them can be answered by a call that left at that time: those who insist on a later answer came before.
    pub(super) fn accept_answers_from(&self, departed: Instant) -> bool {
        self.iter()
            .all(|(_, waiter)| !waiter.caller.freshness.no_cache || waiter.place.entered() <= departed)
    }

    pub(super) fn lead_id(&self) -> u64 {
        self.lead
    }

    /// The lead, or another if the lead has left; `None` when all have.
    pub(super) fn lead_or_successor(&mut self) -> Option<Lead> {
        match self.get(self.lead) {
            Some(waiter) => Some(waiter.lead()),
            None => self.succeed(),
        }
    }

    /// Makes the waiter with the latest deadline the lead; among equals the one who came first.
    pub(super) fn succeed(&mut self) -> Option<Lead> {
        let latest = |(_, waiter): &(u64, &Waiter)| (waiter.caller.deadline, Reverse(waiter.place));
        let (id, waiter) = self.iter().max_by_key(latest)?;
        let (lead, name) = (waiter.lead(), waiter.caller.name.clone());
        self.lead = id;
        self.lead_name = name;
        Some(lead)
    }

    /// Their places in traces, the lead's first.
    pub(super) fn participants(&self) -> Vec<Participant> {
        let lead = self.get(self.lead).into_iter();
        let others = self.iter().filter(|(id, _)| *id != self.lead);
        lead.chain(others.map(|(_, waiter)| waiter))
            .map(|waiter| Participant {
                trace: waiter.caller.trace.clone(),
                entered: waiter.place.entered(),
            })
            .collect()
    }

    /// Every waiter's; the lead's name even when the lead has hung up and nobody is left to pay.
    pub(super) fn names(&self) -> Vec<Name> {
        let mut names: Vec<_> = self.iter().map(|(_, waiter)| waiter.caller.name.clone()).collect();
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
