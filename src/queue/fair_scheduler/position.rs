//! Places in the order: where a request stands that waits, or might.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;

use super::class::Flow;
use super::competitors::{Claims, Look, of_class};
use super::{FairScheduler, Ticket};
use crate::attempt::{FlowDemand, SharedOrder};
use crate::caller::{Name, Urgency};

/// What is told of another queue's moments is this inexact at most.
const UNSURE: Duration = Duration::from_millis(250);

/// Where a request stands in its class.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    pub(super) tag: u64,
    pub(super) turn: u64,
    pub(super) stride: u64,
}

impl Standing {
    /// Whether this caller is served first if both come to stand at `tag`: whoever comes to it
    /// first, that is, was served longer ago.
    pub(super) fn is_first(self, other: Self, tag: u64) -> bool {
        let is_there = (self.tag == tag, other.tag == tag);
        if is_there == (false, false) && self.stride != other.stride {
            return self.stride > other.stride;
        }
        // With equal strides both come there from where they are, in the same order; the one on a
        // higher tag is there for longer.
        (other.tag, self.turn) < (self.tag, other.turn)
    }
}

impl Flow {
    pub(super) fn standing(&self) -> Standing {
        Standing {
            tag: self.tag,
            turn: self.turn,
            stride: self.stride,
        }
    }
}

/// A request that waits or might, and where it stands.
#[derive(Clone, Debug)]
pub struct ServicePosition {
    pub(super) caller: Name,
    /// What its caller is called elsewhere, where queues share the slots.
    alias: Option<Name>,
    pub(super) level: u8,
    pub(super) standing: Standing,
    /// So many requests of its own caller that wait go first.
    pub(super) own_waiting: usize,
    /// These of its own caller that claim slots go first, once they are due.
    pub(super) own_returns: Range<usize>,
    /// So many of its own caller keep their places before it, though they claim no slots from
    /// others: one that is refused now is told to come after them.
    pub(super) own_kept: usize,
}

impl ServicePosition {
    /// Whose it is.
    pub fn caller(&self) -> &Name {
        &self.caller
    }

    /// Whether this is of its own caller, elsewhere.
    pub(super) fn is_of(&self, other: &FlowDemand) -> bool {
        other.caller == self.caller || self.alias.as_ref() == Some(&other.caller)
    }

    /// Whether requests of its own caller go first that may not come.
    pub fn is_behind_kept(&self) -> bool {
        self.own_kept > 0
    }
}

impl FairScheduler {
    fn alias(&self, caller: &Name, urgency: Urgency) -> Option<Name> {
        let alias = || SharedOrder::alias(&SharedOrder::flow(urgency, caller));
        self.is_shared.then(alias)
    }

    /// Whether a request that comes now was told to come then, at another queue.
    pub fn is_due_elsewhere(&self, caller: &Name, urgency: Urgency, others: &[FlowDemand], now: Instant) -> bool {
        let place = self.position_for(caller, urgency, None, 0..0);
        let mut own = of_class(others, urgency.level()).filter(|other| place.is_of(other));
        own.any(|other| other.dues.front().is_some_and(|due| *due <= now + UNSURE))
    }

    /// Where another queue keeps the place of a request whose caller is not known here.
    pub(super) fn kept_elsewhere(&self, place: &ServicePosition, others: &[FlowDemand]) -> Option<i64> {
        let class = &self.classes[usize::from(place.level)];
        if class.flows.contains_key(&place.caller) || class.idle.contains_key(&place.caller) {
            return None;
        }
        let mut elsewhere = of_class(others, place.level).filter(|other| place.is_of(other));
        elsewhere.find(|other| other.returning > 0)?.position
    }

    /// Adds a ticket at this place: what another queue keeps for it is its own.
    pub fn add_at(&mut self, place: &ServicePosition, ticket: Ticket, others: &[FlowDemand]) {
        let kept = self.kept_elsewhere(place, others);
        self.add(ticket);
        if let Some(position) = kept {
            self.classes[usize::from(place.level)].stand_at(&place.caller, position);
        }
    }

