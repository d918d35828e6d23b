//! The forecast against what comes, whether or not somebody looked in between.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use tokio::time::Instant;

use super::*;
use crate::quota::Forecast;
use crate::quota::ledger::Charge;
use crate::quota::state::QuotaState;

/// A quota in use: calls are answered within a second.
struct World {
    quota_state: QuotaState,
    answers: BinaryHeap<Reverse<(Instant, Charge)>>,
    rng: Rng,
}

impl World {
    /// Hands in the answers that have come, makes a call if one may go; says when to look again.
    fn step(&mut self, now: Instant, wanted: bool) -> (bool, Option<Instant>) {
        while let Some(Reverse((at, charge))) = self.answers.peek().copied().filter(|Reverse((at, _))| *at <= now) {
            self.answers.pop();
            self.quota_state.settle(charge, at);
        }
        let next_answer = self.answers.peek().map(|Reverse((at, _))| *at);
        if !wanted {
            return (false, next_answer);
        }
        match self.quota_state.take(now) {
            Ok(charge) => {
                let took = self.rng.up_to(Duration::from_secs(1));
                self.answers.push(Reverse((now + took, charge)));
                (true, None)
            }
            Err(at) => (false, at.into_iter().chain(next_answer).min()),
        }
    }
}

/// Calls at random moments for `hours`, at `load` times the sustained rate.
fn use_for(world: &mut World, start: Instant, hours: f64, load: f64) -> Instant {
    let end = start + HOUR.mul_f64(hours);
    let mut now = start;
    while now < end {
        let gap = -world.rng.roll().max(1e-9).ln() * 2.4 / load;
        now += Duration::from_secs_f64(gap);
        let mut at = now;
        loop {
            match world.step(at, true) {
                (true, _) => break,
                (false, next) => at = next.unwrap().max(at + Duration::from_micros(1)),
            }
        }
        now = at;
    }
    now
}

#[test]
fn slots_come_no_later_than_forecast() {
    let mut latest = Duration::ZERO;
    for seed in 0..40 {
        let start = Instant::now();
        let quota_state = QuotaState::new(&documented(), start);
        let mut world = World {
            quota_state,
            answers: BinaryHeap::new(),
            rng: Rng::new(seed + 1),
        };
        let load = [0.5, 0.9, 0.97, 1.0, 1.2][usize::try_from(seed % 5).unwrap()];
        let mut now = use_for(&mut world, start, 1.0 + 2.0 * world_roll(seed), load);
        world.step(now, false);
        let mut forecast = Forecast::new(&world.quota_state, now);
        for slot in 0..150 {
            let foretold = forecast.next_slot();
            loop {
                match world.step(now, true) {
                    (true, _) => break,
                    (false, next) => now = next.unwrap().max(now + Duration::from_micros(1)),
                }
            }
            let late = now.saturating_duration_since(foretold);
            if late > Duration::from_millis(100) {
                println!("seed {seed} load {load} slot {slot}: {late:?} late");
            }
            latest = latest.max(late);
        }
    }
    assert!(latest <= Duration::from_millis(50), "{latest:?} later than forecast");
}

fn world_roll(seed: u64) -> f64 {
    Rng::new(seed + 1000).roll()
}

#[test]
fn who_comes_back_when_told_finds_the_slot_after_any_history() {
    for seed in 1..200 {
        let mut rng = Rng::new(seed);
        let limits = vec![limit(5, Duration::from_secs(2)), limit(20, Duration::from_secs(20))];
        let config = Config::try_new(limits, NonZeroU32::new(5).unwrap(), TIMEOUT).unwrap();
        let mut now = Instant::now();
        let mut quota_state = QuotaState::new(&config, now);
        for _ in 0..60 {
            let charge = quota_state.take(now).unwrap_or_else(|_| {
                now = Forecast::new(&quota_state, now).next_slot();
                quota_state
                    .take(now)
                    .unwrap_or_else(|at| panic!("seed {seed}: not at {now:?}, but {at:?}"))
            });
            quota_state.settle(charge, now);
            if rng.chance(0.2) {
                now += rng.up_to(Duration::from_secs(8));
            }
        }
    }
}

#[test]
fn a_window_that_was_used_up_in_a_burst_is_shared_out_from_its_return_on() {
    let limits = vec![limit(5, Duration::from_secs(5))];
    let config = Config::try_new(limits, NonZeroU32::new(5).unwrap(), TIMEOUT).unwrap();
    let start = Instant::now();
    let mut quota_state = QuotaState::new(&config, start);
    for _ in 0..5 {
        let charge = quota_state.take(start).unwrap();
        quota_state.settle(charge, start);
    }
    assert!(quota_state.take(start).is_err());
    // All five return after five seconds; one is ready then, and from then on there is one per
    // second.
    let later = start + Duration::from_millis(8_200);
    let taken = std::iter::from_fn(|| quota_state.take(later).ok()).count();
    assert_eq!(taken, 4);
}

/// Calls that are answered after four seconds.
#[derive(Clone)]
struct SlowUpstream {
    quota_state: QuotaState,
    in_flight: Vec<(Instant, Charge)>,
}

impl SlowUpstream {
    const TAKES: Duration = Duration::from_secs(4);

    /// Answers what is due, then makes a call if one may go; otherwise says when to look again.
    fn call(&mut self, now: Instant) -> Result<(), Instant> {
        while self.in_flight.first().is_some_and(|(at, _)| *at <= now) {
            let (at, charge) = self.in_flight.remove(0);
            self.quota_state.settle(charge, at);
        }
        let next_answer = self.in_flight.first().map(|(at, _)| *at);
        match self.quota_state.take(now) {
            Ok(charge) => {
                self.in_flight.push((now + Self::TAKES, charge));
                Ok(())
            }
            Err(at) => Err(at.into_iter().chain(next_answer).min().unwrap()),
        }
    }

    /// Makes a call as soon as one may go; returns when.
    fn next_call(&mut self, mut now: Instant) -> Instant {
        while let Err(at) = self.call(now) {
            now = at.max(now + Duration::from_micros(1));
        }
        now
    }
}

#[test]
fn a_forecast_knows_that_calls_start_slowly_after_a_pause() {
    let mut now = Instant::now();
    let mut upstream = SlowUpstream {
        quota_state: QuotaState::new(&documented(), now),
        in_flight: Vec::new(),
    };
    for _ in 0..60 {
        now = upstream.next_call(now) + SlowUpstream::TAKES;
    }
    upstream.next_call(now);
    let (mut now, refused) = upstream.in_flight.pop().unwrap();
    upstream.quota_state.throttled(refused, said(MINUTE, 8), now);
    // While all pause, while the probe is under way, and with one, six and twenty calls of the slow
    // start.
    for calls in [0, 1, 1, 5, 14] {
        for _ in 0..calls {
            now = upstream.next_call(now);
        }
        let (mut forecast, mut upstream, mut now) = (Forecast::new(&upstream.quota_state, now), upstream.clone(), now);
        for slot in 0..50 {
            now = upstream.next_call(now);
            let foretold = forecast.next_slot();
            let early = now.saturating_duration_since(foretold);
            let late = foretold.saturating_duration_since(now);
            assert!(
                early <= Duration::from_millis(50) && late <= Duration::from_millis(200),
                "{calls} calls: slot {slot} comes {early:?} later or {late:?} sooner than forecast"
            );
        }
    }
}
