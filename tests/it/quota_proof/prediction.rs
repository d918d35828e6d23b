//! What the queue says at once, against what comes.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use defender_gateway::testing::caller::Name;
use defender_gateway::testing::queue::Reason;

use super::upstream::{Manners, Rng, Upstream};
use super::world::{Gateway, SLOT, Settings, each, tell, wall};

/// A caller's patience, unless it loses it.
const WAIT: Duration = Duration::from_mins(10);

/// How callers come.
#[derive(Clone, Copy, Debug)]
struct Demand {
    name: &'static str,
    callers: u32,
    /// What is asked for, in parts of what the quota gives: for twenty minutes, and for the next
    /// twenty.
    load: (f64, f64),
    /// Share of those who come with eight requests at once.
    bunches: f64,
    /// Whether each request has a random urgency.
    mixed: bool,
    /// Requests that wait already when all this begins.
    backlog: u32,
    wait: Duration,
    /// Share of requests whose caller leaves, at any moment while it may wait.
    impatient: f64,
    /// Goes on until so many have waited, for a day at most.
    waited: usize,
}

const RUSH: Demand = Demand {
    name: "rush hours, 1,000 callers",
    callers: 1000,
    load: (1.3, 0.56),
    bunches: 0.0,
    mixed: false,
    backlog: 0,
    wait: WAIT,
    impatient: 0.05,
    waited: 10_000,
};

fn demands() -> Vec<Demand> {
    let named = |name| Demand {
        name,
        waited: 2_000,
        ..RUSH
    };
    // What callers do who do not say how long they wait.
    let loads = |name| Demand {
        callers: 50,
        mixed: true,
        wait: Duration::from_secs(20),
        ..named(name)
    };
    vec![
        RUSH,
        Demand {
            load: (1.5, 0.36),
            ..named("harder rush hours")
        },
        Demand {
            callers: 200,
            ..named("rush hours, 200 callers")
        },
        Demand {
            callers: 20,
            ..named("rush hours, 20 callers")
        },
        Demand {
            load: (1.2, 0.1),
            bunches: 0.02,
            ..named("some with 8 at once")
        },
        Demand {
            mixed: true,
            ..named("mixed priorities")
        },
        Demand {
            impatient: 0.3,
            ..named("30 % leave")
        },
        Demand {
            load: (1.11, 1.11),
            ..named("overload 1.11")
        },
        Demand {
            load: (0.9, 0.9),
            ..loads("load 0.9, 20 s, mixed")
        },
        Demand {
            load: (1.1, 1.1),
            ..loads("load 1.1, 20 s, mixed")
        },
        Demand {
            load: (3.0, 3.0),
            ..loads("load 3, 20 s, mixed")
        },
        Demand {
            load: (1.0, 1.0),
            backlog: 10_000,
            wait: Duration::from_hours(9),
            waited: 10_000,
            ..named("10,000 at once")
        },
    ]
}

#[derive(Debug, Default)]
struct Book {
    waited: Vec<Waited>,
    refused: Vec<(Instant, Reason)>,
    /// Places that were taken back.
    displaced: usize,
    /// When somebody who waited left.
    left: Vec<Instant>,
    /// When a slot was there for somebody who came: nobody waited then.
    idle: Vec<Instant>,
}

#[derive(Debug)]
struct Waited {
    predicted: Instant,
    started: Instant,
    deadline: Instant,
}

/// A request of a caller that may lose patience.
async fn one(gateway: Gateway, book: Arc<Mutex<Book>>, demand: Demand, mut rng: Rng) {
    let entered = Instant::now();
    let name = Name::new(&format!("caller {}", rng.below(demand.callers)));
    let urgency = if demand.mixed { rng.below(8) } else { 3 };
    let attempt = gateway.attempt(&name, u8::try_from(urgency).unwrap(), demand.wait);
    let waiting = match gateway.queue.enter(&attempt) {
        Ok(waiting) => waiting,
        Err(refused) => {
            book.lock().unwrap().refused.push((entered, refused.reason));
            return;
        }
    };
    let predicted = waiting.predicted_start();
    let patience = if rng.chance(demand.impatient) {
        rng.up_to(demand.wait)
    } else {
        2 * demand.wait
    };
    let Ok(turn) = tokio::time::timeout(patience, waiting.turn()).await else {
        book.lock().unwrap().left.push(Instant::now());
        return;
    };
    let mut permit = match turn {
        Ok(permit) => permit,
        Err(refused) => {
            assert_eq!(refused.reason, Reason::Displaced, "let in, then refused: {refused:?}");
            book.lock().unwrap().displaced += 1;
            return;
        }
    };
    let started = Instant::now();
    let deadline = attempt.caller.deadline;
    {
        let mut book = book.lock().unwrap();
        if started == entered {
            book.idle.push(started);
        } else {
            book.waited.push(Waited {
                predicted,
                started,
                deadline,
            });
        }
    }
    permit.leave();
    tokio::time::sleep(rng.up_to(Duration::from_secs(1))).await;
    permit.settle();
}

