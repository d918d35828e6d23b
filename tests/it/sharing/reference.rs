//! What calls could be made of by policies that are simulated whole: bounds for the gateway to be
//! measured against.
//!
//! Callers, questions and pauses are those that the gateway meets, and a call leaves at each of the
//! given moments.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, HashSet};
use std::time::Duration;

use super::saturated::{DEFINITIONS, Questions};

const TTL: f64 = 30.0;
const LATENCY: f64 = 0.3;
const MOST_IDS: usize = 100;

/// What a call asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    /// What those who wait lack, first come, first served.
    Greedy,
    /// The same; what room is left is filled with ids that are asked for often and are stale or
    /// will be before the next call.
    Renewing,
    /// The same; what room is left is filled with ids that will be asked for, and be stale then,
    /// before the next call.
    Clairvoyant,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    pub(super) waits: Vec<f64>,
    /// Waits that no caller would have had the patience for.
    pub(super) too_long: usize,
}

/// A caller whose question lacks these ids.
struct Waiting {
    caller: usize,
    asked: f64,
    lacks: BTreeSet<usize>,
}

struct World<'a> {
    callers: Vec<Questions<'a>>,
    /// When each caller asks next, in nanoseconds, and for what.
    coming: BinaryHeap<Reverse<(u64, usize)>>,
    questions: Vec<Vec<usize>>,
    fresh_until: Vec<f64>,
    waiting: Vec<Waiting>,
    in_flight: Vec<(f64, Vec<usize>)>,
    watched: (f64, f64),
    outcome: Outcome,
}

fn nanos(seconds: f64) -> u64 {
    u64::try_from(Duration::from_secs_f64(seconds).as_nanos()).unwrap()
}

impl World<'_> {
    /// The caller reads its answer, and asks again.
    fn answered(&mut self, caller: usize, at: f64) {
        let (pause, ids) = self.callers[caller].next();
        self.questions[caller] = ids;
        self.coming
            .push(Reverse((nanos(at) + nanos(pause.as_secs_f64()), caller)));
    }

    fn served(&mut self, caller: usize, asked: f64, at: f64) {
        if at >= self.watched.0 && at < self.watched.1 {
            self.outcome.waits.push(at - asked);
            self.outcome.too_long += usize::from(at - asked > 30.0);
        }
        self.answered(caller, at);
    }

    fn ask(&mut self, caller: usize, at: f64) {
        let ids = std::mem::take(&mut self.questions[caller]);
        let lacks: BTreeSet<usize> = ids.into_iter().filter(|id| self.fresh_until[*id] <= at).collect();
        if lacks.is_empty() {
            self.served(caller, at, at);
        } else {
            self.waiting.push(Waiting {
                caller,
                asked: at,
                lacks,
            });
        }
    }

    fn land(&mut self, at: f64, ids: &[usize]) {
        for id in ids {
            self.fresh_until[*id] = at + TTL;
        }
        for waiting in &mut self.waiting {
            for id in ids {
                waiting.lacks.remove(id);
            }
        }
        let (done, left) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|waiting| waiting.lacks.is_empty());
        self.waiting = left;
        let done: Vec<Waiting> = done;
        for waiting in done {
            self.served(waiting.caller, waiting.asked, at);
        }
    }

    /// Everything that happens before `until`.
    fn pass(&mut self, until: f64) {
        loop {
            let next = self.coming.peek().map(|Reverse((at, _))| *at as f64 / 1e9);
            let landing = self.in_flight.first().map(|(at, _)| *at);
            match (next, landing) {
                (next, Some(landing)) if landing < until && next.is_none_or(|next| landing <= next) => {
                    let (at, ids) = self.in_flight.remove(0);
                    self.land(at, &ids);
                }
                (Some(next), _) if next < until => {
                    let Some(Reverse((_, caller))) = self.coming.pop() else {
                        return;
                    };
                    self.ask(caller, next);
                }
                _ => return,
            }
        }
    }

    fn call(&mut self, policy: Policy, at: f64, next_call: f64) {
        let flying: HashSet<usize> = self.in_flight.iter().flat_map(|(_, ids)| ids.iter().copied()).collect();
        let (mut ids, mut taken) = (Vec::new(), HashSet::new());
        let mut take = |id: usize| {
            if ids.len() < MOST_IDS && !flying.contains(&id) && taken.insert(id) {
                ids.push(id);
            }
        };
        self.waiting
            .iter()
            .flat_map(|waiting| waiting.lacks.iter().copied())
            .for_each(&mut take);
        let lands_next = next_call + LATENCY;
        match policy {
            Policy::Greedy => {}
            // The lower the number, the more popular.
            Policy::Renewing => (0..DEFINITIONS as usize)
                .filter(|id| self.fresh_until[*id] > 0.0 && self.fresh_until[*id] < lands_next)
                .for_each(&mut take),
            Policy::Clairvoyant => {
                let mut soon: HashMap<usize, u64> = HashMap::new();
                for Reverse((when, caller)) in &self.coming {
                    for id in &self.questions[*caller] {
                        let when = *when;
                        soon.entry(*id)
                            .and_modify(|known| *known = when.min(*known))
                            .or_insert(when);
                    }
                }
                let mut soon: Vec<_> = soon.into_iter().map(|(id, when)| (when, id)).collect();
                soon.sort_unstable();
                let lacking = |(when, id): &(u64, usize)| {
                    let when = *when as f64 / 1e9;
                    when < lands_next && self.fresh_until[*id] <= when
                };
                soon.iter().filter(|one| lacking(one)).for_each(|(_, id)| take(*id));
            }
        }
        if !ids.is_empty() {
            self.in_flight.push((at + LATENCY, ids));
        }
    }
}

/// Lets callers ask while calls leave at these moments, in seconds from the start; counts what is
/// answered within `watched`.
pub(super) fn simulate(policy: Policy, callers: Vec<Questions<'_>>, calls: &[f64], watched: (f64, f64)) -> Outcome {
    let count = callers.len();
    let mut world = World {
        callers,
        coming: BinaryHeap::new(),
        questions: vec![Vec::new(); count],
        fresh_until: vec![0.0; DEFINITIONS as usize],
        waiting: Vec::new(),
        in_flight: Vec::new(),
        watched,
        outcome: Outcome::default(),
    };
    for caller in 0..count {
        world.answered(caller, 0.0);
    }
    for (nth, at) in calls.iter().enumerate() {
        world.pass(*at);
        world.call(policy, *at, calls.get(nth + 1).copied().unwrap_or(at + 60.0));
    }
    world.pass(watched.1);
    world.outcome
}
