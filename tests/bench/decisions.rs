//! What a decision costs: `cargo bench --bench decisions`.
//!
//! Everything in one run on one core, and governor's own check beside it, so that the ratios mean
//! something on any machine. Time is passed in, not read, except where governor and the queue read
//! it themselves.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark that cannot go on stops, and prints what it found"
)]

use std::collections::VecDeque;
use std::future::Future;
use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use defender_gateway::testing::attempt::{Attempt, QueuePosition, Retries};
use defender_gateway::testing::caller::{CacheDirectives, Caller, Name, RequestId, Urgency};
use defender_gateway::testing::queue::{self, CallerLimiter, FairScheduler, PermitSource, Queue, Ticket, Weights};
use defender_gateway::testing::quota::{Config, Forecast, Ledger, Limit, QuotaState};
use defender_gateway::testing::scan::{Endpoint, Request};
use defender_gateway::testing::task::Tasks;

/// Runs of which the fastest counts: the others were disturbed.
const RUNS: u32 = 7;

const SECOND: Duration = Duration::from_secs(1);
/// The time between two calls at 1,500 an hour, and a little more.
const SLOT: Duration = Duration::from_millis(2401);

/// Nanoseconds per step of the fastest run.
fn time(steps: u32, mut run: impl FnMut(u32)) -> f64 {
    let once = |run: &mut dyn FnMut(u32)| {
        let begun = Instant::now();
        (0..steps).for_each(&mut *run);
        begun.elapsed().as_secs_f64() * 1e9 / f64::from(steps)
    };
    (0..RUNS).map(|_| once(&mut run)).fold(f64::INFINITY, f64::min)
}

fn limits() -> Vec<Limit> {
    let limit = |calls, secs| Limit::try_new(NonZeroU32::new(calls).unwrap(), Duration::from_secs(secs)).unwrap();
    vec![limit(100, 60), limit(1500, 3600)]
}

/// A ledger in its steady state: full, a call leaves the hour as another comes.
fn ledger() -> f64 {
    let mut ledger = Ledger::new(limits(), 60 * SECOND);
    let mut now = Instant::now();
    let mut decide = |_| {
        now += SLOT;
        ledger.sweep(now);
        assert!(ledger.opening(now).is_some_and(|at| at <= now));
        let charge = ledger.issue(now);
        ledger.settle(charge, now);
    };
    (0..3000).for_each(&mut decide);
    time(20_000, decide)
}

fn account() -> (QuotaState, Instant) {
    let burst = NonZeroU32::new(100).unwrap();
    let mut now = Instant::now();
    let mut account = QuotaState::new(&Config::try_new(limits(), burst, 60 * SECOND).unwrap(), now);
    for _ in 0..6000 {
        now = call(&mut account, now);
    }
    (account, now)
}

/// One call as soon as it may go, answered after a while.
fn call(account: &mut QuotaState, mut now: Instant) -> Instant {
    loop {
        match account.take(now) {
            Ok(charge) => {
                account.settle(charge, now + SECOND / 5);
                return now + SECOND / 5;
            }
            Err(at) => now = at.unwrap(),
        }
    }
}

/// Ledger and bucket together, saturated, looks in between included.
fn whole_account() -> f64 {
    let (mut account, mut now) = account();
    time(20_000, |_| now = call(&mut account, now))
}

/// Per slot of a forecast for everybody who may wait, saturated.
fn forecast() -> f64 {
    const SLOTS: u32 = 414;
    let (account, now) = account();
    let whole = time(50, |_| {
        let mut forecast = Forecast::new(&account, now);
        for _ in 0..SLOTS {
            let _ = black_box(forecast.next_slot());
        }
    });
    whole / f64::from(SLOTS)
}

/// The fair order with 10,000 waiting of 1,000 callers: choose, serve, and let the next one in.
fn order() -> f64 {
    let base = Instant::now();
    let names: Vec<Name> = (0..1000).map(|n| Name::new(&format!("caller {n}"))).collect();
    let mut order = FairScheduler::new(Weights::default());
    let ticket = |id: u64, caller: Name| Ticket {
        id,
        caller,
        urgency: Urgency::default(),
        deadline: base + SLOT * u32::try_from(id).unwrap(),
    };
    for id in 0..10_000_u64 {
        order.add(ticket(id, names[usize::try_from(id % 1000).unwrap()].clone()));
    }
    let mut next = 10_000;
    time(20_000, |_| {
        let served = order.next().unwrap().id;
        let served = order.serve(served).unwrap();
        order.add(ticket(next, served.caller));
        next += 1;
    })
}

