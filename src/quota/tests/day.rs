//! Twenty-four hours of demand, counted where the upstream counts.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use tokio::time::Instant;

use super::*;
use crate::quota::ledger::Charge;
use crate::quota::state::QuotaState;
use crate::quota::throttle_hint::ThrottleHint;

/// How a day goes.
struct Scenario {
    name: &'static str,
    /// Seconds of demand, then seconds without, over and over.
    on_off: (u64, u64),
    /// Longest time from issue to answer; the arrival lies anywhere between.
    latency: Duration,
    /// Share of calls whose answer never comes.
    lost: f64,
    /// Share of calls of which no byte is written.
    unsent: f64,
    /// Share of calls that the upstream refuses for no reason of ours.
    refused: f64,
    /// Seconds between restarts that remember every charge; 0 for none.
    restart: u64,
}

const CALM: Scenario = Scenario {
    name: "saturated",
    on_off: (86_400, 0),
    latency: Duration::from_millis(400),
    lost: 0.0,
    unsent: 0.0,
    refused: 0.0,
    restart: 0,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Answer(Charge),
    Refusal(Charge),
    Restart,
}

const DAY: Duration = Duration::from_hours(24);

/// A day under way.
struct Day<'a> {
    scenario: &'a Scenario,
    rng: Rng,
    quota_state: QuotaState,
    events: BinaryHeap<Reverse<(Instant, Event)>>,
    /// What a state file would hold: when each charge of each process counts as made, as far as
    /// known.
    remembered: BTreeMap<(u32, Charge), Instant>,
    process: u32,
    start: Instant,
    arrivals: Vec<Instant>,
    departures: Vec<Instant>,
}

fn run(scenario: &Scenario, seed: u64) -> Day<'_> {
    let start = Instant::now();
    let mut day = Day {
        scenario,
        rng: Rng::new(seed),
        quota_state: QuotaState::new(&documented(), start),
        events: BinaryHeap::new(),
        remembered: BTreeMap::new(),
        process: 0,
        start,
        arrivals: Vec::new(),
        departures: Vec::new(),
    };
    if scenario.restart > 0 {
        day.events
            .push(Reverse((start + Duration::from_secs(scenario.restart), Event::Restart)));
    }
    let mut now = start;
    while now < start + DAY {
        while let Some(Reverse((at, event))) = day.events.peek().copied().filter(|Reverse((at, _))| *at <= now) {
            day.events.pop();
            day.happen(event, at);
        }
        now = day.call_or_wait(now);
    }
    day.arrivals.sort();
    day
}

impl Day<'_> {
    fn happen(&mut self, event: Event, at: Instant) {
        match event {
            Event::Answer(charge) => {
                self.quota_state.settle(charge, at);
                self.remembered.insert((self.process, charge), at);
            }
            Event::Refusal(charge) => {
                let wait = self.rng.up_to(MINUTE);
                self.quota_state.throttled(
                    charge,
                    ThrottleHint {
                        window: Some(MINUTE),
                        wait: Some(wait),
                    },
                    at,
                );
                self.remembered.insert((self.process, charge), at);
            }
            Event::Restart => {
                self.process += 1;
                self.remembered.retain(|_, made| *made + 2 * HOUR > at);
                let mut past: Vec<Instant> = self.remembered.values().map(|made| (*made).min(at + TIMEOUT)).collect();
                past.sort();
                let bucket = (at, self.quota_state.pace.filling(at));
                self.quota_state = QuotaState::resume(&documented(), &past, Some(bucket), at);
                // Answers to the old process reach nobody.
                self.events.clear();
                self.events.push(Reverse((
                    at + Duration::from_secs(self.scenario.restart),
                    Event::Restart,
                )));
            }
        }
    }

    /// Makes the call that may go now, or says when to look again.
    fn call_or_wait(&mut self, now: Instant) -> Instant {
        let (on, off) = self.scenario.on_off;
        let cycle = (on + off) as f64;
        let phase = (now - self.start).as_secs_f64() % cycle;
        let ready = if phase < on as f64 {
            self.quota_state.take(now)
        } else {
            Err(None)
        };
        match ready {
            Ok(charge) => {
                self.departures.push(now);
                self.send(charge, now);
                now
            }
            Err(at) => {
                let next_cycle = now + Duration::from_secs_f64((cycle - phase).max(0.001));
                let event = self.events.peek().map(|Reverse((at, _))| *at);
                let next = [at, event, self.quota_state.next_timeout()]
                    .into_iter()
                    .flatten()
                    .min()
                    .unwrap_or(next_cycle);
                next.min(next_cycle).max(now + Duration::from_micros(1))
            }
        }
    }

    fn send(&mut self, charge: Charge, now: Instant) {
        if self.rng.chance(self.scenario.unsent) {
            self.quota_state.refund(charge, now);
            return;
        }
        self.remembered.insert((self.process, charge), now + TIMEOUT);
        let took = self.rng.up_to(self.scenario.latency);
        self.arrivals.push(now + self.rng.up_to(took));
        if self.rng.chance(self.scenario.lost) {
            return;
        }
        let refused = self.rng.chance(self.scenario.refused);
        let event = if refused {
            Event::Refusal(charge)
        } else {
            Event::Answer(charge)
        };
        self.events.push(Reverse((now + took, event)));
    }
}

