//! The fair order: self-clocked fair queueing (Golestani, 1994) over classes, and over callers within a class.
//!
//! Every class and every caller that waits has a *tag*: where its next service ends, counted in service divided by weight. Whoever has the
//! lowest tag is next, and its tag grows by one stride. The clock is the tag served last. Who comes is put one stride after the clock,
//! or after its own last service if that is later. So credit cannot be hoarded, a merged call that was paid by others is paid back,
//! and among equals a newcomer goes behind everybody who waits for a first turn: it delays nobody's next turn, only later ones. That is
//! what makes a turn predictable.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use foldhash::quality::RandomState;
use tokio::time::Instant;

use super::config::Weights;
use crate::caller::{Name, Urgency};

/// A waiting request, as the order sees it. Tickets of one caller are served by deadline, then as they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Smaller came earlier; unique among waiting tickets.
    pub id: u64,
    /// Who waits.
    pub caller: Name,
    /// The class.
    pub urgency: Urgency,
    /// The latest start.
    pub deadline: Instant,
}

/// One service, in units of tags, for weight 1. Divisible by every weight up to 1000 to within a ten-thousandth, and 2^40 services of one
/// caller fit: at a thousand a second, 35 years.
const STRIDE: u64 = 1 << 24;

/// Idle callers that still owe are remembered up to this many; beyond it debts are forgiven, which harms nobody for longer than one turn.
const DEBTORS: usize = 4096;

/// Waiting tickets in fair order. Choosing the next ticket and adding or removing one takes logarithmic time; a prediction looks at every caller of
/// the ticket's class once.
#[derive(Debug)]
pub struct Order {
    weights: Weights,
    classes: [Class; Urgency::LEVELS],
    tickets: HashMap<u64, Ticket>,
    /// The tag of the class served last.
    now: u64,
}

#[derive(Debug, Default)]
struct Class {
    tag: u64,
    lanes: HashMap<Name, Lane, RandomState>,
    /// Lanes by who is next: tag, then who was served or came longest ago.
    next: BTreeSet<(u64, u64, Name)>,
    /// Callers who do not wait, and where their last service ended, if that is past the clock.
    debtors: HashMap<Name, u64, RandomState>,
    waiting: usize,
    /// The tag of the lane served last.
    now: u64,
    turns: u64,
}

#[derive(Debug)]
struct Lane {
    tag: u64,
    turn: u64,
    stride: u64,
    /// Deadline and id.
    tickets: BTreeSet<(Instant, u64)>,
}

impl Order {
    /// An empty order.
    #[must_use]
    pub fn new(weights: Weights) -> Self {
        Self {
            weights,
            classes: Default::default(),
            tickets: HashMap::new(),
            now: 0,
        }
    }

    /// Other weights from now on; what was paid stays paid.
    pub fn reweigh(&mut self, weights: Weights) {
        for (name, lane) in self.classes.iter_mut().flat_map(|class| &mut class.lanes) {
            lane.stride = STRIDE / u64::from(weights.of(name));
        }
        self.weights = weights;
    }

    /// Adds a ticket.
    pub fn add(&mut self, ticket: Ticket) {
        let weight = self.weights.of(&ticket.caller);
        let now = self.now;
        let class = &mut self.classes[usize::from(ticket.urgency.level())];
        if class.waiting == 0 {
            class.tag = class.tag.max(now + class_stride(ticket.urgency.level()));
        }
        class.add(&ticket, weight);
        self.tickets.insert(ticket.id, ticket);
    }

    /// Takes a ticket out that will not be served: it pays nothing.
    pub fn remove(&mut self, id: u64) -> Option<Ticket> {
        let ticket = self.tickets.remove(&id)?;
        self.classes[usize::from(ticket.urgency.level())].remove(&ticket);
        Some(ticket)
    }

    /// Takes a ticket out that is served now: its caller and class pay.
    pub fn serve(&mut self, id: u64) -> Option<Ticket> {
        let ticket = self.tickets.get(&id)?;
        let level = ticket.urgency.level();
        // A class served out of turn must not drag the clock ahead of those who are still to come.
        let tag = self.classes[usize::from(level)].tag.min(self.lowest_tag());
        self.now = self.now.max(tag);
        let class = &mut self.classes[usize::from(level)];
        class.tag += class_stride(level);
        class.pay(&ticket.caller);
        self.remove(id)
    }

    /// Serves a request that comes when nobody waits: the same as adding and serving it, without a ticket.
    pub fn pass(&mut self, caller: &Name, urgency: Urgency) {
        debug_assert!(self.is_empty(), "who waits goes first");
        let stride = STRIDE / u64::from(self.weights.of(caller));
        let class = &mut self.classes[usize::from(urgency.level())];
        let own = class_stride(urgency.level());
        self.now = class.tag.max(self.now + own);
        class.tag = self.now + own;
        class.pass(caller, stride);
    }

