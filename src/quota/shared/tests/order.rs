//! The order over replicas is that of one queue: class, caller's share, deadline.

use std::time::Duration;

use super::answers::Pair;
use super::replicas::{Asking, Replicas, SECOND};
use super::store::waiting;
use crate::attempt::FlowDemand;
use crate::caller::{Name, Urgency};

const LIMITS: [(u32, Duration); 2] = [(100, Duration::from_mins(1)), (1500, Duration::from_hours(1))];

const NAMES: [&str; 20] = [
    "B0", "B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B9", "B10", "B11", "B12", "B13", "B14", "B15", "B16", "B17",
    "B18", "B19",
];

/// Four replicas and half an hour: the burst, then a slot every 2.4 s. A is on the first replica,
/// the others on all.
fn half_an_hour(a: Asking, others: impl Iterator<Item = Asking>) -> Replicas {
    let mut replicas = Replicas::new(4, &LIMITS);
    for other in others {
        replicas.ask(other);
    }
    replicas.ask(a);
    replicas.pass(SECOND * 1800);
    replicas.assert_never_over(&LIMITS);
    println!(
        "A {}, of {}: {:?}; {} steps",
        replicas.of("A"),
        replicas.total(),
        replicas.served,
        replicas.steps
    );
    replicas
}

fn twenty(urgency: u8) -> impl Iterator<Item = Asking> {
    NAMES.iter().enumerate().map(move |(n, name)| Asking {
        urgency,
        ..Asking::at(n % 4, name)
    })
}

#[test]
fn an_urgent_caller_gets_the_share_of_its_class_whoever_asks_elsewhere() {
    let a = Asking {
        urgency: 0,
        ..Asking::at(0, "A")
    };
    let replicas = half_an_hour(a.clone(), twenty(7));
    // 128 of 129 slots, after the burst that went to those who were there first.
    assert!(
        replicas.of("A") * 129 >= (replicas.total() - 110) * 126,
        "{}",
        replicas.of("A")
    );
    let greedy = Asking {
        urgency: 7,
        waiting: 20,
        ..Asking::at(1, "B")
    };
    let replicas = half_an_hour(a, [greedy].into_iter());
    assert!(
        replicas.of("A") * 129 >= (replicas.total() - 110) * 126,
        "{}",
        replicas.of("A")
    );
}

#[test]
fn a_caller_gets_what_its_weight_is_worth_beside_callers_of_other_replicas() {
    let heavy = Asking {
        weight: 100,
        ..Asking::at(0, "A")
    };
    let replicas = half_an_hour(heavy, twenty(3));
    assert!(
        replicas.of("A") * 120 >= (replicas.total() - 110) * 98,
        "{}",
        replicas.of("A")
    );
}

#[test]
fn one_caller_on_three_replicas_is_one_caller() {
    let of_b = (1..4).map(|replica| Asking {
        waiting: 10,
        ..Asking::at(replica, "B")
    });
    let replicas = half_an_hour(Asking::at(0, "A"), of_b);
    let (a, rest) = (replicas.of("A"), replicas.total() - 100);
    assert!((rest * 45 / 100..=rest * 55 / 100 + 50).contains(&a), "{a} of {rest}");
}

#[test]
fn the_requests_of_one_caller_are_served_by_deadline_wherever_they_wait() {
    let patient = Asking {
        patience: SECOND * 600,
        waiting: 1,
        ..Asking::at(1, "A")
    };
    let hasty = Asking {
        patience: SECOND * 5,
        ..Asking::at(0, "A")
    };
    let mut replicas = Replicas::new(4, &LIMITS);
    replicas.ask(Asking {
        waiting: 100,
        goes_on: false,
        ..Asking::at(2, "burst")
    });
    // From then on slots come one by one, and the bucket is empty.
    replicas.pass(SECOND * 61);
    replicas.ask(Asking {
        waiting: 30,
        goes_on: false,
        ..Asking::at(3, "rest")
    });
    replicas.ask(patient);
    replicas.ask(hasty);
    replicas.pass(SECOND * 130);
    let served = &replicas.served[2..];
    assert!(served[1] >= 20 && served[0] <= 1, "{served:?}");
}

#[test]
fn each_class_of_a_mixed_crowd_gets_its_share_and_none_gets_nothing() {
    let crowd = NAMES.iter().enumerate().map(|(n, name)| Asking {
        urgency: u8::try_from(n % 8).unwrap(),
        ..Asking::at(n % 4, name)
    });
    let mut replicas = Replicas::new(4, &LIMITS);
    for caller in crowd {
        replicas.ask(caller);
    }
    replicas.pass(SECOND * 60);
    let before = replicas.served.clone();
    replicas.pass(SECOND * 3600);
    replicas.assert_never_over(&LIMITS);
    let mut classes = [0; 8];
    for (n, caller) in replicas.callers.iter().enumerate() {
        assert!(replicas.served[n] > before[n], "{caller:?}");
        classes[usize::from(caller.urgency)] += replicas.served[n] - before[n];
    }
    let total: usize = classes.iter().sum();
    println!("{classes:?} of {total}");
    for (class, got) in (0_u32..).zip(classes) {
        let due = total * 2_usize.pow(7 - class) / 255;
        assert!(got.abs_diff(due) <= due / 20 + 2, "class {class}: {got}, due {due}");
    }
}

