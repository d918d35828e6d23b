//! Shares in the order: deadlines of seconds, since they do not change who is served next.

use std::collections::HashMap;
use std::num::NonZeroU32;

use super::*;
use crate::queue::fair_scheduler::Expected;
use crate::queue::{FairScheduler, Ticket};

fn add(order: &mut FairScheduler, id: u64, caller: &str, urgency: u8) {
    let deadline = Instant::now() + 20 * SECOND;
    order.add(Ticket {
        id,
        caller: Name::new(caller),
        urgency: Urgency::new(urgency).unwrap(),
        deadline,
    });
}

fn serve(order: &mut FairScheduler, count: usize) -> Vec<Ticket> {
    (0..count)
        .map_while(|_| {
            let id = order.next()?.id;
            order.serve(id)
        })
        .collect()
}

#[test]
fn weights_divide_the_slots() {
    let weights = [(Name::new("double"), NonZeroU32::new(2).unwrap())]
        .into_iter()
        .collect();
    let mut order = FairScheduler::new(weights);
    for id in 0..600 {
        add(&mut order, id, ["double", "single"][usize::from(id % 2 == 0)], 3);
    }
    let served = serve(&mut order, 300);
    assert_eq!(
        served
            .iter()
            .filter(|ticket| ticket.caller.as_str() == "double")
            .count(),
        200
    );
}

#[test]
fn every_class_gets_its_guaranteed_share_and_the_urgent_most() {
    let mut order = FairScheduler::new(Weights::default());
    for id in 0..8 * 600 {
        add(&mut order, id, "a", u8::try_from(id % 8).unwrap());
    }
    let mut counts = HashMap::<u8, usize>::new();
    for ticket in serve(&mut order, 510) {
        *counts.entry(ticket.urgency.level()).or_default() += 1;
    }
    let counts: Vec<usize> = (0..8).map(|level| counts[&level]).collect();
    assert_eq!(counts, [256, 128, 64, 32, 16, 8, 4, 2]);
}

#[test]
fn a_modest_caller_beside_a_greedy_one_waits_for_two_slots_at_most() {
    let mut order = FairScheduler::new(Weights::default());
    for id in 0..1000 {
        add(&mut order, id, "greedy", 3);
    }
    for round in 0..20 {
        serve(&mut order, 23);
        add(&mut order, 5000 + round, "modest", 3);
        assert!(order.ahead_of(5000 + round).unwrap() <= 1);
        let served = serve(&mut order, 2);
        assert!(
            served.iter().any(|ticket| ticket.caller.as_str() == "modest"),
            "round {round}"
        );
    }
}

#[test]
fn credit_is_not_hoarded_while_idle_and_debt_is_not_forgotten() {
    let mut order = FairScheduler::new(Weights::default());
    for id in 0..200 {
        add(&mut order, id, "steady", 3);
    }
    serve(&mut order, 100);
    // A caller that was away for a hundred slots is owed one turn, not a hundred.
    for id in 1000..1010 {
        add(&mut order, id, "back", 3);
    }
    let served = serve(&mut order, 10);
    assert_eq!(
        served.iter().filter(|ticket| ticket.caller.as_str() == "back").count(),
        5
    );
    // Coming and going does not help: one request at a time is one turn at a time.
    let mut order = FairScheduler::new(Weights::default());
    for id in 0..100 {
        add(&mut order, id, "steady", 3);
    }
    let mut hopper = 0;
    for round in 0..20 {
        add(&mut order, 1000 + round, "hopper", 3);
        hopper += serve(&mut order, 2)
            .iter()
            .filter(|ticket| ticket.caller.as_str() == "hopper")
            .count();
    }
    assert!(hopper <= 20);
}

/// Whoever polls without waiting is refused again and again, and is never without a request that is
/// expected back, while the others are served.
#[test]
fn credit_is_not_hoarded_by_being_refused_either() {
    for (weight, polls) in [(1, true), (10, true), (1, false)] {
        let (hoarder, urgency) = (Name::new("hoarder"), Urgency::new(3).unwrap());
        let weights = [(hoarder.clone(), NonZeroU32::new(weight).unwrap())].into_iter();
        let mut order = FairScheduler::new(weights.collect());
        let is_refused = |order: &mut FairScheduler, returning| {
            let expected = Expected {
                returning,
                ..Expected::default()
            };
            order.expect(&hoarder, urgency, expected);
        };
        is_refused(&mut order, 1);
        for id in 0..2000 {
            add(&mut order, id, &format!("steady {}", id % 4), 3);
        }
        serve(&mut order, 1000);
        for id in 2000..2100 {
            add(&mut order, id, "hoarder", 3);
        }
        if !polls {
            is_refused(&mut order, 0);
        }
        let mut turns = Vec::new();
        for _ in 0..100 {
            let ticket = serve(&mut order, 1).remove(0);
            turns.push(ticket.caller == hoarder);
        }
        let weight = usize::try_from(weight).unwrap();
        let turns_of_hoarder = turns.iter().filter(|turn| **turn).count();
        // And what it has before the others have one turn.
        let share = 100 * weight / (weight + 4) + weight;
        assert!(turns[0], "what it is owed comes first");
        assert!(
            turns_of_hoarder <= share + 1,
            "{turns_of_hoarder} of a share of {share}, {polls}"
        );
    }
}

