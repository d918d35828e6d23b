//! The rows of "too little for all" over four replicas: each with the queue that a gateway has, one
//! store, in virtual time.

use std::time::Duration;

use super::queue_fixture::{Asking, REPLICAS, SECOND, asking, crowd, row};

#[tokio::test(start_paused = true)]
async fn an_urgent_caller_of_one_replica_goes_before_those_of_all() {
    for (name, wait, most_of) in [("v1", 30, usize::MAX), ("v6", 3, 20)] {
        let a = asking("A", 0, wait, &[0]);
        let callers: Vec<_> = std::iter::once(a).chain(crowd(7)).collect();
        let books = row(name, &callers).await;
        let calls = books.calls(0);
        assert!(calls >= 450 && books.median(0) <= SECOND * 3, "{name}: {calls}");
        assert!(
            books.of[0].refused <= calls / most_of,
            "{name}: {} refused",
            books.of[0].refused
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_urgent_caller_goes_before_one_that_has_many_in_flight_at_all_replicas() {
    for (name, wait) in [("v2", 30), ("v4", 60)] {
        let many = Asking {
            in_flight: 20,
            ..asking("B", 7, 30, &[0, 1, 2, 3])
        };
        let books = row(name, &[asking("A", 0, wait, &[0]), many]).await;
        assert!(
            books.calls(0) >= 450 && books.median(0) <= SECOND * 3,
            "{name}: {}",
            books.calls(0)
        );
        assert_eq!(books.of[0].refused, 0, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_weight_is_worth_its_share_over_replicas() {
    let heavy = Asking {
        weight: 100,
        ..asking("A", 3, 30, &[0])
    };
    let callers: Vec<_> = std::iter::once(heavy).chain(crowd(3)).collect();
    let books = row("v5", &callers).await;
    assert!(books.calls(0) >= 450, "{}", books.calls(0));
}

#[tokio::test(start_paused = true)]
async fn who_asks_one_by_one_is_not_behind_one_that_asks_at_all_replicas_at_once() {
    let many = Asking {
        in_flight: 20,
        ..asking("B", 3, 10, &[1, 2, 3, 0])
    };
    let books = row("i1", &[asking("A", 3, 60, &[0]), many]).await;
    // What is left of the burst goes in the first second, while A's first call is on its way: it
    // does not ask then.
    let begun = books.calls[0].0 + SECOND * 4;
    let (mut ahead, mut worst) = (0_i32, 0);
    for (_, who) in books.calls.iter().filter(|(at, _)| *at > begun) {
        ahead += if *who == 0 { 1 } else { -1 };
        worst = worst.min(ahead);
    }
    assert!(worst >= -3, "A fell {worst} behind");
    assert_eq!(books.of[0].refused, 0);
}

#[tokio::test(start_paused = true)]
async fn an_urgent_tool_of_one_replica_has_its_turn_beside_an_exporter_at_all_within_two_slots() {
    let exporter = Asking {
        in_flight: 100,
        ..asking("exporter", 6, 300, &[0, 1, 2, 3])
    };
    let tool = Asking {
        pause: SECOND * 10,
        ..asking("A", 0, 2, &[0])
    };
    let books = row("trial", &[tool, exporter]).await;
    let (begun, slot) = (books.calls[0].0 + SECOND * 15, Duration::from_millis(2400));
    let waits = &books.of[0].turns;
    let slowest = waits
        .iter()
        .filter(|(at, _)| *at > begun)
        .map(|(_, wait)| *wait)
        .max()
        .unwrap();
    println!(
        "trial: {} requests of the tool, the slowest after {slowest:?}",
        waits.len()
    );
    assert!(waits.len() > 50 && slowest <= slot * 2 + SECOND, "{slowest:?}");
}

#[tokio::test(start_paused = true)]
async fn in_a_crowd_of_all_urgencies_over_replicas_each_class_has_its_share_and_nobody_nothing() {
    let waits = [2, 3, 5, 10, 20, 60];
    let crowd: Vec<_> = (0..20_u8)
        .map(|n| {
            let n = usize::from(n);
            asking(
                format!("c{n}"),
                u8::try_from(n % 8).unwrap(),
                waits[n * 5 % 6],
                &[n % REPLICAS],
            )
        })
        .collect();
    let books = row("mixed", &crowd).await;
    let mut classes = [0_usize; 8];
    for (_, who) in &books.calls {
        classes[usize::from(crowd[*who].urgency)] += 1;
    }
    println!("{classes:?}");
    let total: usize = classes.iter().sum();
    for (urgency, calls) in (0_u32..).zip(classes) {
        let share = total as f64 * f64::from(128_u32 >> urgency) / 255.0;
        assert!(
            calls as f64 >= share * 0.8 - 2.0,
            "class {urgency}: {calls} of {share:.1}"
        );
    }
    let starved: Vec<_> = (0..crowd.len()).filter(|who| books.calls(*who) == 0).collect();
    assert!(starved.is_empty(), "{starved:?} had nothing");
}