/// Callers come at random, now more, now less than there are slots.
async fn crowd(demand: Demand, seed: u64) -> Book {
    let start = Instant::now();
    let gateway = Gateway::start(&Upstream::new(Manners::GOOD, seed), &wall(), &Settings::default());
    let book = Arc::<Mutex<Book>>::default();
    let mut rng = Rng::new(seed);
    let mut seeds = seed << 32;
    let mut come = |many: u32| {
        for _ in 0..many {
            seeds += 1;
            let one = one(gateway.clone(), Arc::clone(&book), demand, Rng::new(seeds));
            gateway.tasks.spawn("request", one);
        }
    };
    come(demand.backlog);
    // Where there are slots enough, hardly anybody ever waits.
    while book.lock().unwrap().waited.len() < demand.waited && start.elapsed() < Duration::from_hours(24) {
        let is_busy = (start.elapsed().as_secs() / 1200).is_multiple_of(2);
        let load = if is_busy { demand.load.0 } else { demand.load.1 };
        tokio::time::sleep(rng.gap(SLOT.div_f64(load))).await;
        come(if rng.chance(demand.bunches) { 8 } else { 1 });
    }
    // The clock that hands slots out is upkeep: it must live until everybody has had theirs.
    while gateway.queue.waiting() > 0 {
        tokio::time::sleep(SLOT).await;
    }
    gateway.tasks.finish(2 * demand.wait).await;
    std::mem::take(&mut *book.lock().unwrap())
}

fn slots(duration: Duration) -> f64 {
    duration.as_secs_f64() / SLOT.as_secs_f64()
}

/// In slots.
fn errors(book: &Book) -> Vec<f64> {
    let error = |waited: &Waited| slots(waited.started.max(waited.predicted) - waited.started.min(waited.predicted));
    let mut errors: Vec<f64> = book.waited.iter().map(error).collect();
    errors.sort_by(f64::total_cmp);
    errors
}

fn percentile(sorted: &[f64], share: usize) -> f64 {
    if sorted.is_empty() {
        return 0.0;
    }
    let rank = sorted.len() * share / 100;
    sorted[rank.min(sorted.len() - 1)].round()
}

#[test]
fn predictions_come_true_and_promises_are_kept() {
    let mut table = format!(
        "{:<24} {:>6} {:>7} {:>7} {:>9} {:>6} {:>6} {:>5} {:>5} {:>5}  {}\n",
        "demand",
        "waited",
        "at once",
        "refused",
        "displaced",
        "left",
        "median",
        "p90",
        "p99",
        "worst",
        "latest after deadline"
    );
    let mut wrong = Vec::new();
    for (demand, book) in each(&demands(), |demand| crowd(demand, 12)) {
        let errors = errors(&book);
        let [median, p90, p99, worst] = [50, 90, 99, 100].map(|share| percentile(&errors, share));
        let late = book
            .waited
            .iter()
            .filter_map(|waited| waited.started.checked_duration_since(waited.deadline));
        let latest = late.max().unwrap_or_default();
        let _ = writeln!(
            table,
            "{:<24} {:>6} {:>7} {:>7} {:>9} {:>6} {median:>6} {p90:>5} {p99:>5} {worst:>5}  {latest:?}",
            demand.name,
            book.waited.len(),
            book.idle.len(),
            book.refused.len(),
            book.displaced,
            book.left.len(),
        );
        // Whoever was let in was served or told that its place was taken back (see `one`), and no
        // later than timers are late.
        if latest > Duration::from_millis(50) {
            wrong.push(format!("{}: {latest:?} past the deadline", demand.name));
        }
        if demand.name == RUSH.name && (median > 0.0 || book.waited.len() < 10_000) {
            wrong.push(format!("the median error is {median} slots"));
        }
        wrong.extend(wrong_refusals(&demand, &book));
    }
    tell(&format!("predicted against real start, in slots\n{table}"));
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Refusals after which more slots went unused before the deadline than were kept free for the
/// other callers, or given up by those who left after the refusal.
fn wrong_refusals(demand: &Demand, book: &Book) -> Vec<String> {
    let wrong = book.refused.iter().filter_map(|(at, reason)| {
        let idle = book.idle.iter().find(|idle| *idle > at)?;
        let deadline = *at + demand.wait;
        let left_over = slots(deadline.checked_duration_since(*idle)?);
        let left = book.left.iter().filter(|left| (*at..*idle).contains(left)).count();
        let bound = f64::from(demand.callers.min(64)) + left as f64;
        (left_over > bound).then(|| format!("{reason:?} although {left_over} slots were left over; {left} had left"))
    });
    wrong.collect()
}
