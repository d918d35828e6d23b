//! The fair order: fair queueing over urgency classes, and over callers within a class; a caller's
//! own requests by deadline.
//!
//! Every class and every caller that waits has a *tag*, counted in service divided by weight.
//! Whoever has the lowest tag is next, and its tag grows by one stride. The clock is the tag served
//! last; who comes is put where the clock is, or where its own last service ended if that is later.
//! So credit cannot be hoarded, and a merged call that was paid by others is paid back.
//!
//! * **Classes** are tagged with where their next service *starts* (start-time fair queueing,
//!   Goyal, Vin and Cheng, 1996): a class that rarely asks is served at once and then pays for it.
//!   There are eight, so they cannot crowd anybody out.
//! * **Callers** are tagged with where it *ends* (self-clocked fair queueing, Golestani, 1994):
//!   among equals a newcomer goes behind everybody who waits for a turn. It delays nobody's next
//!   turn, only later ones, and no number of made-up names starves who waits.
//!
//! Besides those who wait, the order knows who is [`Expected`] to ask. They claim slots in a
//! forecast ([`FairScheduler::competitors`], [`FairScheduler::play`]), but no slot waits for them.
//! The tag of a refused request is kept until it returns, so that it stands where it would have
//! stood.

mod class;
mod competitors;
mod play;
mod position;

use std::collections::{BTreeMap, HashMap, VecDeque};

use tokio::time::Instant;

pub use competitors::{Ahead, Claims, Competitors, Expected, Look};
pub use play::{InTime, Late};
pub use position::ServicePosition;

use self::class::{Class, STRIDE};
use super::Weights;
use crate::attempt::{FlowDemand, FlowOrder, SharedOrder};
use crate::caller::{Name, Urgency};

/// A waiting request, as the order sees it. Tickets of one caller are served by deadline, then as
/// they came.
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

/// All who are told to come back do.
const ALL_RETURN: u32 = 1 << 16;

/// Each return, or failure to, counts for so much of the rate: a sixteenth.
const RETURN_SHIFT: u32 = 4;

/// Deadlines of one caller that are told to others.
const DEADLINES_TOLD: usize = 16;

/// When so many of one caller are due that are expected back is told to others.
const DUES_TOLD: usize = 16;

/// Waiting tickets in fair order. Choosing the next ticket and adding or removing one takes
/// logarithmic time; a prediction looks at every caller of the ticket's class once.
#[derive(Debug)]
pub struct FairScheduler {
    weights: Weights,
    classes: [Class; Urgency::LEVELS],
    tickets: HashMap<u64, Ticket>,
    /// The tag of the class served last.
    now: u64,
    /// Which part of those who are told to come back do, in units of [`ALL_RETURN`].
    return_rate: u32,
    /// Other queues have a part in it.
    is_shared: bool,
}

impl FairScheduler {
    /// An empty order.
    pub fn new(weights: Weights) -> Self {
        Self {
            weights,
            classes: Default::default(),
            tickets: HashMap::new(),
            now: 0,
            return_rate: ALL_RETURN,
            is_shared: false,
        }
    }

    /// Other weights from now on; what was paid stays paid.
    pub fn reweigh(&mut self, weights: Weights) {
        for class in &mut self.classes {
            class.reweigh(|name| STRIDE / u64::from(weights.of(name)));
        }
        self.weights = weights;
    }

    /// Adds a ticket.
    pub fn add(&mut self, ticket: Ticket) {
        let (stride, now) = (self.stride(&ticket.caller), self.now);
        let class = self.class_mut(ticket.urgency);
        class.tag = class.start(now);
        class.add(&ticket, stride);
        self.tickets.insert(ticket.id, ticket);
    }

    /// Takes a ticket out that will not be served: it pays nothing.
    pub fn remove(&mut self, id: u64) -> Option<Ticket> {
        let ticket = self.tickets.remove(&id)?;
        self.class_mut(ticket.urgency).remove(&ticket);
        Some(ticket)
    }

    /// Takes a ticket out that is served now: its caller and class pay.
    pub fn serve(&mut self, id: u64) -> Option<Ticket> {
        let ticket = self.tickets.get(&id)?;
        let (caller, urgency) = (ticket.caller.clone(), ticket.urgency);
        // A class served out of turn must not drag the clock ahead of those who are still to come.
        let tag = self.class(urgency).tag.min(self.lowest_tag());
        self.now = self.now.max(tag);
        let class = self.class_mut(urgency);
        class.tag += class_stride(urgency.level());
        class.pay(&caller);
        self.remove(id)
    }

