//! What comes before a request: the order played forward, in one look at each caller of its class.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::position::{ServicePosition, Standing};
use super::{ALL_RETURN, FairScheduler, class_stride};
use crate::attempt::FlowDemand;

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

    fn and(self, other: Self) -> Self {
        Self {
            returning: self.returning + other.returning,
            loops: self.loops + other.loops,
            rate: self.rate.saturating_add(other.rate),
        }
    }

    pub(super) fn of(other: &FlowDemand) -> Self {
        Self {
            returning: other.returning,
            loops: usize::from(other.asks_again),
            // Nothing says how quickly: for as much as it can get.
            rate: if other.asks_again { 1_000_000 } else { 0 },
        }
    }
}

/// How far a forecast looks at those who are about to ask.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// Whose claims count.
    pub claims: Claims,
    /// The present.
    pub now: Instant,
    /// Later slots are of no interest.
    pub until: Instant,
    /// When so many go first, it does not matter how many more do.
    pub most: usize,
    /// Callers that ask again whenever they are answered are expected to claim so many slots at
    /// most.
    pub most_of_loop: usize,
    /// What is wanted of the same slots at other queues.
    pub others: &'a [FlowDemand],
}

/// Which requests count that were refused and told when to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claims {
    /// None, and no callers that ask again whenever they are answered.
    None,
    /// Those that are due when the slot comes.
    Due,
    /// All.
    All,
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
    pub fn rank(self) -> usize {
        self.waiting.saturating_add(self.claimed)
    }
}

/// Those that go before a request, if they come in time.
#[derive(Debug)]
pub struct Competitors<'a> {
    order: &'a FairScheduler,
    look: Look<'a>,
    level: u8,
    /// Of its own caller.
    own: Ahead,
    /// Of others of its class, whenever they come.
    waiting: usize,
    returning: usize,
    /// Of others of its class, when they are due; ascending.
    dues: Vec<Instant>,
    /// Others of its class that ask again whenever they are answered.
    loops: Vec<Loop<'a>>,
}

/// A caller that asks again whenever it is answered.
#[derive(Debug)]
struct Loop<'a> {
    /// So many of its requests go first that do not wait.
    turns: usize,
    expected: Expected,
    dues: &'a VecDeque<Instant>,
}

/// Requests that are expected to come in time, by why.
#[derive(Clone, Copy, Debug, Default)]
struct ExpectedArrivals {
    asks: usize,
    returning: usize,
}

impl ExpectedArrivals {
    /// Of one caller or class that has so many turns.
    fn add(&mut self, turns: usize, asks: usize, returning: usize) {
        let asks = turns.min(asks);
        self.asks += asks;
        self.returning += (turns - asks).min(returning);
    }
}

impl<'a> Competitors<'a> {
    /// Another caller of the class, so many of whose requests go first.
    fn add(&mut self, turns: usize, waiting: usize, expected: Expected, dues: &'a VecDeque<Instant>) {
        let of_waiting = turns.min(waiting);
        self.waiting += of_waiting;
        let turns = turns - of_waiting;
        if turns == 0 {
            return;
        }
        if expected.loops > 0 && self.look.claims != Claims::None {
            self.loops.push(Loop { turns, expected, dues });
            return;
        }
        match self.look.claims {
            Claims::None => {}
            Claims::Due => {
                let in_time = dues.iter().take_while(|due| **due <= self.look.until);
                self.dues.extend(in_time.take(turns));
            }
            Claims::All => self.returning += turns.min(dues.len()),
        }
    }

    fn is_enough(&self) -> bool {
        self.own.rank().saturating_add(self.waiting) >= self.look.most
    }

    /// What is served before the request, of those who come until that moment; so many slots come
    /// until then.
    pub fn ahead(&self, until: Instant, slots: usize) -> Ahead {
        let time = until.saturating_duration_since(self.look.now);
        let slots = slots.min(self.look.most_of_loop);
        let asks = |expected: Expected| expected.asks_within(time).min(slots);
        let mut coming = ExpectedArrivals {
            asks: 0,
            returning: self.returning + self.dues.partition_point(|due| *due <= until),
        };
        for one in &self.loops {
            coming.add(one.turns, asks(one.expected), self.due(one.dues, until));
        }
        let (order, mut waiting) = (self.order, self.waiting);
        let in_class = self.own.rank() + waiting + order.claimed(coming);
        let class = &order.classes[usize::from(self.level)];
        let tag = class.start(order.now) + class_stride(self.level).saturating_mul(in_class as u64);
        for (level, class) in (0_u8..).zip(&order.classes).filter(|(level, _)| *level != self.level) {
            let turns = turns_before(tag, level < self.level, class.start(order.now), class_stride(level));
            let theirs = Theirs::of(self.look.others, level, |dues| self.due(dues, until));
            let of_waiting = turns.min(class.waiting + theirs.waiting);
            waiting += of_waiting;
            if self.look.claims != Claims::None {
                let expected = class.expected.and(theirs.expected);
                let not_told = if self.look.claims == Claims::All {
                    theirs.not_told
                } else {
                    0
                };
                let returning = self.due(&class.dues, until) + theirs.due + not_told;
                coming.add(turns - of_waiting, asks(expected), returning);
            }
        }
        Ahead {
            waiting: self.own.waiting + waiting,
            claimed: self.own.claimed + order.claimed(coming),
        }
    }

    /// How many of those that claim slots count until that moment.
    fn due(&self, dues: &VecDeque<Instant>, until: Instant) -> usize {
        match self.look.claims {
            Claims::None => 0,
            Claims::Due => dues.partition_point(|due| *due <= until),
            Claims::All => dues.len(),
        }
    }
}