/// One slot every so often, for ever; a step of the clock hands out exactly one.
#[derive(Debug)]
struct Metronome {
    first: Instant,
}

#[derive(Debug)]
struct Beat;

impl PermitSource for Metronome {
    type Permit = Beat;

    fn take(&self, _: Instant) -> Result<Beat, Option<Instant>> {
        Err(Some(self.first))
    }

    fn forecast(&self, _: Instant, count: usize, slots: &mut VecDeque<Instant>) {
        slots.extend((0..u32::try_from(count).unwrap()).map(|n| self.first + SLOT * n));
    }

    fn version(&self) -> u64 {
        0
    }

    fn changed(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    fn next_timeout(&self) -> Option<Instant> {
        None
    }
}

fn attempt(name: &Name, wait: Duration) -> Attempt {
    let now = Instant::now();
    Attempt {
        request: Arc::new(Request::plain(Endpoint::HISTORY, ["a"]).unwrap()),
        caller: Arc::new(Caller {
            name: name.clone(),
            urgency: Urgency::default(),
            deadline: now + wait,
            wait: None,
            cache_directives: CacheDirectives::default(),
            request_id: RequestId::random(),
            trace: defender_gateway::testing::telemetry::trace::Trace::None,
            has_fallback: false,
        }),
        position: QueuePosition::new(now),
        retries: Retries::default(),
    }
}

/// A refusal, and an admission that leaves again, with `waiting` requests of `callers` in the
/// queue.
fn queue(waiting: u32, callers: u32) -> [f64; 2] {
    let tasks = Tasks::new();
    let config = queue::Config {
        max_requests: 100_000,
        max_requests_per_caller: 100_000,
        ..queue::Config::default()
    };
    let first = Instant::now() + Duration::from_hours(1);
    let queue = Queue::start(config, Metronome { first }, &tasks, queue::Metrics::default());
    let names: Vec<Name> = (0..callers).map(|n| Name::new(&format!("caller {n}"))).collect();
    let long = Duration::from_hours(24);
    let held: Vec<_> = (0..waiting)
        .map(|n| {
            let name = &names[(n % callers) as usize];
            queue.enter(&attempt(name, long)).unwrap()
        })
        .collect();
    let refused = time(5000, |n| {
        let attempt = attempt(&names[(n % callers) as usize], 30 * SECOND);
        assert!(queue.enter(&attempt).is_err());
    });
    let admitted = time(2000, |n| {
        let attempt = attempt(&names[(n % callers) as usize], long);
        drop(queue.enter(&attempt).unwrap());
    });
    drop(held);
    [refused, admitted]
}

/// governor's keyed bucket as the fair-use limit uses it, 1,000 callers.
fn governor() -> f64 {
    let fair_use = CallerLimiter::new(NonZeroU32::new(1_000_000_000).unwrap(), SECOND).unwrap();
    let names: Vec<Name> = (0..1000).map(|n| Name::new(&format!("caller {n}"))).collect();
    time(200_000, |n| {
        black_box(fair_use.check(&names[(n % 1000) as usize])).unwrap();
    })
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _guard = runtime.enter();
    let governor = governor();
    let [refused, _] = queue(350, 350);
    let [refused_large, admitted_large] = queue(10_000, 1000);
    let rows = [
        ("governor: a keyed check, 1,000 callers", governor),
        ("ledger: a call at 1,500 entries", ledger()),
        ("ledger and bucket: a call, saturated", whole_account()),
        ("forecast: a slot, saturated", forecast()),
        ("order: a slot, 10,000 waiting of 1,000 callers", order()),
        ("queue: a refusal, 350 waiting of 350 callers", refused),
        ("queue: a refusal, 10,000 waiting of 1,000 callers", refused_large),
        ("queue: a ticket, 10,000 waiting of 1,000 callers", admitted_large),
    ];
    println!("{:<52}{:>12}{:>14}{:>10}", "decision", "ns", "a second", "ratio");
    for (name, ns) in rows {
        println!("{name:<52}{ns:>12.0}{:>14.0}{:>9.1}x", 1e9 / ns, ns / governor);
    }
}
