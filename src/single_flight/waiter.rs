//! The waiters of a flight, which of them is its leader, and what they get.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::attempt::QueuePosition;
use crate::caller::{Caller, Name};
use crate::scan::UpstreamResponse;
use crate::single_flight::Shared;
use crate::telemetry::trace::Participant;

/// What a waiter gets.
pub(super) type FlightResult = Result<Arc<FlightResponse>, Shared>;

/// Where a waiter gets it.
pub(super) type ResultReceiver = oneshot::Receiver<FlightResult>;

/// The answer, which all waiters of a flight share.
#[derive(Debug)]
pub(super) struct FlightResponse {
    pub(super) answer: UpstreamResponse,
    /// How long the answer is cached, if it is.
    pub(super) kept: Option<Duration>,
    /// Whether the call was a batch.
    pub(super) batch_kind: BatchKind,
}

/// Whether a flight's call also asked for other flights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BatchKind {
    /// The call asked for this flight only.
    None,
    /// The call was this flight's, and asked for others too.
    Carrier,
    /// The call was another flight's.
    Member,
    /// The call was another flight's, for the same request.
    Equal,
}

/// The waiters of one flight, in the order of arrival.
pub(super) struct Waiters {
    by_id: BTreeMap<u64, Waiter>,
    next_id: u64,
    pub(super) leader: u64,
    /// The leader, present or gone: the call is made in its name and urgency, and leaves by its
    /// deadline.
    pub(super) leader_caller: Arc<Caller>,
    /// Whether one of them, present or gone, allows the answer to be stored.
    pub(super) storable: bool,
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

impl Waiters {
    /// No waiters yet; `first` will be the leader.
    pub(super) fn new(first: &Arc<Caller>) -> Self {
        Self {
            by_id: BTreeMap::new(),
            next_id: 0,
            leader: 0,
            leader_caller: Arc::clone(first),
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
        self.by_id.insert(id, waiter);
        (id, receiver)
    }

    /// Whether the queue would refuse this caller what it has refused the leader.
    pub(super) fn leads_for(&self, caller: &Caller) -> bool {
        self.leader_caller.name == caller.name && self.leader_caller.deadline <= caller.deadline
    }

    /// Removes a waiter; `false` when it was gone already.
    pub(super) fn remove(&mut self, id: u64) -> bool {
        self.by_id.remove(&id).is_some()
    }

    /// Removes the waiters for which `concerns` is true.
    pub(super) fn take(&mut self, concerns: impl Fn(u64, &Waiter) -> bool) -> BTreeMap<u64, Waiter> {
        let waiters = std::mem::take(&mut self.by_id);
        let (taken, kept) = waiters.into_iter().partition(|(id, waiter)| concerns(*id, waiter));
        self.by_id = kept;
        taken
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Whether one of them takes part in a trace.
    pub(super) fn are_traced(&self) -> bool {
        self.by_id
            .values()
            .any(|waiter| waiter.caller.trace.context().is_some())
    }

    /// Whether a call that left at that time is recent enough for each of them: those with
    /// `no-cache` came before it left.
    pub(super) fn accept_answers_from(&self, departed: Instant) -> bool {
        self.by_id
            .values()
            .all(|waiter| !waiter.caller.cache_directives.no_cache || waiter.place.entered() <= departed)
    }

    /// When the last of them asked; `None` when one of them says how old an answer may be.
    pub(super) fn all_entered(&self) -> Option<Instant> {
        let entered = |waiter: &Waiter| {
            let directives = &waiter.caller.cache_directives;
            let is_any = !directives.no_cache && directives.max_age.is_none() && directives.min_fresh.is_none();
            is_any.then(|| waiter.place.entered())
        };
        self.by_id
            .values()
            .map(entered)
            .try_fold(None, |latest, entered| Some(latest.max(Some(entered?))))?
    }

    /// The leader, or a newly elected one if the leader has left; `None` when all have left.
    pub(super) fn leader_or_elect(&mut self) -> Option<Leader> {
        match self.by_id.get(&self.leader) {
            Some(waiter) => Some(waiter.leader()),
            None => self.elect_leader(),
        }
    }

    /// Makes the waiter with the latest deadline the leader; among equals, the one that came first.
    pub(super) fn elect_leader(&mut self) -> Option<Leader> {
        let latest = |(_, waiter): &(&u64, &Waiter)| (waiter.caller.deadline, Reverse(waiter.place));
        let (id, waiter) = self.by_id.iter().max_by_key(latest)?;
        self.leader = *id;
        self.leader_caller = Arc::clone(&waiter.caller);
        Some(waiter.leader())
    }

    /// Their participants in traces, the leader's first.
    pub(super) fn participants(&self) -> Vec<Participant> {
        let leader = self.by_id.get(&self.leader).into_iter();
        let others = self.by_id.iter().filter(|(id, _)| **id != self.leader);
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
        let mut names: Vec<_> = self.by_id.values().map(|waiter| waiter.caller.name.clone()).collect();
        if names.is_empty() {
            names.push(self.leader_caller.name.clone());
        }
        names
    }
}

/// Hands a result to waiters that have been taken out of their flight.
pub(super) fn tell(waiters: BTreeMap<u64, Waiter>, result: &FlightResult) {
    for waiter in waiters.into_values() {
        // A waiter that has just hung up needs no result.
        let _ = waiter.sender.send(result.clone());
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