    /// How many callers wait; one that waits in two classes counts twice.
    #[must_use]
    pub fn callers(&self) -> usize {
        self.classes.iter().map(|class| class.lanes.len()).sum()
    }

    /// The ticket whose turn it is.
    #[must_use]
    pub fn next(&self) -> Option<&Ticket> {
        let (_, class) = self
            .waiting_classes()
            .min_by_key(|(level, class)| (class.tag, *level))?;
        let (_, _, name) = class.next.first()?;
        let (_, id) = class.lanes.get(name)?.tickets.first()?;
        self.tickets.get(id)
    }

    /// How many tickets would be served before this one if nobody else came.
    #[must_use]
    pub fn ahead_of(&self, id: u64) -> Option<usize> {
        let ticket = self.tickets.get(&id)?;
        let level = ticket.urgency.level();
        let class = &self.classes[usize::from(level)];
        let in_class = class.ahead_of(ticket)?;
        let tag = class.tag + class_stride(level) * in_class as u64;
        let others = self
            .waiting_classes()
            .filter(|(other, _)| *other != level)
            .map(|(other, class)| {
                let first = other < level;
                turns_before(tag, first, class.tag, class_stride(other)).min(class.waiting)
            });
        Some(in_class + others.sum::<usize>())
    }

    /// How many tickets would be served before one more of `caller` that lets all its own go first.
    #[must_use]
    pub fn ahead_of_newcomer(&mut self, caller: &Name, urgency: Urgency, last: Instant) -> usize {
        let id = u64::MAX;
        self.add(Ticket {
            id,
            caller: caller.clone(),
            urgency,
            deadline: last,
        });
        let ahead = self.ahead_of(id).unwrap_or(0);
        self.remove(id);
        ahead
    }

    /// How many tickets would be served before the first and before the last that this caller has waiting, if nobody else came.
    #[must_use]
    pub fn turns_of(&self, caller: &Name) -> Option<(usize, usize)> {
        let lanes = self.classes.iter().filter_map(|class| class.lanes.get(caller));
        let turns = |ticket: Option<&(Instant, u64)>| ticket.and_then(|(_, id)| self.ahead_of(*id));
        lanes
            .map(|lane| (turns(lane.tickets.first()), turns(lane.tickets.last())))
            .filter_map(|(first, last)| first.zip(last))
            .reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
    }

    /// Spreads the cost of one service of `payer` over all who benefit from it: each of n pays an n-th.
    pub fn spread(&mut self, urgency: Urgency, payer: &Name, beneficiaries: &[Name]) {
        let count = beneficiaries.len() as u64;
        if count < 2 {
            return;
        }
        let class = &mut self.classes[usize::from(urgency.level())];
        let share = |name: &Name| STRIDE / u64::from(self.weights.of(name)) / count;
        // Back and forth in one step: a debt is forgotten once it is behind the clock.
        let own = beneficiaries.iter().filter(|name| *name == payer).count() as u64;
        class.adjust(payer, share(payer) * own, share(payer) * count);
        for name in beneficiaries.iter().filter(|name| *name != payer) {
            class.adjust(name, share(name), 0);
        }
    }

    /// How many tickets wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tickets.len()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tickets.is_empty()
    }

    /// How many tickets each waiting caller has.
    #[must_use]
    pub fn waiting_by_caller(&self) -> BTreeMap<&Name, usize> {
        let mut counts = BTreeMap::new();
        for (name, lane) in self.classes.iter().flat_map(|class| &class.lanes) {
            *counts.entry(name).or_default() += lane.tickets.len();
        }
        counts
    }

    /// How many tickets of `caller` wait.
    #[must_use]
    pub fn waiting_of(&self, caller: &Name) -> usize {
        self.classes
            .iter()
            .filter_map(|class| class.lanes.get(caller))
            .map(|lane| lane.tickets.len())
            .sum()
    }

    fn waiting_classes(&self) -> impl Iterator<Item = (u8, &Class)> {
        (0_u8..).zip(&self.classes).filter(|(_, class)| class.waiting > 0)
    }

    fn lowest_tag(&self) -> u64 {
        self.waiting_classes()
            .map(|(_, class)| class.tag)
            .min()
            .unwrap_or(self.now)
    }
}

/// Urgency 0 gets twice what 1 gets, and so on: with all eight waiting, the last class still gets every 255th slot.
fn class_stride(level: u8) -> u64 {
    (STRIDE >> 7) << level
}