#[test]
fn all_of_the_quota_is_used_and_a_slot_costs_few_steps() {
    let replicas = half_an_hour(Asking::at(0, "A"), twenty(3));
    // The burst of 100, and then half of what the hour has left.
    assert!(replicas.total() >= 100 + 1400 / 2 - 4, "{}", replicas.total());
    // Two heartbeats a second at each of four replicas, and a few steps for each call.
    let heartbeats = 1800 * 2 * 4;
    assert!(
        replicas.steps <= heartbeats + replicas.total() * 6,
        "{} steps",
        replicas.steps
    );
}

#[test]
fn a_slot_that_a_dead_replica_does_not_come_for_goes_to_the_next_in_turn() {
    let mut replicas = Replicas::new(4, &LIMITS);
    for (n, name) in NAMES.into_iter().take(4).enumerate() {
        replicas.ask(Asking {
            waiting: 50,
            ..Asking::at(n, name)
        });
    }
    replicas.pass(SECOND * 60);
    replicas.dead.extend([0, 1]);
    let before = replicas.total();
    replicas.pass(SECOND * 60);
    // None of the minute's slots is lost.
    assert!(replicas.total() - before >= 23, "{}", replicas.total() - before);
    replicas.assert_never_over(&LIMITS);
}

#[test]
fn a_replica_is_told_what_the_others_want() {
    let mut replicas = Replicas::new(4, &LIMITS);
    replicas.ask(Asking {
        waiting: 100,
        goes_on: false,
        ..Asking::at(3, "burst")
    });
    replicas.pass(SECOND * 2);
    for (n, name) in NAMES.iter().enumerate() {
        replicas.ask(Asking {
            waiting: 3,
            ..Asking::at(1 + n % 3, name)
        });
    }
    replicas.ask(Asking::at(0, NAMES[0]));
    replicas.pass(SECOND);
    let others = replicas.others(0);
    let waiting: usize = others.iter().map(|flow| flow.waiting).sum();
    assert!((56..=60).contains(&waiting), "{others:?}");
    assert!(others.len() <= 9, "a class is told in few words: {others:?}");
    assert!(others.iter().all(|flow| flow.asks_again && flow.urgency.level() == 3));
    let weight: u32 = others.iter().map(|flow| flow.weight).sum();
    assert!((19..=20).contains(&weight), "{weight}");
}

/// How many of fifty callers on four replicas are served within three seconds after the store was
/// emptied.
fn served_after_a_flush(before: usize) -> usize {
    let mut replicas = Replicas::new(4, &LIMITS);
    if before > 0 {
        replicas.ask(Asking {
            waiting: before,
            goes_on: false,
            ..Asking::at(1, "burst")
        });
    }
    replicas.pass(SECOND * 3);
    let served = replicas.total();
    replicas.store.flush();
    for (n, name) in NAMES.into_iter().take(4).enumerate() {
        replicas.ask(Asking {
            waiting: if n < 2 { 13 } else { 12 },
            goes_on: false,
            ..Asking::at(n, name)
        });
    }
    replicas.pass(SECOND * 3);
    replicas.assert_never_over(&LIMITS);
    replicas.total() - served
}

#[test]
fn after_the_store_was_emptied_who_waits_is_served_at_once_where_the_windows_have_room() {
    assert_eq!(served_after_a_flush(0), 50);
    assert_eq!(served_after_a_flush(40), 50);
    // What the copies say is used up stays used up.
    let served = served_after_a_flush(100);
    assert!(served <= 3, "{served}");
}

/// The tags of a class begin again from time to time, here after eight turns.
#[test]
fn whoever_is_expected_back_begins_again_with_its_class() {
    let mut pair = Pair::new(Some(("RENEW = 2 ^ 42", "RENEW = 2 ^ 23")));
    assert_eq!(pair.slots(0, &waiting("other", 5)).len(), 5);
    let mut expected = waiting("back", 1);
    (expected[0].waiting, expected[0].returning) = (0, 1);
    let other = [waiting("other", 5), expected].concat();
    assert_eq!(pair.slots(0, &other).len(), 5);
    let both = [waiting("other", 4), waiting("back", 1)].concat();
    let callers = pair.slots(0, &both).into_iter().map(|slot| slot.flow.unwrap().1);
    let callers: Vec<_> = callers.collect();
    assert_eq!(callers.len(), 5);
    assert!(callers[..2].contains(&Name::new("back")), "{callers:?}");
}

