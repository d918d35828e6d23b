//! A replica: queue and shared quota, with callers and an upstream that only notes when calls arrive.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use defender_gateway::attempt::{Load, Place, Try};
use defender_gateway::caller::{Caller, Freshness, Name, Urgency};
use defender_gateway::queue::{self, Queue, Weights};
use defender_gateway::quota::{self, shared};
use defender_gateway::scan::{Holder, Request};
use defender_gateway::secret::Secret;
use defender_gateway::sim::Judge;
use defender_gateway::store;
use defender_gateway::task::Tasks;

pub(crate) const LIMITS: [(u32, Duration); 2] = [(50, Duration::from_millis(500)), (400, Duration::from_secs(10))];

/// The upstream: calls arrive, and are counted there.
#[derive(Clone)]
pub(crate) struct Upstream(Arc<(Instant, Mutex<Vec<Duration>>)>);

impl Upstream {
    pub(crate) fn new() -> Self {
        Self(Arc::new((Instant::now(), Mutex::default())))
    }

    /// One call: on its way, arrived, on its way back.
    async fn call(&self) {
        tokio::time::sleep(Duration::from_micros(rand::random_range(500..5000))).await;
        let at = self.0.0.elapsed();
        self.0.1.lock().unwrap().push(at);
        tokio::time::sleep(Duration::from_micros(rand::random_range(500..5000))).await;
    }

    pub(crate) fn arrivals(&self) -> Vec<Duration> {
        self.0.1.lock().unwrap().clone()
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.0.0.elapsed()
    }

    /// Fails when any window, at any alignment, held more than its limit.
    pub(crate) fn assert_within(&self) {
        let limits = LIMITS.map(|(calls, window)| format!("{calls}/{}ms", window.as_millis()).parse().unwrap());
        let mut judge = Judge::new(&limits);
        judge.extend(self.arrivals());
        for finding in judge.findings() {
            assert!(finding.is_within(), "{finding}");
        }
    }
}

#[derive(Debug)]
struct Nothing;

impl Load for Nothing {
    fn request(&self) -> Arc<Request> {
        unreachable!("the queue does not look at the question")
    }

    fn holder(&self) -> Option<Holder> {
        None
    }

    fn beneficiaries(&self) -> Vec<Name> {
        Vec::new()
    }
}

/// A running replica. Dropped, it is gone as if killed.
pub(crate) struct Replica {
    pub(crate) quota: quota::Quota,
    queue: Queue<quota::Quota>,
    tasks: Tasks,
    pub(crate) served: Arc<AtomicUsize>,
    callers: Mutex<Vec<tokio::task::JoinHandle<()>>>,
    /// Its tasks live here, so that dropping it kills them wherever they are.
    runtime: Option<tokio::runtime::Runtime>,
}

impl Replica {
    pub(crate) fn start(url: &str) -> Self {
        Self::start_with(url, quota::UnknownPast::Empty)
    }

    pub(crate) fn start_with(url: &str, past: quota::UnknownPast) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let _inside = runtime.enter();
        let limits =
            LIMITS.map(|(calls, window)| quota::Limit::try_new(NonZeroU32::new(calls).unwrap(), window).unwrap());
        let config = quota::Config::try_new(
            limits.to_vec(),
            NonZeroU32::new(50).unwrap(),
            Duration::from_millis(500),
        )
        .unwrap()
        .unknown_past(past);
        let timeout = Duration::from_millis(250);
        let store = store::Config::new(&Secret::new(url.into()), timeout).unwrap();
        let sharing = shared::Config::new(store, shared::Timing::new(timeout), "test", "tenant", "app");
        let tasks = Tasks::new();
        let quota = quota::Quota::join(&config, &sharing, &tasks, shared::Metrics::default());
        let config = queue::Config {
            max_requests: 10_000,
            max_requests_per_caller: 1000,
            weights: Weights::default(),
        };
        let queue = Queue::start(config, quota.clone(), &tasks, queue::Metrics::default());
        Self {
            quota,
            queue,
            tasks,
            served: Arc::default(),
            callers: Mutex::default(),
            runtime: Some(runtime),
        }
    }

    /// `count` callers who ask again as soon as they are answered.
    pub(crate) fn saturate(&self, upstream: &Upstream, count: usize) {
        let mut callers = self.callers.lock().unwrap();
        for n in 0..count {
            let (queue, upstream, served) = (self.queue.clone(), upstream.clone(), Arc::clone(&self.served));
            let runtime = self.runtime.as_ref().unwrap();
            callers.push(runtime.spawn(async move {
                loop {
                    match queue
                        .turn(&attempt(&format!("caller {n}"), Duration::from_secs(30)))
                        .await
                    {
                        Ok(mut permit) => {
                            permit.leave();
                            upstream.call().await;
                            permit.settle();
                            served.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                    }
                }
            }));
        }
    }

    /// The callers leave.
    pub(crate) fn rest(&self) {
        for caller in self.callers.lock().unwrap().drain(..) {
            caller.abort();
        }
    }

    /// One request; how it ended and how long it took.
    pub(crate) async fn ask(&self, wait: Duration) -> (Result<(), queue::Refused>, Duration) {
        let asked = Instant::now();
        let turn = self.queue.turn(&attempt("one", wait)).await;
        (turn.map(quota::Permit::settle), asked.elapsed())
    }

    pub(crate) fn served(&self) -> usize {
        self.served.load(Ordering::Relaxed)
    }

    /// Leaves as a process does that was told to stop.
    pub(crate) async fn stop(mut self) {
        self.rest();
        assert_eq!(self.tasks.finish(Duration::from_secs(2)).await, 0);
        self.runtime.take().unwrap().shutdown_background();
    }

    /// kill -9: whatever it was about to say is never said.
    pub(crate) fn kill(self) {
        drop(self);
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn attempt(name: &str, wait: Duration) -> Try {
    let now = Instant::now();
    let caller = Caller {
        name: Name::new(name),
        urgency: Urgency::default(),
        deadline: now + wait,
        wait: None,
        freshness: Freshness::default(),
        request_id: "test".into(),
        trace: defender_gateway::telemetry::trace::Trace::None,
    };
    Try {
        load: Arc::new(Nothing),
        caller: Arc::new(caller),
        place: Place::new(now),
    }
}
