//! The rows of "too little for all" over four replicas: each with the queue that a gateway has, one store, in virtual time.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::store::Store;
use crate::attempt::{Demand, LateBoundRequest, QueuePosition, Retries, SharedOrder, Attempt};
use crate::caller::{CacheDirectives, Caller, Name, RequestId, Urgency};
use crate::queue::{self, PermitSource, Queue};
use crate::quota::shared::protocol::{Slot, Protocol};
use crate::quota::shared::{Config, Timing};
use crate::quota::{self, Limit};
use crate::scan::{Endpoint, Payer, Request};
use crate::store::Address;
use crate::task::Tasks;
use crate::telemetry::trace;

const SECOND: Duration = Duration::from_secs(1);
const TOOK: Duration = Duration::from_millis(350);
const REPLICAS: usize = 4;

/// As many calls as the rows for one gateway are made of.
const CALLS: usize = 583;

/// The burst is spent then, and the minute's window is no longer full.
const BEGINNING: Duration = Duration::from_secs(80);

/// A replica's part of the quota, as `quota::shared::Quota` is, with a step that is a function call.
#[derive(Clone, Debug)]
struct Part(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<Protocol>,
    version: AtomicU64,
    changed: Notify,
    kick: Notify,
}

#[derive(Debug)]
struct Permit {
    slot: Slot,
    part: Part,
    is_used: bool,
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.is_used {
            self.part
                .change(|state| state.refund(self.slot.id.clone(), Instant::now()));
        }
    }
}

impl Part {
    fn look<T>(&self, look: impl FnOnce(&mut Protocol) -> T) -> T {
        look(&mut self.0.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A change after which a step may be due earlier.
    fn change(&self, change: impl FnOnce(&mut Protocol)) {
        self.look(change);
        self.0.kick.notify_one();
    }
}

impl PermitSource for Part {
    type Permit = Permit;

    fn take(&self, now: Instant) -> Result<Permit, Option<Instant>> {
        let slot = self.look(|state| state.take(now)).ok_or(None)?;
        self.0.version.fetch_add(1, Ordering::Relaxed);
        Ok(Permit {
            slot,
            part: self.clone(),
            is_used: false,
        })
    }

    fn forecast(&self, now: Instant, count: usize, slots: &mut VecDeque<Instant>) {
        self.look(|state| state.forecast(now, count, slots));
    }

    fn version(&self) -> u64 {
        self.0.version.load(Ordering::Relaxed)
    }

    async fn changed(&self) {
        self.0.changed.notified().await;
    }

    fn demand(&self, demand: Demand<'_>) {
        self.change(|state| state.demand(demand, Instant::now()));
    }

    fn shared_order(&self) -> Option<Arc<SharedOrder>> {
        Some(self.look(|state| Arc::clone(&state.order)))
    }

    fn granted_to(&self, permit: &Permit) -> Option<(Urgency, Name)> {
        permit.slot.flow.clone()
    }

    fn next_timeout(&self) -> Option<Instant> {
        None
    }
}

/// Takes the steps of one replica.
async fn steps(parts: Arc<[Part]>, n: usize, store: Arc<Mutex<Store>>, start: Instant) {
    static NONCE: AtomicUsize = AtomicUsize::new(0);
    let part = parts[n].clone();
    loop {
        let next = part.look(|state| state.next_look(Instant::now()));
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = part.0.kick.notified() => continue,
        }
        let now = Instant::now();
        let nonce = format!("n{}", NONCE.fetch_add(1, Ordering::Relaxed));
        let step = part.look(|state| state.step(nonce, false, now).unwrap());
        let (reply, wakes) = {
            let mut store = store.lock().unwrap();
            store.set(now - start, 1);
            (store.run(&step), store.wakes())
        };
        let change = part.look(|state| state.on_reply(&reply, now, now));
        if change.forecast {
            part.0.version.fetch_add(1, Ordering::Relaxed);
        }
        if change.slots {
            part.0.changed.notify_one();
        }
        for (name, at) in wakes {
            for (n, part) in parts.iter().enumerate() {
                if name == "*" || name == format!("r{n}") {
                    part.change(|state| state.wake(at, now));
                }
            }
        }
    }
}

#[derive(Debug)]
struct FixedRequest(Arc<Request>);

impl LateBoundRequest for FixedRequest {
    fn bind(&self) -> Arc<Request> {
        Arc::clone(&self.0)
    }