    /// Serves a request that comes when nobody waits: the same as adding and serving it, without a
    /// ticket.
    pub fn pass(&mut self, caller: &Name, urgency: Urgency) {
        debug_assert!(self.is_empty(), "who waits goes first");
        let (stride, now) = (self.stride(caller), self.now);
        let class = self.class_mut(urgency);
        let start = class.start(now);
        class.tag = start + class_stride(urgency.level());
        class.pass(caller, stride);
        self.now = start;
    }

    /// Notes what is expected of a caller from now on, besides what waits.
    pub fn expect(&mut self, caller: &Name, urgency: Urgency, expected: Expected) {
        let stride = self.stride(caller);
        self.class_mut(urgency).expect(caller, stride, expected);
    }

    /// A refused request of this caller, of which something is expected, claims a slot from `due`
    /// on.
    pub fn claim(&mut self, caller: &Name, urgency: Urgency, due: Instant) {
        self.class_mut(urgency).claim(caller, due);
    }

    /// It does not any more: it is here, or will not come.
    pub fn withdraw(&mut self, caller: &Name, urgency: Urgency, due: Instant) {
        self.class_mut(urgency).withdraw(caller, due);
    }

    /// Somebody came back who had been told to.
    pub fn returned(&mut self) {
        self.return_rate += (ALL_RETURN - self.return_rate).div_ceil(1 << RETURN_SHIFT);
    }

    /// A request of this caller did not come back that had been told to: its turn is over.
    pub fn stayed_away(&mut self, caller: &Name, urgency: Urgency) {
        self.return_rate -= self.return_rate >> RETURN_SHIFT;
        self.class_mut(urgency).miss(caller);
    }

    /// Takes over where classes and callers stand in an order that is kept elsewhere.
    pub fn adopt(&mut self, shared: &SharedOrder) {
        self.is_shared = true;
        for class in &mut self.classes {
            class.tag = self.now;
        }
        for position in &shared.classes {
            let start = position.start.saturating_mul(class_stride(0).cast_signed());
            let tag = self.now.saturating_add_signed(start);
            let class = self.class_mut(position.urgency);
            class.tag = tag;
            class.keep_time_with(position.clock);
        }
        for (urgency, caller, position) in &shared.own {
            self.class_mut(*urgency).stand_at(caller, *position);
        }
    }

    /// The ticket whose turn it is.
    pub fn next(&self) -> Option<&Ticket> {
        let (_, class) = self
            .waiting_classes()
            .min_by_key(|(level, class)| (class.tag, *level))?;
        let (_, _, name) = class.next.first()?;
        let (_, id) = class.flows.get(name)?.tickets.first()?;
        self.tickets.get(id)
    }

    /// The ticket of this caller that is served first.
    pub fn next_of(&self, caller: &Name, urgency: Urgency) -> Option<&Ticket> {
        let (_, id) = self.class(urgency).flows.get(caller)?.tickets.first()?;
        self.tickets.get(id)
    }

    /// The tickets of this caller that are served first and last, in each class.
    pub fn tickets_of(&self, caller: &Name) -> impl Iterator<Item = (u64, u64)> {
        let flows = self.classes.iter().filter_map(|class| class.flows.get(caller));
        flows.filter_map(|flow| Some((flow.tickets.first()?.1, flow.tickets.last()?.1)))
    }

    /// A ticket that waits.
    pub fn ticket(&self, id: u64) -> Option<&Ticket> {
        self.tickets.get(&id)
    }

    /// Spreads the cost of one service of `payer` over all who benefit from it: each of n pays an
    /// n-th. What benefits nobody costs nobody, and no class.
    pub fn split_cost(&mut self, urgency: Urgency, payer: &Name, cost_sharers: &[Name]) {
        let stride = self.stride(payer);
        let class = &mut self.classes[usize::from(urgency.level())];
        let count = match cost_sharers.len() {
            0 => {
                class.tag = class.tag.saturating_sub(class_stride(urgency.level()));
                class.adjust(payer, 0, stride);
                return;
            }
            1 => return,
            count => count as u64,
        };
        let share = |name: &Name| STRIDE / u64::from(self.weights.of(name)) / count;
        // Back and forth in one step: a debt is forgotten once it is behind the clock.
        let own = cost_sharers.iter().filter(|name| *name == payer).count() as u64;
        class.adjust(payer, share(payer) * own, share(payer) * count);
        for name in cost_sharers.iter().filter(|name| *name != payer) {
            class.adjust(name, share(name), 0);
        }
    }

