//! The order against a reference scheduler, and the promise against all orders.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::queue::{Order, Promises, Ticket};

fn ticket(id: u64, caller: u8, deadline: u64, base: Instant) -> Ticket {
    Ticket {
        id,
        caller: Name::new(&format!("caller {caller}")),
        urgency: Urgency::default(),
        deadline: base + Duration::from_secs(deadline),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// With everybody backlogged from the start, taking turns is the whole truth.
    #[test]
    fn equal_callers_take_turns(counts in prop::collection::vec(1_usize..20, 1..8)) {
        let base = Instant::now();
        let mut order = Order::new(Weights::default());
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

    /// Tickets come, go and are served at random: no two backlogged callers drift apart by more than one, and the forecast rank is the real one.
    #[test]
    fn ranks_are_exact_and_backlogged_callers_stay_together(
        steps in prop::collection::vec((0_u8..5, 0_u8..6, 0_u64..50), 1..200)
    ) {
        let base = Instant::now();
        let mut order = Order::new(Weights::default());
        let mut live: Vec<u64> = Vec::new();
        for (id, (what, caller, deadline)) in (0..).zip(steps) {
            match what {
                0..=2 => {
                    order.add(ticket(id, caller, deadline, base));
                    live.push(id);
                }
                3 if !live.is_empty() => {
                    let gone = live.swap_remove(usize::from(caller) % live.len());
                    order.remove(gone);
                }
                _ => {
                    if let Some(next) = order.next().map(|ticket| ticket.id) {
                        order.serve(next);
                        live.retain(|id| *id != next);
                    }
                }
            }
            prop_assert_eq!(order.len(), live.len());
        }
        let ranks: HashMap<u64, usize> = live.iter().map(|id| (*id, order.ahead_of(*id).unwrap())).collect();
        for position in 0..live.len() {
            let next = order.next().unwrap().id;
            prop_assert_eq!(ranks[&next], position);
            order.serve(next);
        }
        prop_assert!(order.next().is_none());
    }

    /// What the promise accepts can be served in time whatever fair order asks for; what it refuses could not have been added.
    #[test]
    fn promises_are_kept_under_any_fair_order(
        wanted in prop::collection::vec(0_u64..40, 1..40),
        gaps in prop::collection::vec(0_u64..4, 80),
        fair in prop::collection::vec(any::<prop::sample::Index>(), 40),
    ) {
        let base = Instant::now();
        let at = |second: u64| base + Duration::from_secs(second);
        let mut second = 0;
        let mut slots: VecDeque<Instant> = gaps.iter().map(|gap| { second += gap; at(second) }).collect();
        let mut promises = Promises::default();
        let mut live: Vec<(Instant, u64)> = Vec::new();
        for (id, deadline) in (0..).zip(wanted) {
            let mut with: Vec<Instant> = live.iter().map(|(deadline, _)| *deadline).chain([at(deadline)]).collect();
            with.sort();
            let possible = with.iter().zip(&slots).all(|(deadline, slot)| slot <= deadline);
            prop_assert_eq!(promises.can_add(at(deadline), 0, &slots), possible);
            if possible {
                promises.add(at(deadline), id);
                live.push((at(deadline), id));
            }
        }
        for pick in fair {
            if live.is_empty() {
                break;
            }
            let chosen = promises.choose(live[pick.index(live.len())], &slots);
            let index = live.iter().position(|(_, id)| *id == chosen).unwrap();
            let (deadline, id) = live.swap_remove(index);
            prop_assert!(slots.pop_front().unwrap() <= deadline, "a promise was broken");
            promises.remove(deadline, id);
        }
    }
}
