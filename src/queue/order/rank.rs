//! What comes before a request: the order played forward, in one look at each caller of its class.

use std::time::Duration;

use tokio::time::Instant;

use super::class::{Class, Expected, Flow, Idle, Standing};
use super::{ALL_RETURN, Order, class_stride};
use crate::attempt::FlowDemand;
use crate::caller::{Name, Urgency};

/// A request that waits or might, and where it stands.
#[derive(Clone, Debug)]
pub struct Place {
    caller: Name,
    level: u8,
    standing: Standing,
    /// So many requests of its own caller go first.
    own: usize,
    /// So many of these wait.
    own_waiting: usize,
}

impl Place {
    /// How many requests of its own caller that wait go first.
    #[must_use]
    pub fn own_ahead(&self) -> usize {
        self.own_waiting
    }
}

/// How far a forecast looks at those who are about to ask.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// So long do they go on asking.
    pub time: Duration,
    /// Slots that come within that time.
    pub slots: usize,
    /// What is wanted of the same slots at other queues.
    pub others: &'a [FlowDemand],
}

impl Look<'_> {
    /// At those who wait, and at nobody else.
    pub const WAITING: Self = Self {
        time: Duration::ZERO,
        slots: 0,
        others: &[],
    };
}

/// What is served before a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ahead {
    /// Requests that wait.
    pub waiting: usize,
    /// Slots that those claim who are expected to ask before.
    pub claimed: usize,
}

impl Ahead {
    /// The number of the slot that is left, from 0.
    #[must_use]
    pub fn rank(self) -> usize {
        self.waiting.saturating_add(self.claimed)
    }
}

/// Turns of others, by why they count.
#[derive(Debug, Default)]
struct Turns {
    waiting: usize,
    looping: usize,
    returning: usize,
}

impl Turns {
    fn add(&mut self, turns: usize, waiting: usize, expected: Expected, look: Look<'_>) {
        if turns == 0 {
            return;
        }
        let of_waiting = turns.min(waiting);
        self.waiting += of_waiting;
        let rest = turns - of_waiting;
        if rest > 0 && !expected.is_none() {
            let of_loops = rest.min(expected.asks_within(look.time)).min(look.slots);
            let of_loops = if expected.loops == 0 { 0 } else { of_loops };
            self.looping += of_loops;
            self.returning += (rest - of_loops).min(expected.returning);
        }
    }

    fn take_out(&mut self, own: &Self) {
        self.waiting -= own.waiting;
        self.looping -= own.looping;
        self.returning -= own.returning;
    }

    fn claimed(&self, order: &Order) -> usize {
        self.looping + order.of_returning(self.returning)
    }
}

/// How many services someone whose next is at `next` has before the one at `tag`; `first` decides ties.
fn turns_before(tag: u64, first: bool, next: u64, stride: u64) -> usize {
    let Some(gap) = tag.checked_sub(next) else { return 0 };
    let turns = if first { gap / stride + 1 } else { gap.div_ceil(stride) };
    usize::try_from(turns).unwrap_or(usize::MAX)
}

impl Order {
    /// The place of a ticket that waits.
    #[must_use]
    pub fn place_of(&self, id: u64) -> Option<Place> {
        let ticket = self.tickets.get(&id)?;
        let flow = self.class(ticket.urgency).flows.get(&ticket.caller)?;
        let own = flow.tickets.range(..(ticket.deadline, ticket.id)).count();
        Some(Place {
            caller: ticket.caller.clone(),
            level: ticket.urgency.level(),
            standing: flow.standing(),
            own,
            own_waiting: own,
        })
    }

    /// The place that one more request of this caller would have, behind `returning` of its own that are expected back. Without a deadline
    /// it lets all that wait go first.
    #[must_use]
    pub fn place_for(
        &self,
        caller: &Name,
        urgency: Urgency,
        deadline: Option<(Instant, u64)>,
        returning: usize,
    ) -> Place {
        let class = self.class(urgency);
        let flow = class.flows.get(caller);
        let before = flow.map_or(0, |flow| match deadline {
            Some(key) => flow.tickets.range(..key).count(),
            None => flow.tickets.len(),
        });
        Place {
            caller: caller.clone(),
            level: urgency.level(),
            standing: class.standing(caller, self.stride(caller)),
            own: before + self.of_returning(returning),
            own_waiting: before,
        }
    }

    /// Whether a request at this place delays nobody who waits by more than one slot. If it goes before others of its class, these lose a turn
    /// of the class, which may be many slots where other classes wait; before others of its caller, a turn of the caller.
    #[must_use]
    pub fn delays_by_one(&self, place: &Place) -> bool {
        let class = &self.classes[usize::from(place.level)];
        self.is_last_of_own(place) && (class.waiting == 0 || class.waiting == self.len())
    }

    /// How many of so many who are told to come back do.
    fn of_returning(&self, returning: usize) -> usize {
        let rate = usize::try_from(self.return_rate).unwrap_or(0);
        returning.saturating_mul(rate) >> ALL_RETURN.trailing_zeros()
    }

    /// Whether no other ticket of the same caller that waits is served after this request.
    #[must_use]
    pub fn is_last_of_own(&self, place: &Place) -> bool {
        let flow = self.classes[usize::from(place.level)].flows.get(&place.caller);
        place.own_waiting == flow.map_or(0, |flow| flow.tickets.len())
    }

