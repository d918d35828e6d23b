//! How much is made of each call, beside what could be made of it at most. In virtual time; printed
//! as a table.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::Instant;

use super::reference::{self, Policy, simulate};
use super::saturated::{Habit, LIMITS, Questions, Tally, caller, zipf};
use super::stack_fixture::{Arrival, Layout, Sharing, StackFixture, StaleAnswers};

/// From the start to the end of the time watched, in seconds.
type Watched = (f64, f64);

/// One line of the table.
#[derive(Clone, Copy, Debug)]
struct Row {
    served_per_hour: f64,
    per_call: f64,
    mean_wait: f64,
    refused: usize,
}

impl Row {
    fn new(waits: &[f64], refused: usize, calls: usize, watched: Watched) -> Self {
        let served = waits.len() as f64;
        Self {
            served_per_hour: served * 3600.0 / (watched.1 - watched.0),
            per_call: served / calls as f64,
            mean_wait: waits.iter().sum::<f64>() / served,
            refused,
        }
    }

    fn write(&self, table: &mut String, name: &str) {
        let Self {
            served_per_hour,
            per_call,
            mean_wait,
            refused,
        } = self;
        writeln!(
            table,
            "{name:<44} {served_per_hour:>9.0}/h  {per_call:>6.1} a call  {mean_wait:>5.2} s  {refused:>6} refused"
        )
        .unwrap();
    }
}

/// The gateway's row and those of the policies, the greedy one first, with its calls spread evenly.
struct Measured {
    gateway: Row,
    /// How many ids were asked for again too early.
    repeated: usize,
    policies: Vec<Row>,
    table: String,
}

async fn measure(callers: u64, watched: Watched) -> Measured {
    measure_within(&LIMITS, (Habit::Varied, callers), watched).await
}

async fn measure_within(limits: &[(u32, u64)], (habit, callers): (Habit, u64), watched: Watched) -> Measured {
    let zipf = Arc::new(zipf());
    let stack_fixture = StackFixture::with(Sharing::Merge, limits, StaleAnswers::Off, Layout::Compact);
    let start = Instant::now();
    let (from, until) = (
        start + Duration::from_secs_f64(watched.0),
        start + Duration::from_secs_f64(watched.1),
    );
    let questions = |n| Questions::new(habit, n, &zipf);
    let tallies = (0..callers).map(|n| caller(&stack_fixture, questions(n), n, from, until));
    let tallies: Vec<Tally> = join_all(tallies).await;
    let refused = tallies.iter().map(|tally| tally.refused).sum();
    let waits: Vec<f64> = tallies
        .iter()
        .flat_map(|tally| tally.answered.iter().map(Duration::as_secs_f64))
        .collect();
    let calls = stack_fixture.arrivals.lock().unwrap();
    let repeated = repeated(&calls);
    let calls: Vec<f64> = calls.iter().map(|call| (call.at - start).as_secs_f64()).collect();
    let in_time = calls.iter().filter(|at| **at >= watched.0 && **at < watched.1).count();
    let seconds = watched.1 - watched.0;
    let mut table = format!(
        "{callers} callers, {habit:?}, {in_time} calls in {seconds:.0} s; {repeated} ids again before half their ttl\n"
    );
    let gateway = Row::new(&waits, refused, in_time, watched);
    let interval = (watched.1 - watched.0) / in_time as f64;
    let before = (watched.0 / interval).floor();
    let next = |at: &f64| Some(at + interval).filter(|at| *at < watched.1);
    let even: Vec<f64> = std::iter::successors(Some(watched.0 - before * interval), next).collect();
    let policies = [
        ("clairvoyant", Policy::Clairvoyant),
        ("greedy, room filled with popular ids", Policy::Renewing),
        ("greedy", Policy::Greedy),
    ];
    let policies: Vec<Row> = policies
        .into_iter()
        .map(|(name, policy)| {
            let reference::Outcome { waits, too_long } =
                simulate(policy, (0..callers).map(questions).collect(), &even, watched);
            let row = Row::new(&waits, too_long, in_time, watched);
            row.write(&mut table, name);
            row
        })
        .collect();
    gateway.write(&mut table, "this gateway");
    Measured {
        gateway,
        repeated,
        policies,
        table,
    }
}

/// How often a call asked for an id whose rows had come less than half the time ago for which they
/// are fresh. They could have been joined with those that were missing.
fn repeated(calls: &[Arrival]) -> usize {
    let mut asked: HashMap<&str, Instant> = HashMap::new();
    let mut repeated = 0;
    for call in calls {
        for id in &call.ids {
            let before = asked.insert(id, call.at);
            repeated += usize::from(before.is_some_and(|before| call.at - before < Duration::from_secs(15)));
        }
    }
    repeated
}

