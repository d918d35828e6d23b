//! The fair order: stride scheduling over classes, and over callers within a class.
//!
//! Every class and every caller has a *pass*: the service it has had, divided by its weight. Whoever has the lowest pass is next, and
//! pays one stride. A class or caller that comes back after being idle starts at the pass of those being served now, so credit cannot be
//! hoarded; what it owes stays.

use std::collections::{BTreeMap, BTreeSet, HashMap};

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

/// One service, in pass units, for weight 1. Divisible by every weight up to 1000 to within a ten-thousandth, and 2^40 services of one
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
    /// The pass of the class served last, before it paid.
    now: u64,
}

#[derive(Debug, Default)]
struct Class {
    pass: u64,
    lanes: HashMap<Name, Lane>,
    /// Lanes by who is next: pass, then who was served or came longest ago.
    next: BTreeSet<(u64, u64, Name)>,
    debtors: HashMap<Name, u64>,
    waiting: usize,
    /// The pass of the lane served last, before it paid.
    now: u64,
    turns: u64,
}

#[derive(Debug)]
struct Lane {
    pass: u64,
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
            class.pass = class.pass.max(now);
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
        // A class served out of turn must not drag the others' starting point ahead.
        self.now = self
            .now
            .max(self.classes[usize::from(level)].pass.min(self.lowest_pass()));
        let class = &mut self.classes[usize::from(level)];
        class.pass += class_stride(level);
        class.pay(&ticket.caller, STRIDE / u64::from(self.weights.of(&ticket.caller)));
        self.remove(id)
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
            .min_by_key(|(level, class)| (class.pass, *level))?;
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
        let tag = class.pass + class_stride(level) * in_class as u64;
        let others = self
            .waiting_classes()
            .filter(|(other, _)| *other != level)
            .map(|(other, class)| {
                let first = other < level;
                turns_before(tag, first, class.pass, class_stride(other)).min(class.waiting)
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

    /// Spreads the cost of one service of `payer` over all who benefit from it: each of n pays an n-th.
    pub fn spread(&mut self, urgency: Urgency, payer: &Name, beneficiaries: &[Name]) {
        let count = beneficiaries.len() as u64;
        if count < 2 {
            return;
        }
        let class = &mut self.classes[usize::from(urgency.level())];
        let share = |name: &Name| STRIDE / u64::from(self.weights.of(name)) / count;
        class.repay(payer, share(payer) * count);
        for name in beneficiaries {
            class.pay(name, share(name));
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

    fn lowest_pass(&self) -> u64 {
        self.waiting_classes()
            .map(|(_, class)| class.pass)
            .min()
            .unwrap_or(self.now)
    }
}

/// Urgency 0 gets twice what 1 gets, and so on: with all eight waiting, the last class still gets every 255th slot.
fn class_stride(level: u8) -> u64 {
    (STRIDE >> 7) << level
}

/// How many services someone at `pass` has before the one that starts at `tag`; `first` decides ties.
fn turns_before(tag: u64, first: bool, pass: u64, stride: u64) -> usize {
    let Some(gap) = tag.checked_sub(pass) else { return 0 };
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
        let owed = self.debtors.remove(&ticket.caller).unwrap_or(0);
        let pass = owed.max(self.now);
        self.turns += 1;
        let lane = Lane {
            pass,
            turn: self.turns,
            stride: STRIDE / u64::from(weight),
            tickets: BTreeSet::from([key]),
        };
        self.next.insert((pass, lane.turn, ticket.caller.clone()));
        self.lanes.insert(ticket.caller.clone(), lane);
    }

    fn remove(&mut self, ticket: &Ticket) {
        let Some(lane) = self.lanes.get_mut(&ticket.caller) else {
            return;
        };
        if lane.tickets.remove(&(ticket.deadline, ticket.id)) {
            self.waiting -= 1;
        }
        if lane.tickets.is_empty() {
            self.next.remove(&(lane.pass, lane.turn, ticket.caller.clone()));
            let pass = lane.pass;
            self.lanes.remove(&ticket.caller);
            self.owe(&ticket.caller, pass);
        }
    }

    fn pay(&mut self, caller: &Name, cost: u64) {
        let Some(lane) = self.lanes.get_mut(caller) else {
            let pass = self.debtors.get(caller).copied().unwrap_or(0).max(self.now);
            self.owe(caller, pass + cost);
            return;
        };
        self.turns += 1;
        self.next.remove(&(lane.pass, lane.turn, caller.clone()));
        let before = lane.pass;
        lane.pass += cost;
        lane.turn = self.turns;
        self.next.insert((lane.pass, lane.turn, caller.clone()));
        // Whoever comes next starts where the lowest of those waiting stands.
        let lowest = self.next.first().map_or(before, |(pass, _, _)| (*pass).min(before));
        self.now = self.now.max(lowest);
    }

    fn repay(&mut self, caller: &Name, amount: u64) {
        if let Some(lane) = self.lanes.get_mut(caller) {
            self.next.remove(&(lane.pass, lane.turn, caller.clone()));
            lane.pass = lane.pass.saturating_sub(amount);
            self.next.insert((lane.pass, lane.turn, caller.clone()));
        } else if let Some(owed) = self.debtors.get_mut(caller) {
            *owed = owed.saturating_sub(amount);
        }
    }

    fn owe(&mut self, caller: &Name, pass: u64) {
        if pass <= self.now {
            return;
        }
        if self.debtors.len() >= DEBTORS {
            let now = self.now;
            self.debtors.retain(|_, owed| *owed > now);
            if self.debtors.len() >= DEBTORS {
                self.debtors.clear();
            }
        }
        self.debtors.insert(caller.clone(), pass);
    }

    fn ahead_of(&self, ticket: &Ticket) -> Option<usize> {
        let own = self.lanes.get(&ticket.caller)?;
        let before = own.tickets.range(..(ticket.deadline, ticket.id)).count();
        let tag = own.pass + own.stride * before as u64;
        let others = self
            .lanes
            .iter()
            .filter(|(name, _)| **name != ticket.caller)
            .map(|(_, lane)| {
                // Whoever reaches a pass first is first there; who stands on a higher one has been there for longer.
                let first = (own.pass, lane.turn) < (lane.pass, own.turn);
                turns_before(tag, first, lane.pass, lane.stride).min(lane.tickets.len())
            });
        Some(before + others.sum::<usize>())
    }
}
