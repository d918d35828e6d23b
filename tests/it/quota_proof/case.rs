//! One case of an upstream that refuses, and what came of it.

use std::fmt::Write as _;
use std::time::Duration;

use tokio::time::Instant;

use defender_gateway::testing::caller::Name;
use defender_gateway::testing::quota::Pacing;

use super::counting::{Counting, Form, Told};
use super::upstream::{Manners, Rng, Upstream};
use super::world::{Gateway, HOUR, MINUTE, Settings, wall};

pub(super) const FIVE: Duration = Duration::from_mins(5);
/// What refuses calls besides the limits: at which seconds, what it says, and how many calls at
/// most.
pub(super) type Storm = (u64, u64, Told, usize);

#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) hours: u32,
    pub(super) storms: &'static [Storm],
    pub(super) form: Form,
    /// The neighbour's calls an hour, at random moments, from one second to another.
    pub(super) neighbour: (u32, u64, u64),
    /// Calls of ours that are refused at random, whatever the limits say: what share, what is said,
    /// and until which second.
    pub(super) random: (f64, Told, u64),
    pub(super) pacing: Pacing,
    /// From which second on we have callers.
    pub(super) from: u64,
    /// Callers who always want more, or one who asks once a second.
    pub(super) saturated: bool,
    /// How many of the former there are.
    pub(super) callers: usize,
    pub(super) seed: u64,
}

pub(super) const ALONE: Case = Case {
    name: "alone",
    hours: 2,
    storms: &[],
    form: Form::Whole,
    neighbour: (0, 0, 0),
    random: (0.0, Told::BARE, 0),
    pacing: Pacing::Spread,
    from: 0,
    saturated: true,
    callers: 4,
    seed: 1,
};

/// What came of it.
pub(super) struct Outcome {
    pub(super) start: Instant,
    pub(super) ours: Vec<Instant>,
    pub(super) refused: Vec<Instant>,
    pub(super) theirs: Vec<Instant>,
    /// At the end of each minute: what the ledger and the estimate say of the last hour.
    pub(super) believed: Vec<(Instant, usize, u64)>,
}

pub(super) async fn live(case: Case) -> Outcome {
    let start = Instant::now();
    let at = move |seconds| start + Duration::from_secs(seconds);
    let (share, told, until) = case.random;
    let mut counting = Counting::new(case.form).at_random(share, told, at(until), case.seed);
    for &(from, to, told, most) in case.storms {
        counting = counting.storm(at(from), at(to), told, most);
    }
    let settings = Settings {
        pacing: case.pacing,
        ..Settings::default()
    };
    let upstream = Upstream::counting(Manners::GOOD, case.seed, counting);
    let gateway = Gateway::start(&upstream, &wall(), &settings);
    let (calls, from, to) = case.neighbour;
    if calls > 0 {
        let (upstream, mut rng) = (upstream.clone(), Rng::new(case.seed + 7));
        gateway.tasks.spawn("neighbour", async move {
            tokio::time::sleep_until(at(from)).await;
            while Instant::now() < at(to) {
                tokio::time::sleep(rng.gap(HOUR / calls)).await;
                upstream.counted(|counting| counting.theirs(Instant::now()));
            }
        });
    }
    let callers = if case.saturated { case.callers } else { 1 };
    for n in 0..callers {
        let gateway = gateway.clone();
        let every = Duration::from_secs(u64::from(!case.saturated));
        gateway.tasks.clone().spawn("caller", async move {
            let name = Name::new(&format!("caller {n}"));
            tokio::time::sleep_until(at(case.from)).await;
            let mut next = Instant::now();
            loop {
                next += every;
                if let Err(again) = gateway.ask(&name, 3, 2 * MINUTE).await {
                    tokio::time::sleep(again.min(Duration::from_secs(1))).await;
                }
                tokio::time::sleep_until(next).await;
            }
        });
    }
    let mut believed = Vec::new();
    while start.elapsed() < HOUR * case.hours {
        tokio::time::sleep(MINUTE).await;
        let snapshot = gateway.quota.snapshot();
        believed.push((Instant::now(), snapshot.windows[1].used, snapshot.foreign));
    }
    let outcome = upstream.counted(|counting| Outcome {
        start,
        ours: std::mem::take(&mut counting.ours),
        refused: std::mem::take(&mut counting.refused),
        theirs: std::mem::take(&mut counting.theirs),
        believed,
    });
    gateway.tasks.finish(Duration::ZERO).await;
    outcome
}

fn between(moments: &[Instant], from: Instant, to: Instant) -> usize {
    moments.iter().filter(|at| from <= **at && **at < to).count()
}

impl Outcome {
    pub(super) fn at(&self, seconds: u64) -> Instant {
        self.start + Duration::from_secs(seconds)
    }

    pub(super) fn hour(&self, of: &[Instant], hour: u32) -> usize {
        between(of, self.start + HOUR * hour, self.start + HOUR * (hour + 1))
    }

    /// Our accepted calls in the n-th five minutes from that second on, the first being 0.
    pub(super) fn fives(&self, from: u64, count: u32) -> Vec<usize> {
        let from = self.at(from);
        (0..count)
            .map(|n| between(&self.ours, from + FIVE * n, from + FIVE * (n + 1)))
            .collect()
    }

    /// The longest time without an accepted call of ours that began in that hour.
    pub(super) fn gap(&self, hour: u32) -> Duration {
        let hours = self.start + HOUR * hour..self.start + HOUR * (hour + 1);
        self.ours
            .windows(2)
            .filter(|pair| hours.contains(&pair[0]))
            .map(|pair| pair[1] - pair[0])
            .max()
            .unwrap_or(HOUR)
    }

    pub(super) fn longest_gap_since(&self, second: u64) -> Duration {
        let since = self.at(second);
        let pairs = self.ours.windows(2).filter(|pair| pair[0] >= since);
        pairs.map(|pair| pair[1] - pair[0]).max().unwrap_or(HOUR)
    }

    /// The first accepted call from that second on, and how much later it came.
    pub(super) fn first_after(&self, second: u64) -> Duration {
        let since = self.at(second);
        self.ours.iter().find(|at| **at >= since).map_or(HOUR, |at| *at - since)
    }

    pub(super) fn line(&self, case: &Case) -> String {
        let hours = 0..case.hours;
        let mut line = format!("{:<44}", case.name);
        for hour in hours {
            let (ours, theirs) = (self.hour(&self.ours, hour), self.hour(&self.theirs, hour));
            let _ = write!(
                line,
                " {ours:>4} + {theirs:<4} {:>2} refused, gap {:>4.0} s |",
                self.hour(&self.refused, hour),
                self.gap(hour).as_secs_f64()
            );
        }
        let _ = write!(
            line,
            " estimate {}",
            self.believed.last().map_or(0, |(.., foreign)| *foreign)
        );
        line
    }
}