    /// How many tickets wait.
    pub fn len(&self) -> usize {
        self.tickets.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.tickets.is_empty()
    }

    /// How many tickets each waiting caller has.
    pub fn waiting_by_caller(&self) -> BTreeMap<&Name, usize> {
        let mut counts = BTreeMap::new();
        for (name, flow) in self.classes.iter().flat_map(|class| &class.flows) {
            *counts.entry(name).or_default() += flow.tickets.len();
        }
        counts
    }

    /// How many tickets of `caller` wait.
    pub fn waiting_of(&self, caller: &Name) -> usize {
        self.classes
            .iter()
            .filter_map(|class| class.flows.get(caller))
            .map(|flow| flow.tickets.len())
            .sum()
    }

    /// How many requests claim slots that were refused and told when to come back.
    pub fn returning(&self) -> usize {
        self.classes.iter().map(|class| class.dues.len()).sum()
    }

    /// How many callers ask again whenever they are answered.
    pub fn loops(&self) -> usize {
        self.classes.iter().map(|class| class.expected.loops).sum()
    }

    fn class(&self, urgency: Urgency) -> &Class {
        &self.classes[usize::from(urgency.level())]
    }

    fn class_mut(&mut self, urgency: Urgency) -> &mut Class {
        &mut self.classes[usize::from(urgency.level())]
    }

    fn stride(&self, caller: &Name) -> u64 {
        STRIDE / u64::from(self.weights.of(caller))
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

    fn demand(&self, caller: &Name, urgency: Urgency) -> FlowDemand {
        let class = self.class(urgency);
        let flow = class.flows.get(caller);
        let idle = class.idle.get(caller);
        let expected = flow.map(|flow| flow.expected).or(idle.map(|idle| idle.expected));
        let deadlines = flow.into_iter().flat_map(|flow| &flow.tickets);
        let dues = class.dues_of(caller);
        let returning = expected.map_or(0, |expected| expected.returning);
        let claiming = dues.map_or(0, VecDeque::len).max(returning.min(1));
        FlowDemand {
            urgency,
            caller: caller.clone(),
            weight: self.weights.of(caller),
            waiting: flow.map_or(0, |flow| flow.tickets.len()),
            deadlines: deadlines.map(|(deadline, _)| *deadline).take(DEADLINES_TOLD).collect(),
            returning: claiming,
            kept: returning.saturating_sub(claiming),
            dues: dues
                .map(|dues| dues.iter().copied().take(DUES_TOLD).collect())
                .unwrap_or_default(),
            asks_again: expected.is_some_and(|expected| expected.loops > 0),
            position: None,
        }
    }
}

impl FlowOrder for FairScheduler {
    fn waiting(&self) -> usize {
        self.len()
    }

    fn flows(&self, most: usize) -> Vec<FlowDemand> {
        let mut turns: Vec<_> = (0_u8..)
            .zip(&self.classes)
            .flat_map(|(level, class)| {
                let tags = (0_u64..).map(move |turn| class.tag + class_stride(level) * turn);
                let next = class.next.iter().take(most).zip(tags);
                next.map(move |((_, _, name), tag)| (tag, level, name))
            })
            .collect();
        turns.sort_by_key(|(tag, level, _)| (*tag, *level));
        let waiting = turns.into_iter().map(|(_, level, name)| (level, name));
        let idle = (0_u8..).zip(&self.classes);
        let mut idle: Vec<_> = idle
            .flat_map(|(level, class)| class.idle.iter().map(move |idle| (level, idle)))
            .collect();
        if idle.len() > most {
            // Those that are due first.
            idle.select_nth_unstable_by_key(most, |(_, (_, idle))| {
                let due = idle.dues.front().copied();
                (due.is_none(), due)
            });
        }
        let idle = idle.into_iter().map(|(level, (name, _))| (level, name));
        let flows = waiting.chain(idle).take(most);
        flows
            .filter_map(|(level, name)| Some(self.demand(name, Urgency::new(level)?)))
            .collect()
    }
}

/// Urgency 0 gets twice what 1 gets, and so on: with all eight waiting, the last class still gets
/// every 255th slot.
fn class_stride(level: u8) -> u64 {
    (STRIDE >> 7) << level
}
