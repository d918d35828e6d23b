//! The order against a reference scheduler.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::queue::{FairScheduler, Ticket};

fn ticket(id: u64, caller: u8, deadline: u64, base: Instant) -> Ticket {
    Ticket {
        id,
        caller: Name::new(&format!("caller {caller}")),
        urgency: Urgency::default(),
        deadline: base + Duration::from_secs(deadline),
    }
}

/// Caller 1 has twice, caller 2 four times the weight of the others.
fn weights() -> Weights {
    let weight = |(caller, weight): (u8, u32)| (Name::new(&format!("caller {caller}")), weight.try_into().unwrap());
    [(1, 2), (2, 4)].map(weight).into_iter().collect()
}

fn number(caller: &Name) -> usize {
    caller.as_str()["caller ".len()..].parse().unwrap()
}

/// The rules of the order, written to be read and not to be fast: nothing is indexed or forgotten,
/// every choice looks at everybody.
#[derive(Default)]
struct Reference {
    clock: u64,
    turns: u64,
    classes: [Class; 8],
}

#[derive(Default)]
struct Class {
    tag: u64,
    clock: u64,
    callers: [ReferenceFlow; 6],
}

#[derive(Default)]
struct ReferenceFlow {
    tag: u64,
    /// Where the last service ended.
    last: u64,
    since: u64,
    tickets: Vec<(Instant, u64)>,
}

const UNIT: u64 = 1 << 24;

fn stride(caller: usize) -> u64 {
    UNIT / [1, 2, 4, 1, 1, 1][caller]
}

fn class_stride(level: usize) -> u64 {
    (UNIT / 128) << level
}

impl Class {
    fn waits(&self) -> bool {
        self.callers.iter().any(|flow| !flow.tickets.is_empty())
    }

    fn waiting(&self) -> impl Iterator<Item = &ReferenceFlow> {
        self.callers.iter().filter(|flow| !flow.tickets.is_empty())
    }
}

impl Reference {
    fn add(&mut self, ticket: &Ticket) {
        let (level, caller) = (usize::from(ticket.urgency.level()), number(&ticket.caller));
        let class = &mut self.classes[level];
        if !class.waits() {
            class.tag = class.tag.max(self.clock);
        }
        let flow = &mut class.callers[caller];
        if flow.tickets.is_empty() {
            self.turns += 1;
            flow.since = self.turns;
            flow.tag = flow.last.max(class.clock) + stride(caller);
        }
        flow.tickets.push((ticket.deadline, ticket.id));
    }

    fn remove(&mut self, ticket: &Ticket) {
        let caller = number(&ticket.caller);
        let flow = &mut self.classes[usize::from(ticket.urgency.level())].callers[caller];
        flow.tickets.retain(|(_, id)| *id != ticket.id);
        flow.last = flow.tag - stride(caller).min(flow.tag);
    }

    fn next(&self) -> Option<u64> {
        let classes = self.classes.iter().enumerate().filter(|(_, class)| class.waits());
        let (_, class) = classes.min_by_key(|(level, class)| (class.tag, *level))?;
        let flow = class.waiting().min_by_key(|flow| (flow.tag, flow.since))?;
        flow.tickets.iter().min().map(|(_, id)| *id)
    }

    fn serve(&mut self, ticket: &Ticket) {
        let (level, caller) = (usize::from(ticket.urgency.level()), number(&ticket.caller));
        let waiting = self.classes.iter().filter(|class| class.waits());
        self.clock = self.clock.max(waiting.map(|class| class.tag).min().unwrap());
        let class = &mut self.classes[level];
        class.tag += class_stride(level);
        self.turns += 1;
        let flow = &mut class.callers[caller];
        let served = flow.tag;
        (flow.tag, flow.since) = (flow.tag + stride(caller), self.turns);
        // Whoever is served out of turn does not move the clock past the others.
        let lowest = class.waiting().map(|flow| flow.tag).min().unwrap();
        class.clock = class.clock.max(lowest.min(served));
        self.remove(ticket);
    }

    fn split_cost(&mut self, urgency: Urgency, payer: &Name, both: &[Name; 2]) {
        if both[0] == both[1] {
            return;
        }
        let class = &mut self.classes[usize::from(urgency.level())];
        for name in both {
            let caller = number(name);
            let half = stride(caller) / 2;
            let flow = &mut class.callers[caller];
            let account = if flow.tickets.is_empty() {
                flow.last = flow.last.max(class.clock);
                &mut flow.last
            } else {
                &mut flow.tag
            };
            *account = if name == payer {
                account.saturating_sub(half)
            } else {
                *account + half
            };
        }
    }
}