/// Whoever was refused ten times is owed ten turns and no more.
#[test]
fn whoever_was_refused_often_is_owed_as_many_turns() {
    let (late, urgency) = (Name::new("late"), Urgency::new(3).unwrap());
    let mut order = FairScheduler::new(Weights::default());
    for id in 0..1000 {
        add(&mut order, id, &format!("steady {}", id % 4), 3);
    }
    let expected = |returning| Expected {
        returning,
        ..Expected::default()
    };
    order.expect(&late, urgency, expected(10));
    serve(&mut order, 400);
    // They come one by one, each when the one before has been served.
    for returning in (0..10).rev() {
        add(&mut order, 2000 + returning, "late", 3);
        order.expect(&late, urgency, expected(usize::try_from(returning).unwrap()));
        assert_eq!(serve(&mut order, 1)[0].caller, late, "{returning} are left");
    }
    for id in 3000..3010 {
        add(&mut order, id, "late", 3);
    }
    let turns = serve(&mut order, 10)
        .iter()
        .filter(|ticket| ticket.caller == late)
        .count();
    assert!(turns <= 3, "{turns}");
}

/// The tag that was kept for it lies far behind the clock.
#[test]
fn whose_place_is_kept_for_long_pays_its_part_of_shared_calls() {
    let (poller, urgency) = (Name::new("poller"), Urgency::new(3).unwrap());
    let mut order = FairScheduler::new(Weights::default());
    for id in 0..2000 {
        add(&mut order, id, &format!("steady {}", id % 4), 3);
    }
    let refused = Expected {
        returning: 1,
        ..Expected::default()
    };
    order.expect(&poller, urgency, refused);
    serve(&mut order, 1000);
    for _ in 0..10 {
        let payer = serve(&mut order, 1).remove(0).caller;
        order.split_cost(urgency, &payer, &[payer.clone(), poller.clone()]);
    }
    add(&mut order, 3000, "poller", 3);
    let served = serve(&mut order, 8);
    assert!(
        served.iter().all(|ticket| ticket.caller != poller),
        "it has had five turns"
    );
}

#[test]
fn backlogged_callers_differ_by_one_at_most_over_any_interval() {
    let mut order = FairScheduler::new(Weights::default());
    for id in 0..2000 {
        add(&mut order, id, &format!("caller {}", id % 10), 3);
    }
    let served = serve(&mut order, 1500);
    for length in [1, 7, 10, 33, 250] {
        for interval in served.windows(length) {
            let mut counts = HashMap::<&str, usize>::new();
            for ticket in interval {
                *counts.entry(ticket.caller.as_str()).or_default() += 1;
            }
            let most = counts.values().max().unwrap();
            let least = if counts.len() == 10 {
                *counts.values().min().unwrap()
            } else {
                0
            };
            assert!(most - least <= 1);
        }
    }
}

#[test]
fn a_merged_call_costs_each_beneficiary_its_part() {
    let mut order = FairScheduler::new(Weights::default());
    for id in 0..300 {
        add(&mut order, id, ["a", "b", "c"][usize::try_from(id % 3).unwrap()], 3);
    }
    let (a, b) = (Name::new("a"), Name::new("b"));
    let mut counts = HashMap::<String, usize>::new();
    for _ in 0..30 {
        let ticket = serve(&mut order, 1).remove(0);
        *counts.entry(ticket.caller.as_str().to_owned()).or_default() += 1;
        // Whenever a or b is served, both benefit; c always pays alone.
        if ticket.caller.as_str() != "c" {
            order.split_cost(Urgency::default(), &ticket.caller, &[a.clone(), b.clone()]);
        }
    }
    // Two thirds of the service went to a and b together, one third to c: everybody had the same.
    assert_eq!(counts["c"], 10, "{counts:?}");
}

#[test]
fn a_call_that_benefits_nobody_costs_nobody() {
    let last = Urgency::LAST;
    let served = |made: bool, cost_sharers: &[Name]| {
        let mut order = FairScheduler::new(Weights::default());
        if made {
            order.pass(&Name::new("nobody"), last);
            order.split_cost(last, &Name::new("nobody"), cost_sharers);
        }
        for id in 0..30 {
            add(
                &mut order,
                id,
                ["a", "b", "nobody"][usize::try_from(id % 3).unwrap()],
                6 + u8::from(id % 2 == 0),
            );
        }
        let tickets = serve(&mut order, 30).into_iter();
        tickets.map(|ticket| ticket.id).collect::<Vec<_>>()
    };
    assert_eq!(served(true, &[]), served(false, &[]));
    assert_ne!(served(true, &[Name::new("nobody")]), served(false, &[]));
}