    fn payer(&self) -> Payer {
        Payer::HISTORY
    }

    fn cost_sharers(&self) -> Vec<Name> {
        Vec::new()
    }
}

/// A caller that asks again as soon as it is answered, so many times at once, and comes back when it is told to; at these replicas in turn.
#[derive(Clone, Debug)]
struct Asking {
    name: String,
    urgency: u8,
    wait: Duration,
    in_flight: usize,
    weight: u32,
    /// From an answer to the next request.
    pause: Duration,
    at: Vec<usize>,
}

fn asking(name: impl Into<String>, urgency: u8, wait_s: u32, at: &[usize]) -> Asking {
    Asking {
        name: name.into(),
        urgency,
        wait: SECOND * wait_s,
        in_flight: 1,
        weight: 1,
        pause: Duration::ZERO,
        at: at.to_vec(),
    }
}

fn crowd(urgency: u8) -> impl Iterator<Item = Asking> {
    (0..20).map(move |n| asking(format!("B{n}"), urgency, 30, &[n % REPLICAS]))
}

#[derive(Clone, Debug, Default)]
struct Book {
    waits: Vec<Duration>,
    /// When calls left, and how long after the request was first asked, refusals included.
    turns: Vec<(Instant, Duration)>,
    refused: usize,
    late: usize,
}

/// The calls of all, in order, and what became of each caller's requests.
#[derive(Clone, Debug)]
struct Books {
    calls: Vec<(Instant, usize)>,
    of: Vec<Book>,
}

impl Books {
    fn calls(&self, caller: usize) -> usize {
        self.calls.iter().filter(|(_, who)| *who == caller).count()
    }