    /// The place of a ticket that waits.
    pub fn position_of(&self, id: u64) -> Option<ServicePosition> {
        let ticket = self.tickets.get(&id)?;
        let flow = self.class(ticket.urgency).flows.get(&ticket.caller)?;
        let own = flow.tickets.range(..(ticket.deadline, ticket.id)).count();
        Some(ServicePosition {
            caller: ticket.caller.clone(),
            alias: self.alias(&ticket.caller, ticket.urgency),
            level: ticket.urgency.level(),
            standing: flow.standing(),
            own_waiting: own,
            own_returns: 0..0,
            own_kept: 0,
        })
    }

    /// The place that one more request of this caller would have, behind `own_returns` of its own
    /// that were refused, once they are due. Without a deadline it lets all that wait go first, and
    /// those that do not come when they are due.
    pub fn position_for(
        &self,
        caller: &Name,
        urgency: Urgency,
        deadline: Option<(Instant, u64)>,
        own_returns: Range<usize>,
    ) -> ServicePosition {
        let class = self.class(urgency);
        let flow = class.flows.get(caller);
        let own_waiting = flow.map_or(0, |flow| match deadline {
            Some(key) => flow.tickets.range(..key).count(),
            None => flow.tickets.len(),
        });
        let claimed = class.dues_of(caller).map_or(0, VecDeque::len).max(own_returns.start);
        let own_kept = match deadline {
            Some(_) => 0,
            None => own_returns.end.saturating_sub(claimed),
        };
        ServicePosition {
            caller: caller.clone(),
            alias: self.alias(caller, urgency),
            level: urgency.level(),
            standing: class.standing(caller, self.stride(caller)),
            own_waiting,
            own_returns,
            own_kept,
        }
    }

    /// Whether a request at this place delays nobody who waits by more than one slot. If it goes
    /// before others of its class, these lose a turn of the class, which may be many slots where
    /// other classes wait; before others of its caller, a turn of the caller.
    pub fn delays_by_one(&self, place: &ServicePosition) -> bool {
        let class = &self.classes[usize::from(place.level)];
        self.is_last_of_own(place) && (class.waiting == 0 || class.waiting == self.len())
    }

    /// Whether no other ticket of the same caller that waits is served after this request.
    pub fn is_last_of_own(&self, place: &ServicePosition) -> bool {
        let flow = self.classes[usize::from(place.level)].flows.get(&place.caller);
        place.own_waiting == flow.map_or(0, |flow| flow.tickets.len())
    }

    /// The places of the tickets of the same caller that are served after this request, with their
    /// deadlines: the first `most`.
    pub fn own_after(&self, place: &ServicePosition, most: usize) -> impl Iterator<Item = (ServicePosition, Instant)> {
        let flow = self.classes[usize::from(place.level)].flows.get(&place.caller);
        let tickets = flow.into_iter().flat_map(|flow| &flow.tickets);
        let after = tickets.skip(place.own_waiting).take(most);
        after.zip(1..).map(|((deadline, _), behind)| {
            let next = ServicePosition {
                own_waiting: place.own_waiting + behind,
                own_returns: 0..0,
                ..place.clone()
            };
            (next, *deadline)
        })
    }

    /// How many tickets would be served before this one if nobody else came.
    pub fn ahead_of(&self, id: u64) -> Option<usize> {
        Some(self.ahead_at(&self.position_of(id)?))
    }

    /// How many tickets would be served before a request at this place if nobody else came.
    pub fn ahead_at(&self, place: &ServicePosition) -> usize {
        let now = Instant::now();
        let look = Look {
            claims: Claims::None,
            now,
            until: now,
            most: usize::MAX,
            most_of_loop: 0,
            others: &[],
        };
        self.competitors(place, 0, look).ahead(now, 0).waiting
    }
}