    /// The places of the tickets of the same caller that are served after this request, with their deadlines: the first `most`.
    pub fn own_after(&self, place: &Place, most: usize) -> impl Iterator<Item = (Place, Instant)> {
        let flow = self.classes[usize::from(place.level)].flows.get(&place.caller);
        let tickets = flow.into_iter().flat_map(|flow| &flow.tickets);
        let after = tickets.skip(place.own_waiting).take(most);
        after.zip(1..).map(|((deadline, _), behind)| {
            let next = Place {
                own: place.own_waiting + behind,
                own_waiting: place.own_waiting + behind,
                ..place.clone()
            };
            (next, *deadline)
        })
    }

    /// What is served before the request at this place, if those who are expected ask, and nobody else.
    #[must_use]
    pub fn ahead(&self, place: &Place, look: Look<'_>) -> Ahead {
        let class = &self.classes[usize::from(place.level)];
        let own = place.standing;
        let own_elsewhere = self.own_elsewhere(place, look.others);
        let own_turns = place.own + own_elsewhere;
        let tag = own.tag + own.stride.saturating_mul(own_turns as u64);
        let before = |standing: Standing| turns_before(tag, standing.is_first(own, tag), standing.tag, standing.stride);
        let of_flow = |turns: &mut Turns, flow: &Flow| {
            turns.add(before(flow.standing()), flow.tickets.len(), flow.expected, look);
        };
        let of_idle = |turns: &mut Turns, idle: &Idle| {
            turns.add(before(class.standing_of_idle(idle)), 0, idle.expected, look);
        };
        let (mut turns, mut of_own) = (Turns::default(), Turns::default());
        for flow in class.flows.values() {
            of_flow(&mut turns, flow);
        }
        for idle in class.idle.values() {
            of_idle(&mut turns, idle);
        }
        // Its own turns are counted by its place. Taking them out again is cheaper than comparing every name.
        if let Some(flow) = class.flows.get(&place.caller) {
            of_flow(&mut of_own, flow);
        } else if let Some(idle) = class.idle.get(&place.caller) {
            of_idle(&mut of_own, idle);
        }
        turns.take_out(&of_own);
        for other in of_class(look.others, place.level).filter(|other| other.caller != place.caller) {
            turns.add(
                before(class.standing_of_other(other)),
                other.waiting,
                Expected::of(other),
                look,
            );
        }
        let in_class = own_turns + turns.waiting + turns.claimed(self);
        let tag = class.start(self.now) + class_stride(place.level).saturating_mul(in_class as u64);
        for (level, class) in (0_u8..).zip(&self.classes).filter(|(level, _)| *level != place.level) {
            let (others, expected) = theirs(look.others, level, class.expected);
            if class.waiting + others > 0 || !expected.is_none() {
                let before = turns_before(tag, level < place.level, class.start(self.now), class_stride(level));
                turns.add(before, class.waiting + others, expected, look);
            }
        }
        Ahead {
            waiting: place.own_waiting + own_elsewhere + turns.waiting,
            claimed: place.own - place.own_waiting + turns.claimed(self),
        }
    }

    /// How many requests of the same caller that wait elsewhere are served before the one at this place: their deadlines are not known, so as
    /// large a part of them as of those that wait here.
    fn own_elsewhere(&self, place: &Place, others: &[FlowDemand]) -> usize {
        let of_caller = of_class(others, place.level).filter(|other| other.caller == place.caller);
        let elsewhere: usize = of_caller.map(|other| other.waiting).sum();
        if elsewhere == 0 {
            return 0;
        }
        let flow = self.classes[usize::from(place.level)].flows.get(&place.caller);
        match flow.map_or(0, |flow| flow.tickets.len()) {
            here if place.own_waiting < here => elsewhere * place.own_waiting / here,
            _ => elsewhere,
        }
    }

    /// How many tickets would be served before this one if nobody else came.
    #[must_use]
    pub fn ahead_of(&self, id: u64) -> Option<usize> {
        let place = self.place_of(id)?;
        Some(self.ahead(&place, Look::WAITING).waiting)
    }
}

pub(super) fn of_class(others: &[FlowDemand], level: u8) -> impl Iterator<Item = &FlowDemand> {
    others.iter().filter(move |other| other.urgency.level() == level)
}

/// What callers of other queues want in one class, and what is expected in all of that class.
fn theirs(others: &[FlowDemand], level: u8, mut expected: Expected) -> (usize, Expected) {
    let mut waiting = 0;
    for other in of_class(others, level) {
        let more = Expected::of(other);
        waiting += other.waiting;
        expected.returning += more.returning;
        expected.loops += more.loops;
        expected.rate = expected.rate.saturating_add(more.rate);
    }
    (waiting, expected)
}

impl Expected {
    pub(super) fn of(other: &FlowDemand) -> Self {
        Self {
            returning: other.returning,
            loops: usize::from(other.asks_again),
            // Nothing says how quickly: for as much as it can get.
            rate: if other.asks_again { 1_000_000 } else { 0 },
        }
    }
}

impl Class {
    /// Where the next service of this class starts, when the clock stands there.
    pub(super) fn start(&self, now: u64) -> u64 {
        if self.waiting == 0 { self.tag.max(now) } else { self.tag }
    }
}
