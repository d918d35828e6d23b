//! Replicas of the gateway with their queues, over one store, and callers who ask them.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::store::Store;
use crate::attempt::{Attempt, FlowOrder, QueuePosition, Retries, SharedOrder};
use crate::caller::{CacheDirectives, Caller, Name, RequestId, Urgency};
use crate::queue::{self, PermitSource, Queue, Refused, Weights};
use crate::quota::shared::protocol::{Protocol, Slot};
use crate::quota::shared::{Config, Timing};
use crate::quota::{self, Limit};
use crate::scan::{Endpoint, Request};
use crate::store::Address;
use crate::task::Tasks;
use crate::telemetry::trace;

pub(super) const SECOND: Duration = Duration::from_secs(1);

const TOOK: Duration = Duration::from_millis(350);

pub(super) const REPLICAS: usize = 4;

/// As many calls as the rows for one gateway are made of.
const CALLS: usize = 583;

/// The burst is spent then, and the minute's window is no longer full.
const BEGINNING: Duration = Duration::from_secs(80);

/// A replica's part of the quota, as `quota::shared::Quota` is, with a step that is a function
/// call.
#[derive(Clone, Debug)]
pub(super) struct Part(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<Protocol>,
    version: AtomicU64,
    changed: Notify,
    kick: Notify,
}

#[derive(Debug)]
pub(super) struct Permit {
    slot: Slot,
    part: Part,
    is_used: bool,
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.is_used {
            self.part
                .change(|state| state.refund(self.slot.clone(), Instant::now()));
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

    fn demand(&self, flows: &dyn FlowOrder) {
        self.change(|state| state.demand(flows, Instant::now()));
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
                if name == "*" {
                    part.change(|state| state.wake_all(now));
                } else if name == format!("r{n}") {
                    part.change(|state| state.wake(at, now));
                }
            }
        }
    }
}

/// A caller that asks again as soon as it is answered, so many times at once, and comes back when
/// it is told to; at these replicas in turn.
#[derive(Clone, Debug)]
pub(super) struct Asking {
    pub(super) name: String,
    pub(super) urgency: u8,
    pub(super) wait: Duration,
    pub(super) in_flight: usize,
    pub(super) weight: u32,
    /// From an answer to the next request.
    pub(super) pause: Duration,
    pub(super) at: Vec<usize>,
}

pub(super) fn asking(name: impl Into<String>, urgency: u8, wait_s: u32, at: &[usize]) -> Asking {
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

pub(super) fn crowd(urgency: u8) -> impl Iterator<Item = Asking> {
    (0..20).map(move |n| asking(format!("B{n}"), urgency, 30, &[n % REPLICAS]))
}

#[derive(Clone, Debug, Default)]
pub(super) struct Book {
    pub(super) waits: Vec<Duration>,
    /// When calls left, and how long after the request was first asked, refusals included.
    pub(super) turns: Vec<(Instant, Duration)>,
    pub(super) refused: usize,
    pub(super) late: usize,
}

/// The calls of all, in order, and what became of each caller's requests.
#[derive(Clone, Debug)]
pub(super) struct Books {
    pub(super) calls: Vec<(Instant, usize)>,
    pub(super) of: Vec<Book>,
}

impl Books {
    pub(super) fn calls(&self, caller: usize) -> usize {
        self.calls.iter().filter(|(_, who)| *who == caller).count()
    }

    pub(super) fn median(&self, caller: usize) -> Duration {
        let mut waits = self.of[caller].waits.clone();
        waits.sort();
        waits.get(waits.len() / 2).copied().unwrap_or(Duration::MAX)
    }
}

fn attempt(asking: &Asking) -> Attempt {
    let now = Instant::now();
    Attempt {
        request: Arc::new(Request::plain(Endpoint::HISTORY, ["a"]).unwrap()),
        caller: Arc::new(Caller {
            name: Name::new(&asking.name),
            urgency: Urgency::new(asking.urgency).unwrap(),
            deadline: now + asking.wait,
            wait: None,
            cache_directives: CacheDirectives::default(),
            request_id: RequestId::random(),
            trace: trace::Trace::None,
            has_fallback: false,
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

/// Replicas that know each other, over a store that has begun just now.
pub(super) async fn fleet(replicas: usize, limits: &[(u32, Duration)], weights: &Weights, tasks: &Tasks) -> Fleet {
    let limit = |(calls, window): &(u32, Duration)| Limit::try_new(NonZeroU32::new(*calls).unwrap(), *window).unwrap();
    let burst = NonZeroU32::new(limits[0].0).unwrap();
    let config = quota::Config::try_new(limits.iter().map(limit).collect(), burst, SECOND * 10).unwrap();
    let address = crate::store::Config::new(Address::parse("redis://h").unwrap(), SECOND);
    let sharing = Config::new(address, Timing::new(SECOND / 4), "test", "t", "a");
    // Ages of an hour must not reach back before the machine started.
    tokio::time::advance(SECOND * 7200).await;
    let start = Instant::now();
    let part = |n: usize| {
        Part(Arc::new(Shared {
            state: Mutex::new(Protocol::new(format!("r{n}"), &config, &sharing, start)),
            version: AtomicU64::new(0),
            changed: Notify::new(),
            kick: Notify::new(),
        }))
    };
    let parts: Arc<[Part]> = (0..replicas).map(part).collect();
    let store = Arc::new(Mutex::new(Store::start(sharing.keys(), None)));
    for n in 0..replicas {
        tasks.spawn("steps", steps(Arc::clone(&parts), n, Arc::clone(&store), start));
    }
    tokio::time::sleep(SECOND * 5).await;
    let queues = parts.iter().map(|part| {
        let config = queue::Config {
            max_requests: 1000,
            weights: weights.clone(),
            ..queue::Config::default()
        };
        Queue::start(config, part.clone(), tasks, queue::Metrics::default())
    });
    Fleet {
        queues: queues.collect(),
        start,
    }
}

/// The queues of replicas, and when these began.
pub(super) struct Fleet {
    pub(super) queues: Vec<Queue<Part>>,
    start: Instant,
}

/// Waits for a slot, and makes the call; what became of it is told after it was made.
pub(super) async fn ask(queue: &Queue<Part>, asking: &Asking, tasks: &Tasks) -> Result<(), Refused> {
    let attempt = attempt(asking);
    let mut permit = queue.turn(&attempt).await?;
    permit.is_used = true;
    let queue = queue.clone();
    tasks.spawn("call", async move {
        tokio::time::sleep(TOOK).await;
        let id = permit.slot.id.clone();
        permit.part.change(|state| state.settle(id, Instant::now()));
        queue.answered(&attempt);
    });
    Ok(())
}

/// Four replicas that know each other, and these callers until so many calls were made.
async fn run(callers: &[Asking]) -> Books {
    let tasks = Tasks::new();
    let weight = |asking: &Asking| (Name::new(&asking.name), NonZeroU32::new(asking.weight).unwrap());
    let limits = [(100, SECOND * 60), (1500, SECOND * 3600)];
    let fleet = fleet(REPLICAS, &limits, &callers.iter().map(weight).collect(), &tasks).await;
    let Fleet { queues, start } = fleet;
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
pub(super) async fn row(name: &str, callers: &[Asking]) -> Books {
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