/// Plays what, caller, level and deadline of each step to the order and to the reference, and
/// compares all that they say.
fn agree(steps: Vec<(u8, u8, u8, u64)>) -> Result<(), TestCaseError> {
    let base = Instant::now();
    let mut order = FairScheduler::new(weights());
    let mut reference = Reference::default();
    let mut live: Vec<Ticket> = Vec::new();
    for (id, (what, caller, level, deadline)) in (0..).zip(steps) {
        let picked = (!live.is_empty()).then(|| usize::from(caller * 3 + level) % live.len().max(1));
        match (what, picked) {
            // Nobody waits: served on the spot, which is the same as coming and being served.
            (4.., None) => {
                let urgency = Urgency::new(level * 2).unwrap();
                let ticket = Ticket {
                    urgency,
                    ..ticket(id, caller, deadline, base)
                };
                order.pass(&ticket.caller, urgency);
                reference.add(&ticket);
                reference.serve(&ticket);
            }
            (0..=3, _) => {
                let urgency = Urgency::new(level * 2).unwrap();
                let ticket = Ticket {
                    urgency,
                    ..ticket(id, caller, deadline, base)
                };
                order.add(ticket.clone());
                reference.add(&ticket);
                live.push(ticket);
            }
            (4, Some(index)) => {
                let gone = live.swap_remove(index);
                prop_assert_eq!(order.remove(gone.id), Some(gone.clone()));
                reference.remove(&gone);
            }
            (5, Some(index)) => {
                let early = live.swap_remove(index);
                order.serve(early.id);
                reference.serve(&early);
            }
            (_, Some(_)) => {
                let next = order.next().unwrap().clone();
                prop_assert_eq!(next.id, reference.next().unwrap());
                order.serve(next.id);
                reference.serve(&next);
                live.retain(|ticket| ticket.id != next.id);
                if what == 7 {
                    let other = Name::new(&format!("caller {caller}"));
                    let both = [next.caller.clone(), other];
                    order.split_cost(next.urgency, &next.caller, &both);
                    reference.split_cost(next.urgency, &next.caller, &both);
                }
            }
        }
        prop_assert_eq!(order.len(), live.len());
        prop_assert_eq!(order.next().map(|ticket| ticket.id), reference.next());
    }
    let ranks: HashMap<u64, usize> = live
        .iter()
        .map(|ticket| (ticket.id, order.ahead_of(ticket.id).unwrap()))
        .collect();
    for position in 0..live.len() {
        let next = order.next().unwrap().id;
        prop_assert_eq!(ranks[&next], position);
        order.serve(next);
    }
    prop_assert!(order.next().is_none());
    Ok(())
}

#[test]
fn a_ticket_that_goes_from_a_line_of_two_callers_leaves_the_turns_as_they_were() {
    let steps = [(0, 0); 3]
        .into_iter()
        .chain([(0, 1), (4, 0), (0, 0), (0, 1)])
        .chain([(0, 0); 7]);
    agree(steps.map(|(what, caller)| (what, caller, 0, 0)).collect()).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// With everybody backlogged from the start, taking turns is the whole truth.
    #[test]
    fn equal_callers_take_turns(counts in prop::collection::vec(1_usize..20, 1..8)) {
        let base = Instant::now();
        let mut order = FairScheduler::new(Weights::default());
        let mut id = 0;
        for (caller, count) in (0_u8..).zip(&counts) {
            for _ in 0..*count {
                order.add(ticket(id, caller, 1000, base));
                id += 1;
            }
        }
        let mut left = counts.clone();
        while !order.is_empty() {
            for (caller, left) in (0_u8..).zip(left.iter_mut()).filter(|(_, left)| **left > 0) {
                let next = order.next().unwrap().clone();
                prop_assert_eq!(next.caller.as_str(), format!("caller {caller}"));
                order.serve(next.id);
                *left -= 1;
            }
        }
    }

    /// Tickets come, go and are served at random, some out of turn, some for the benefit of two:
    /// always the reference's choice, and every forecast rank is the real one.
    #[test]
    fn every_choice_is_the_references(steps in prop::collection::vec((0_u8..8, 0_u8..6, 0_u8..3, 0_u64..50), 1..200)) {
        agree(steps)?;
    }

    /// Over any interval in which two callers of equal weight both have something waiting, they are
    /// served equally often, or one of them once more: whoever comes and goes meanwhile, and
    /// whatever was before.
    #[test]
    fn backlogged_callers_differ_by_one_at_most(steps in prop::collection::vec((0_u8..6, 0_u8..5), 1..300)) {
        let base = Instant::now();
        let mut order = FairScheduler::new(Weights::default());
        let mut live: Vec<Ticket> = Vec::new();
        // For each two: how far the first is ahead since both began to wait, the least and the most
        // of it.
        let mut leads = [[[0_i32; 3]; 5]; 5];
        for (id, (what, caller)) in (0..).zip(steps) {
            match what {
                0..=2 => {
                    let ticket = ticket(id, caller, 1000, base);
                    order.add(ticket.clone());
                    live.push(ticket);
                }
                3 if !live.is_empty() => {
                    let gone = live.swap_remove(usize::from(caller) % live.len());
                    order.remove(gone.id);
                }
                _ => {
                    let Some(next) = order.next().cloned() else { continue };
                    let served = number(&next.caller);
                    for other in (0..5).filter(|other| *other != served) {
                        for (one, two, step) in [(served, other, 1), (other, served, -1)] {
                            let [lead, least, most] = &mut leads[one][two];
                            *lead += step;
                            (*least, *most) = ((*least).min(*lead), (*most).max(*lead));
                        }
                    }
                    for (one, row) in leads.iter().enumerate() {
                        for (two, [_, least, most]) in row.iter().enumerate() {
                            let both = [one, two].map(|who| live.iter().any(|ticket| number(&ticket.caller) == who));
                            prop_assert!(both != [true, true] || most - least <= 1, "{one} and {two}");
                        }
                    }
                    order.serve(next.id);
                    live.retain(|ticket| ticket.id != next.id);
                }
            }
            for (one, row) in leads.iter_mut().enumerate() {
                for (two, lead) in row.iter_mut().enumerate() {
                    if [one, two].iter().any(|who| live.iter().all(|ticket| number(&ticket.caller) != *who)) {
                        *lead = [0; 3];
                    }
                }
            }
        }
    }
}