/// A caller is refused again and again, so that one of its requests is expected back all the time,
/// while another one is served. Then it waits as well.
#[test]
fn what_is_kept_for_a_request_that_was_refused_is_no_credit_for_others() {
    for is_refused_still in [true, false] {
        let mut pair = Pair::new(None);
        let back = |waiting: usize, returning: usize| FlowDemand {
            waiting,
            returning,
            ..self::waiting("back", 1).remove(0)
        };
        let first = [waiting("other", 25), vec![back(0, 1)]].concat();
        assert_eq!(pair.slots(0, &first).len(), 25);
        let both = [waiting("other", 12), vec![back(12, is_refused_still.into())]].concat();
        let slots = pair.slots(0, &both).into_iter();
        let callers: Vec<_> = slots.map(|slot| slot.flow.unwrap().1.as_str() == "back").collect();
        assert_eq!(callers.len(), 24);
        assert!(callers[0], "what it is owed comes first");
        assert!(callers.chunk_by(|a, b| a == b).all(|run| run.len() <= 2), "{callers:?}");
    }
}

/// A caller was refused ten times, and one is served whenever one of these comes back, though two
/// of them at most claim slots, and none does while one is late.
#[test]
fn whoever_was_refused_often_is_owed_as_many_turns() {
    for claims in [2, 1] {
        let mut pair = Pair::new(None);
        let back = |waiting: usize, left: usize| FlowDemand {
            waiting,
            returning: left.min(claims),
            kept: left.saturating_sub(claims),
            ..self::waiting("back", 1).remove(0)
        };
        let first = [waiting("other", 25), vec![back(0, 10)]].concat();
        assert_eq!(pair.slots(0, &first).len(), 25);
        let rest = FlowDemand {
            urgency: Urgency::new(0).unwrap(),
            ..waiting("rest", 24).remove(0)
        };
        let mut rest = pair.slots(0, &vec![rest, back(0, 10)]);
        assert_eq!(rest.len(), 24);
        for left in (0..10).rev() {
            let one = pair.slots(0, &[waiting("other", 12), vec![back(1, left)]].concat());
            assert_eq!(one.len(), 1, "there is room for one");
            let caller = &one[0].flow.as_ref().unwrap().1;
            assert_eq!(caller.as_str(), "back", "{left} are left");
            assert!(
                pair.slots(0, &[waiting("other", 12), vec![back(0, left)]].concat())
                    .is_empty()
            );
            pair.give_back(0, rest.remove(0));
        }
    }
}

/// A replica beside this one may run the script of an earlier version, which takes back what a
/// member told but for the places that it keeps. The caller is wanted elsewhere meanwhile.
#[test]
fn places_that_an_earlier_script_has_not_taken_back_are_owed_no_turns() {
    let earlier = ("-old.r, -old.a, -(old.x or 0))", "-old.r, -old.a)");
    let mut pair = Pair::new(Some(earlier));
    let back = |waiting: usize, kept: usize| FlowDemand {
        waiting,
        returning: 1,
        kept,
        ..self::waiting("back", 1).remove(0)
    };
    let asks_again = FlowDemand {
        asks_again: true,
        ..waiting("back", 1).remove(0)
    };
    pair.slots(
        1,
        &vec![FlowDemand {
            waiting: 0,
            ..asks_again
        }],
    );
    assert_eq!(
        pair.slots(0, &[waiting("other", 25), vec![back(0, 9)]].concat()).len(),
        25
    );
    pair.slots(0, &Vec::new());
    let slots = pair.slots(0, &[waiting("other", 12), vec![back(12, 0)]].concat());
    let callers: Vec<_> = slots
        .into_iter()
        .map(|slot| slot.flow.unwrap().1.as_str() == "back")
        .collect();
    assert_eq!(callers.len(), 24);
    assert!(callers.chunk_by(|a, b| a == b).all(|run| run.len() <= 2), "{callers:?}");
}

/// One is served first of two that are equal otherwise, callers of one class or of two classes, and
/// still is when it has made no call. Its replica tells that again when it does not hear the answer.
#[test]
fn a_slot_that_was_not_used_has_cost_its_caller_and_class_no_turn() {
    for classes in [[3, 3], [2, 3]] {
        let mut pair = Pair::new(None);
        let flows = |waiting: usize| -> Vec<_> {
            let flow = |(urgency, caller): (u8, &str)| FlowDemand {
                urgency: Urgency::new(urgency).unwrap(),
                ..self::waiting(caller, waiting).remove(0)
            };
            classes.into_iter().zip(["a", "b"]).map(flow).collect()
        };
        let rest = FlowDemand {
            urgency: Urgency::new(0).unwrap(),
            ..waiting("rest", 49).remove(0)
        };
        let mut rest = pair.slots(0, &vec![rest]);
        assert_eq!(rest.len(), 49);
        // There is room for one.
        let first = pair.slots(0, &flows(3)).pop().unwrap();
        pair.give_back(0, first.clone());
        let again = pair.slots(0, &flows(3)).pop().unwrap();
        assert_eq!(again.flow, first.flow, "{classes:?}");
        pair.give_back(0, rest.remove(0));
        let next = pair.slots(0, &flows(3)).pop().unwrap();
        assert_ne!(next.flow, first.flow, "{classes:?}: it has had a turn");
    }
}
