//! The waiters of a flight, and which of them is its leader.

use std::cmp::Reverse;
use std::collections::{BTreeMap, btree_map};
use std::iter::Chain;
use std::option;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::attempt::QueuePosition;
use crate::caller::{Caller, Name};
use crate::single_flight::flight_result::{FlightResult, ResultReceiver};
use crate::telemetry::trace::Participant;

/// The waiters of one flight, in the order of arrival.
pub(super) struct Waiters {
    /// The first waiter, with id 0, kept apart from the map because most flights have only one.
    first: Option<Waiter>,
    others: BTreeMap<u64, Waiter>,
    next_id: u64,
    leader: u64,
    leader_name: Name,
    storable: bool,
}

/// One waiting request.
pub(super) struct Waiter {
    pub(super) caller: Arc<Caller>,
    place: QueuePosition,
    pub(super) sender: oneshot::Sender<FlightResult>,
}

/// The caller and place under which the call is made.
#[derive(Clone, Debug)]
pub(super) struct Leader {
    pub(super) caller: Arc<Caller>,
    pub(super) place: QueuePosition,
}

/// Removed waiters, in the order of arrival.
pub(super) type Taken = Chain<option::IntoIter<(u64, Waiter)>, btree_map::IntoIter<u64, Waiter>>;

impl Waiters {
    /// No waiters yet; `first` will be the leader.
    pub(super) fn new(first: &Caller) -> Self {
        Self {
            first: None,
            others: BTreeMap::new(),
            next_id: 0,
            leader: 0,
            leader_name: first.name.clone(),
            storable: false,
        }
    }

    /// Adds a waiter.
    pub(super) fn add(&mut self, caller: &Arc<Caller>, now: Instant) -> (u64, ResultReceiver) {
        let (sender, receiver) = oneshot::channel();
        let id = self.next_id;
        self.next_id += 1;
        self.storable |= !caller.cache_directives.no_store;
        let waiter = Waiter {
            caller: Arc::clone(caller),
            place: QueuePosition::new(now),
            sender,
        };
        if id == 0 {
            self.first = Some(waiter);
        } else {
            self.others.insert(id, waiter);
        }
        (id, receiver)
    }

    /// Removes a waiter; `false` when it was gone already.
    pub(super) fn remove(&mut self, id: u64) -> bool {
        match id {
            0 => self.first.take().is_some(),
            _ => self.others.remove(&id).is_some(),
        }
    }

    /// Removes the waiters for which `concerns` is true.
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

    /// Whether one of them takes part in a trace.
    pub(super) fn are_traced(&self) -> bool {
        self.iter().any(|(_, waiter)| waiter.caller.trace.context().is_some())
    }

    /// Whether one of them, present or gone, allows the answer to be stored.
    pub(super) fn are_storable(&self) -> bool {
        self.storable
    }

    /// Whether a call that left at that time is recent enough for each of them: those with
    /// `no-cache` came before it left.
    pub(super) fn accept_answers_from(&self, departed: Instant) -> bool {
        self.iter()
            .all(|(_, waiter)| !waiter.caller.cache_directives.no_cache || waiter.place.entered() <= departed)
    }

    /// When the last of them asked; `None` when one of them says how old an answer may be.
    pub(super) fn all_entered(&self) -> Option<Instant> {
        let entered = |(_, waiter): (u64, &Waiter)| {
            let directives = &waiter.caller.cache_directives;
            let is_any = !directives.no_cache && directives.max_age.is_none() && directives.min_fresh.is_none();
            is_any.then(|| waiter.place.entered())
        };
        self.iter()
            .map(entered)
            .try_fold(None, |latest, entered| Some(latest.max(Some(entered?))))?
    }

    pub(super) fn leader_id(&self) -> u64 {
        self.leader
    }

    /// The leader, or a newly elected one if the leader has left; `None` when all have left.
    pub(super) fn leader_or_elect(&mut self) -> Option<Leader> {
        match self.get(self.leader) {
            Some(waiter) => Some(waiter.leader()),
            None => self.elect_leader(),
        }
    }

    /// Makes the waiter with the latest deadline the leader; among equals, the one that came first.
    pub(super) fn elect_leader(&mut self) -> Option<Leader> {
        let latest = |(_, waiter): &(u64, &Waiter)| (waiter.caller.deadline, Reverse(waiter.place));
        let (id, waiter) = self.iter().max_by_key(latest)?;
        let (leader, name) = (waiter.leader(), waiter.caller.name.clone());
        self.leader = id;
        self.leader_name = name;
        Some(leader)
    }

    /// Their participants in traces, the leader's first.
    pub(super) fn participants(&self) -> Vec<Participant> {
        let leader = self.get(self.leader).into_iter();
        let others = self.iter().filter(|(id, _)| *id != self.leader);
        leader
            .chain(others.map(|(_, waiter)| waiter))
            .map(|waiter| Participant {
                trace: waiter.caller.trace.clone(),
                entered: waiter.place.entered(),
            })
            .collect()
    }

    /// The names of all waiters; the last leader's name when none is left, so that the call is
    /// charged to a caller in any case.
    pub(super) fn names(&self) -> Vec<Name> {
        let mut names: Vec<_> = self.iter().map(|(_, waiter)| waiter.caller.name.clone()).collect();
        if names.is_empty() {
            names.push(self.leader_name.clone());
        }
        names
    }
}

impl Waiter {
    fn leader(&self) -> Leader {
        Leader {
            caller: Arc::clone(&self.caller),
            place: self.place,
        }
    }
}