/// At least so many times what greedy batches serve with as many calls, and that share of what a
/// clairvoyant serves.
fn assert_served(measured: &Measured, greedy: f64, clairvoyant: f64) {
    println!("{}", measured.table);
    let served = measured.gateway.served_per_hour;
    let [best, _, batches] = measured.policies[..] else {
        unreachable!("three policies are simulated")
    };
    assert!(served >= greedy * batches.served_per_hour, "{}", measured.table);
    assert!(served >= clairvoyant * best.served_per_hour, "{}", measured.table);
    assert_eq!(measured.gateway.refused, 0, "{}", measured.table);
}

#[tokio::test(start_paused = true)]
async fn two_hundred_callers() {
    // Over so short a time either is off by a hundredth.
    assert_served(&measure(200, (60.0, 180.0)).await, 1.03, 0.88);
}

#[tokio::test(start_paused = true)]
#[ignore = "computes for minutes; the short forms run"]
async fn two_hundred_callers_for_half_an_hour() {
    assert_served(&measure(200, (60.0, 1800.0)).await, 1.04, 0.88);
}

#[tokio::test(start_paused = true)]
async fn who_is_many_is_not_refused() {
    let measured = measure(500, (0.0, 60.0)).await;
    println!("{}", measured.table);
    assert_eq!(measured.gateway.refused, 0, "{}", measured.table);
}

/// Whoever has to wait does so for little longer than in greedy batches, and nobody is refused whom
/// they serve.
fn assert_waits(measured: &Measured, times: f64) {
    let Measured {
        gateway,
        repeated,
        policies,
        table,
    } = measured;
    println!("{table}");
    let greedy = policies[2];
    assert!(gateway.mean_wait <= times * greedy.mean_wait, "{table}");
    assert!(gateway.refused <= greedy.refused, "{table}");
    // A few, by the calls of a burst, before the answer of the one before is there.
    assert!(*repeated <= 100, "{table}");
}

#[tokio::test(start_paused = true)]
async fn six_hundred_callers_and_a_call_every_three_seconds() {
    assert_waits(
        &measure_within(&[(1, 3)], (Habit::Varied, 600), (30.0, 90.0)).await,
        1.05,
    );
}

#[tokio::test(start_paused = true)]
#[ignore = "computes for minutes; the short forms run"]
async fn a_thousand_callers() {
    assert_waits(&measure(1_000, (300.0, 480.0)).await, 1.1);
}

/// Callers that ask at regular times are foreseen, where calls have little room to spare: they
/// hardly wait, and nearly as many are served as by a clairvoyant.
#[tokio::test(start_paused = true)]
async fn five_hundred_regular_callers_and_a_call_every_eight_seconds() {
    let measured = measure_within(&[(1, 8)], (Habit::Regular, 500), (600.0, 900.0)).await;
    assert_served(&measured, 1.03, 0.98);
    let (gateway, greedy) = (measured.gateway, measured.policies[2]);
    assert!(gateway.mean_wait <= 0.2 * greedy.mean_wait, "{}", measured.table);
}

#[tokio::test(start_paused = true)]
async fn the_first_minute() {
    let measured = measure(200, (0.0, 60.0)).await;
    println!("{}", measured.table);
    let Row {
        served_per_hour,
        refused,
        ..
    } = measured.gateway;
    let served = served_per_hour / 60.0;
    assert!(refused as f64 <= 0.05 * (served + refused as f64), "{}", measured.table);
}

/// A hundred callers with five questions each, one after the other, over 400 definitions that
/// nobody has asked for yet.
async fn cold(layout: Layout) -> (usize, usize) {
    let stack_fixture = StackFixture::with(Sharing::MergeBlind, &[(10, 1), (100, 60)], StaleAnswers::Off, layout);
    let stack_fixture = &stack_fixture;
    let callers = (0..100_u64).map(|n| async move {
        let mut rng = StdRng::seed_from_u64(n);
        let mut answered = 0;
        for _ in 0..5 {
            let count = rng.random_range(1..=3);
            let ids: Vec<String> = (0..count).map(|_| format!("id{}", rng.random_range(0..400))).collect();
            answered += usize::from(stack_fixture.ask(&format!("caller-{n}"), &ids).await.is_ok());
        }
        answered
    });
    let answered = join_all(callers).await.into_iter().sum();
    let calls = stack_fixture.arrivals.lock().unwrap();
    (answered, calls.len())
}

#[tokio::test(start_paused = true)]
async fn nothing_known_at_first() {
    for layout in [Layout::Compact, Layout::Pretty] {
        let (answered, calls) = cold(layout).await;
        println!("{layout:?}: {answered} of 500 answered with {calls} calls");
        assert_eq!(answered, 500);
        assert!(calls <= 20, "{calls} calls");
    }
}