/// How many services someone whose next is at `next` has before the one at `tag`; `first` decides
/// ties.
fn turns_before(tag: u64, first: bool, next: u64, stride: u64) -> usize {
    let Some(gap) = tag.checked_sub(next) else { return 0 };
    let turns = if first { gap / stride + 1 } else { gap.div_ceil(stride) };
    usize::try_from(turns).unwrap_or(usize::MAX)
}

impl FairScheduler {
    /// How many of so many who are told to come back do, rounded up unless it is for next to
    /// nothing: if there is one more than was counted, all who come after it are a slot too late.
    fn of_returning(&self, returning: usize) -> usize {
        let rate = usize::try_from(self.return_rate).unwrap_or(0);
        let most = usize::try_from(ALL_RETURN - ALL_RETURN / 8).unwrap_or(0);
        returning.saturating_mul(rate).saturating_add(most) >> ALL_RETURN.trailing_zeros()
    }

    fn claimed(&self, coming: ExpectedArrivals) -> usize {
        coming.asks + self.of_returning(coming.returning)
    }

    /// How many of its own caller's that claim slots go before a request at this place until that
    /// moment.
    pub fn own_due(&self, place: &ServicePosition, until: Instant) -> usize {
        if place.own_returns.is_empty() {
            return 0;
        }
        let dues = self.classes[usize::from(place.level)].dues_of(&place.caller);
        let due = dues.map_or(0, |dues| dues.partition_point(|due| *due <= until));
        self.of_returning(due.min(place.own_returns.end).saturating_sub(place.own_returns.start))
    }

    /// Those that go before the request at this place, when so many that its own caller claims do.
    pub fn competitors<'a>(&'a self, place: &ServicePosition, own_due: usize, look: Look<'a>) -> Competitors<'a> {
        let class = &self.classes[usize::from(place.level)];
        let own = Ahead {
            waiting: place.own_waiting + self.own_elsewhere(place, look.others),
            claimed: own_due + self.of_returning(place.own_kept),
        };
        let standing = self.standing_at(place, look.others);
        let own_first = own.waiting + own_due + place.own_kept;
        let tag = standing.tag + standing.stride.saturating_mul(own_first as u64);
        let before = |other: Standing| turns_before(tag, other.is_first(standing, tag), other.tag, other.stride);
        let mut competitors = Competitors {
            order: self,
            look,
            level: place.level,
            own,
            waiting: 0,
            returning: 0,
            dues: Vec::new(),
            loops: Vec::new(),
        };
        let own_flow = class.flows.get(&place.caller);
        for flow in class.flows.values() {
            if own_flow.is_some_and(|own| std::ptr::eq(own, flow)) {
                continue;
            }
            competitors.add(before(flow.standing()), flow.tickets.len(), flow.expected, &flow.dues);
            if competitors.is_enough() {
                return competitors;
            }
        }
        if look.claims == Claims::None {
            return competitors;
        }
        let own_idle = class.idle.get(&place.caller);
        for idle in class.idle.values() {
            if own_idle.is_none_or(|own| !std::ptr::eq(own, idle)) {
                competitors.add(before(class.standing_of_idle(idle)), 0, idle.expected, &idle.dues);
            }
        }
        for other in of_class(look.others, place.level).filter(|other| !place.is_of(other)) {
            let (turns, expected) = (before(class.standing_of_other(other)), Expected::of(other));
            competitors.add(turns, other.waiting, expected, &other.dues);
            if expected.loops == 0 && look.claims == Claims::All {
                let turns = turns.saturating_sub(other.waiting + other.dues.len());
                competitors.returning += turns.min(not_told(other));
            }
        }
        competitors.dues.sort_unstable();
        competitors
    }

    /// Where a request stands. What is kept for it elsewhere is its own.
    fn standing_at(&self, place: &ServicePosition, others: &[FlowDemand]) -> Standing {
        let class = &self.classes[usize::from(place.level)];
        let kept = self.kept_elsewhere(place, others);
        kept.map_or(place.standing, |position| Standing {
            tag: class.tag_at(position),
            ..place.standing
        })
    }

    /// How many requests of the same caller that wait elsewhere are served before the one at this
    /// place: their deadlines are not known, so as large a part of them as of those that wait here.
    fn own_elsewhere(&self, place: &ServicePosition, others: &[FlowDemand]) -> usize {
        let of_caller = of_class(others, place.level).filter(|other| place.is_of(other));
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
}

pub(super) fn of_class(others: &[FlowDemand], level: u8) -> impl Iterator<Item = &FlowDemand> {
    others.iter().filter(move |other| other.urgency.level() == level)
}

/// How many are expected back of whom nothing says when they are due: too far from now, or at a
/// replica that does not tell it.
fn not_told(other: &FlowDemand) -> usize {
    other.returning.saturating_sub(other.dues.len())
}

/// What callers of other queues want in one class, and what is expected in all of that class.
struct Theirs {
    waiting: usize,
    expected: Expected,
    /// Those that are due, and those of whom it is not known when they are.
    due: usize,
    not_told: usize,
}

impl Theirs {
    fn of(others: &[FlowDemand], level: u8, due: impl Fn(&VecDeque<Instant>) -> usize) -> Self {
        let mut theirs = Self {
            waiting: 0,
            expected: Expected::default(),
            due: 0,
            not_told: 0,
        };
        for other in of_class(others, level) {
            theirs.waiting += other.waiting;
            theirs.expected = theirs.expected.and(Expected::of(other));
            theirs.due += due(&other.dues);
            theirs.not_told += not_told(other);
        }
        theirs
    }
}