fn longest_gap(departures: &[Instant]) -> Duration {
    departures
        .windows(2)
        .map(|pair| pair[1] - pair[0])
        .max()
        .unwrap_or_default()
}

#[test]
fn no_window_is_exceeded_in_any_day() {
    let second = Duration::from_secs(1);
    let scenarios = [
        CALM,
        Scenario {
            name: "slow answers",
            latency: 10 * second,
            ..CALM
        },
        Scenario {
            name: "up to the timeout",
            latency: TIMEOUT,
            ..CALM
        },
        Scenario {
            name: "on/off 20/40 min",
            on_off: (1200, 2400),
            ..CALM
        },
        Scenario {
            name: "on/off 3/5 min",
            on_off: (180, 300),
            ..CALM
        },
        Scenario {
            name: "on/off 60/10 min",
            on_off: (3600, 600),
            ..CALM
        },
        Scenario {
            name: "answers lost",
            latency: 2 * second,
            lost: 0.05,
            unsent: 0.05,
            ..CALM
        },
        Scenario {
            name: "random 429",
            refused: 0.01,
            ..CALM
        },
        Scenario {
            name: "restarts",
            restart: 240,
            latency: 2 * second,
            lost: 0.01,
            ..CALM
        },
    ];
    println!(
        "{:<18} {:>8} {:>10} {:>12} {:>9} {:>9}",
        "day", "calls", "most in 1m", "most in 1h", "used", "gap"
    );
    for scenario in &scenarios {
        for seed in 1..=2 {
            let outcome = run(scenario, seed);
            let (minute, hour) = (
                most_in_any(MINUTE, &outcome.arrivals),
                most_in_any(HOUR, &outcome.arrivals),
            );
            let used = outcome.arrivals.len() as f64 / (1500.0 * 24.0);
            let gap = longest_gap(&outcome.departures);
            println!(
                "{:<18} {:>8} {minute:>10} {hour:>12} {:>8.2}% {:>8.1}s",
                scenario.name,
                outcome.arrivals.len(),
                used * 100.0,
                gap.as_secs_f64()
            );
            assert!(
                minute <= 100 && hour <= 1500,
                "{}: {minute} in a minute, {hour} in an hour",
                scenario.name
            );
        }
    }
}

#[test]
fn a_saturated_day_uses_the_quota_and_never_pauses_for_longer_than_a_minute() {
    for seed in 3..=5 {
        let outcome = run(&CALM, seed);
        // The steady state: after the first hour, in which the empty past gave a hundred calls
        // extra.
        let counted = outcome
            .arrivals
            .iter()
            .filter(|at| **at - outcome.start >= HOUR)
            .count();
        let used = counted as f64 / (1500.0 * 23.0);
        assert!(used >= 0.995, "{used}");
        assert!(longest_gap(&outcome.departures) <= Duration::from_secs(61));
    }
}

#[test]
fn a_quiet_gateway_lets_a_burst_go_at_once() {
    let start = Instant::now();
    let mut quota_state = QuotaState::new(&documented(), start);
    for round in 0..5_u32 {
        let now = start + 2 * HOUR * round;
        let burst = std::iter::from_fn(|| quota_state.take(now).ok()).count();
        assert_eq!(burst, 100, "round {round}");
    }
}