    fn median(&self, caller: usize) -> Duration {
        let mut waits = self.of[caller].waits.clone();
        waits.sort();
        waits.get(waits.len() / 2).copied().unwrap_or(Duration::MAX)
    }
}

fn attempt(asking: &Asking) -> Attempt {
    let now = Instant::now();
    Attempt {
        request: Arc::new(FixedRequest(Arc::new(Request::plain(Endpoint::HISTORY, ["a"]).unwrap()))),
        caller: Arc::new(Caller {
            name: Name::new(&asking.name),
            urgency: Urgency::new(asking.urgency).unwrap(),
            deadline: now + asking.wait,
            wait: None,
            cache_directives: CacheDirectives::default(),
            request_id: RequestId::random(),
            trace: trace::Trace::None,
        }),
        position: QueuePosition::new(now),
        retries: Retries::default(),
    }
}

async fn ask_on(queue: Queue<Part>, asking: Asking, who: usize, books: Arc<Mutex<Books>>) {
    let mut first = Instant::now();
    loop {
        let (begun, attempt) = (Instant::now(), attempt(&asking));
        match queue.turn(&attempt).await {
            Ok(mut permit) => {
                let now = Instant::now();
                permit.is_used = true;
                {
                    let mut books = books.lock().unwrap();
                    books.calls.push((now, who));
                    books.of[who].waits.push(now - begun);
                    books.of[who].turns.push((now, now - first));
                    // A slot may pass on from one that does not claim it.
                    let latest = asking.wait + Timing::new(SECOND / 4).claim + Duration::from_millis(50);
                    books.of[who].late += usize::from(now - begun > latest);
                }
                tokio::time::sleep(TOOK).await;
                let id = permit.slot.id.clone();
                permit.part.change(|state| state.settle(id, Instant::now()));
                queue.answered(&attempt);
                tokio::time::sleep(asking.pause).await;
                first = Instant::now();
            }
            Err(refused) => {
                books.lock().unwrap().of[who].refused += 1;
                tokio::time::sleep(SECOND * u32::try_from(refused.retry_after_s()).unwrap()).await;
            }
        }
    }
}

/// Somebody else spends the burst of a quiet start, and what comes back in the minute after it.
async fn spend_burst(queue: &Queue<Part>, until: Instant) {
    let spender = asking("who spent it", 3, 0, &[0]);
    while Instant::now() < until {
        match queue.turn(&attempt(&spender)).await {
            Ok(mut permit) => {
                permit.is_used = true;
                tokio::time::sleep(TOOK).await;
                let id = permit.slot.id.clone();
                permit.part.change(|state| state.settle(id, Instant::now()));
            }
            Err(refused) => tokio::time::sleep(SECOND * u32::try_from(refused.retry_after_s()).unwrap()).await,
        }
    }
}

/// Four replicas that know each other, and these callers until so many calls were made.
async fn run(callers: &[Asking]) -> Books {
    let limit = |calls, window| Limit::try_new(NonZeroU32::new(calls).unwrap(), window).unwrap();
    let limits = vec![limit(100, SECOND * 60), limit(1500, SECOND * 3600)];
    let config = quota::Config::try_new(limits, NonZeroU32::new(100).unwrap(), SECOND * 10).unwrap();
    let address = crate::store::Config::new(Address::parse("redis://h").unwrap(), SECOND);
    let sharing = Config::new(address, Timing::new(SECOND / 4), "test", "t", "a");
    // Ages of an hour must not reach back before the machine started.
    tokio::time::advance(SECOND * 7200).await;
    let (start, tasks) = (Instant::now(), Tasks::new());
    let part = |n: usize| {
        Part(Arc::new(Shared {
            state: Mutex::new(Protocol::new(format!("r{n}"), &config, &sharing, start)),
            version: AtomicU64::new(0),
            changed: Notify::new(),
            kick: Notify::new(),
        }))
    };
    let parts: Arc<[Part]> = (0..REPLICAS).map(part).collect();
    let store = Arc::new(Mutex::new(Store::start(sharing.keys(), None)));
    for n in 0..REPLICAS {
        tasks.spawn("steps", steps(Arc::clone(&parts), n, Arc::clone(&store), start));
    }
    tokio::time::sleep(SECOND * 5).await;
    let weight = |asking: &Asking| (Name::new(&asking.name), NonZeroU32::new(asking.weight).unwrap());
    let queues = parts.iter().map(|part| {
        let config = queue::Config {
            max_requests: 1000,
            max_requests_per_caller: 1000,
            longest_wait: SECOND * 600,
            weights: callers.iter().map(weight).collect(),
        };
        Queue::start(config, part.clone(), &tasks, queue::Metrics::default())
    });
    let queues: Vec<_> = queues.collect();
    spend_burst(&queues[0], start + BEGINNING).await;
    let books = Arc::new(Mutex::new(Books {
        calls: Vec::new(),
        of: vec![Book::default(); callers.len()],
    }));
    for (who, asking) in callers.iter().enumerate() {
        for n in 0..asking.in_flight {
            let queue = queues[asking.at[n % asking.at.len()]].clone();
            let after = Duration::from_millis(97) * u32::try_from((who * 7 + n * 3) % 20).unwrap();
            let asks = ask_on(queue, asking.clone(), who, Arc::clone(&books));
            tasks.spawn("caller", async move {
                tokio::time::sleep(after).await;
                asks.await;
            });
        }
    }
    while books.lock().unwrap().calls.len() < CALLS {
        tokio::time::sleep(SECOND).await;
    }
    tasks.finish(Duration::ZERO).await;
    // Some callers may still be on their way.
    let mut books = books.lock().unwrap().clone();
    books.calls.truncate(CALLS);
    books
}

/// One row: the first caller against the others.
async fn row(name: &str, callers: &[Asking]) -> Books {
    let books = run(callers).await;
    let (a, others) = books.of.split_first().unwrap();
    let calls: Vec<_> = (0..callers.len()).map(|who| books.calls(who)).collect();
    println!(
        "{name}: A {} calls, p50 {:.1} s, {} refused; others {:?} calls, {} refused; late {}",
        calls[0],
        books.median(0).as_secs_f64(),
        a.refused,
        &calls[1..],
        others.iter().map(|book| book.refused).sum::<usize>(),
        books.of.iter().map(|book| book.late).sum::<usize>(),
    );
    assert!(books.of.iter().all(|book| book.late == 0), "somebody was served late");
    books
}

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
    // What is left of the burst goes in the first second, while A's first call is on its way: it does not ask then.
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