/// How many services someone whose next is at `next` has before the one at `tag`; `first` decides ties.
fn turns_before(tag: u64, first: bool, next: u64, stride: u64) -> usize {
    let Some(gap) = tag.checked_sub(next) else { return 0 };
    let turns = if first { gap / stride + 1 } else { gap.div_ceil(stride) };
    usize::try_from(turns).unwrap_or(usize::MAX)
}

impl Class {
    fn add(&mut self, ticket: &Ticket, weight: u32) {
        self.waiting += 1;
        let key = (ticket.deadline, ticket.id);
        if let Some(lane) = self.lanes.get_mut(&ticket.caller) {
            lane.tickets.insert(key);
            return;
        }
        let last = self.debtors.remove(&ticket.caller).unwrap_or(0);
        let stride = STRIDE / u64::from(weight);
        self.turns += 1;
        let lane = Lane {
            tag: last.max(self.now) + stride,
            turn: self.turns,
            stride,
            tickets: BTreeSet::from([key]),
        };
        self.next.insert((lane.tag, lane.turn, ticket.caller.clone()));
        self.lanes.insert(ticket.caller.clone(), lane);
    }

    /// A caller comes and is served while nobody waits: what it had on its tag is behind the clock at once.
    fn pass(&mut self, caller: &Name, stride: u64) {
        let last = self.debtors.remove(caller).unwrap_or(0);
        // One turn to come, one to be served.
        self.turns += 2;
        self.now = last.max(self.now) + stride;
    }

    fn remove(&mut self, ticket: &Ticket) {
        let Some(lane) = self.lanes.get_mut(&ticket.caller) else {
            return;
        };
        if lane.tickets.remove(&(ticket.deadline, ticket.id)) {
            self.waiting -= 1;
        }
        if lane.tickets.is_empty() {
            self.next.remove(&(lane.tag, lane.turn, ticket.caller.clone()));
            let last = lane.tag.saturating_sub(lane.stride);
            self.lanes.remove(&ticket.caller);
            self.owe(&ticket.caller, last);
        }
    }

    /// One service of a caller that waits.
    fn pay(&mut self, caller: &Name) {
        let Some(lane) = self.lanes.get_mut(caller) else {
            return;
        };
        self.turns += 1;
        self.next.remove(&(lane.tag, lane.turn, caller.clone()));
        let served = lane.tag;
        lane.tag += lane.stride;
        lane.turn = self.turns;
        self.next.insert((lane.tag, lane.turn, caller.clone()));
        // A lane served out of turn must not drag the clock ahead of the others.
        let lowest = self.next.first().map_or(served, |(tag, _, _)| (*tag).min(served));
        self.now = self.now.max(lowest);
    }

    /// Charges a caller `more`, and `less`, for services that it had already.
    fn adjust(&mut self, caller: &Name, more: u64, less: u64) {
        if let Some(lane) = self.lanes.get_mut(caller) {
            self.next.remove(&(lane.tag, lane.turn, caller.clone()));
            lane.tag = (lane.tag + more).saturating_sub(less);
            self.next.insert((lane.tag, lane.turn, caller.clone()));
        } else {
            let last = self.debtors.remove(caller).unwrap_or(0).max(self.now);
            self.owe(caller, (last + more).saturating_sub(less));
        }
    }

    /// Remembers where the last service of a caller ended that does not wait.
    fn owe(&mut self, caller: &Name, last: u64) {
        if last <= self.now {
            return;
        }
        if self.debtors.len() >= DEBTORS {
            let now = self.now;
            self.debtors.retain(|_, last| *last > now);
            if self.debtors.len() >= DEBTORS {
                self.debtors.clear();
            }
        }
        self.debtors.insert(caller.clone(), last);
    }

    fn ahead_of(&self, ticket: &Ticket) -> Option<usize> {
        let own = self.lanes.get(&ticket.caller)?;
        let before = own.tickets.range(..(ticket.deadline, ticket.id)).count();
        let tag = own.tag + own.stride * before as u64;
        let others = self
            .lanes
            .iter()
            .filter(|(name, _)| **name != ticket.caller)
            .map(|(_, lane)| turns_before(tag, lane.is_first(own, tag), lane.tag, lane.stride).min(lane.tickets.len()));
        Some(before + others.sum::<usize>())
    }
}

impl Lane {
    /// Whether this lane is served first if both come to stand at `tag`: whoever comes to it first, that is, was served longer ago.
    fn is_first(&self, other: &Self, tag: u64) -> bool {
        let is_there = (self.tag == tag, other.tag == tag);
        if is_there == (false, false) && self.stride != other.stride {
            return self.stride > other.stride;
        }
        // With equal strides both come there from where they are, in the same order; the one on a higher tag is there for longer.
        (other.tag, self.turn) < (self.tag, other.turn)
    }
}
