//! A gateway's paid half in virtual time, and the callers in front of it.

use std::io::Write as _;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tower::{ServiceBuilder, ServiceExt as _, service_fn};

use defender_gateway::testing::BoxError;
use defender_gateway::testing::attempt::{Attempt, Charged, Failure, QueuePosition, Retries};
use defender_gateway::testing::caller::{CacheDirectives, Caller, Name, RequestId, Urgency};
use defender_gateway::testing::clock::Wall;
use defender_gateway::testing::middleware::{Next, layer};
use defender_gateway::testing::queue::{self, Queue, Refused};
use defender_gateway::testing::quota::{self, Pacing, Quota, UnknownPast};
use defender_gateway::testing::scan::{Endpoint, Request, UpstreamResponse};
use defender_gateway::testing::task::Tasks;
use defender_gateway::testing::upstream::Retry;

use super::upstream::{TIMEOUT, Upstream};

pub(super) const MINUTE: Duration = Duration::from_mins(1);
pub(super) const HOUR: Duration = Duration::from_hours(1);
pub(super) const DAY: Duration = Duration::from_hours(24);

/// The time between two slots at the sustained rate of 1,500 an hour.
pub(super) const SLOT: Duration = Duration::from_millis(2400);

/// Prints a table, also when the test passes: it is what the test found out, and `println!` would
/// be captured.
pub(super) fn tell(table: &str) {
    let _ = writeln!(std::io::stdout(), "{table}");
}

/// Lives each case through, on a paused clock of its own, two at a time; in the order of the cases.
pub(super) fn each<C: Copy + Sync, R: Send, F: Future<Output = R>>(
    cases: &[C],
    live: impl Fn(C) -> F + Sync,
) -> Vec<(C, R)> {
    let next = AtomicUsize::new(0);
    let done: Vec<Mutex<Option<R>>> = cases.iter().map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(index) else { break };
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_time()
                        .start_paused(true)
                        .build()
                        .unwrap();
                    *done[index].lock().unwrap() = Some(runtime.block_on(live(*case)));
                }
            });
        }
    });
    let results = done.into_iter().map(|result| result.into_inner().unwrap().unwrap());
    cases.iter().copied().zip(results).collect()
}

/// What a gateway starts with.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) state_file: Option<PathBuf>,
    pub(super) past: UnknownPast,
    pub(super) weights: Vec<(String, u32)>,
    pub(super) pacing: Pacing,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            state_file: None,
            past: UnknownPast::Empty,
            weights: Vec::new(),
            pacing: Pacing::Spread,
        }
    }
}

/// One running gateway: retry, queue, quota.
#[derive(Clone)]
pub(super) struct Gateway {
    pub(super) queue: Queue<Quota>,
    pub(super) quota: Quota,
    pub(super) tasks: Tasks,
    stack: Next<Attempt, UpstreamResponse, BoxError>,
    request: Arc<Request>,
}

/// The wall clock of a test: it moves with the paused one.
pub(super) fn wall() -> Wall {
    Wall::anchored(Timestamp::from_second(1_790_000_000).unwrap())
}

impl Gateway {
    pub(super) fn start(upstream: &Upstream, wall: &Wall, settings: &Settings) -> Self {
        let limit = |calls, window| quota::Limit::try_new(NonZeroU32::new(calls).unwrap(), window).unwrap();
        let limits = vec![limit(100, MINUTE), limit(1500, HOUR)];
        let config = quota::Config::try_new(limits, NonZeroU32::new(100).unwrap(), TIMEOUT).unwrap();
        let config = config
            .unknown_past(settings.past)
            .pacing(settings.pacing)
            .state_file(settings.state_file.clone());
        let quota = Quota::open(&config, wall.clone(), quota::Metrics::default()).unwrap();
        let tasks = Tasks::new();
        let weight = |(name, weight): &(String, u32)| (Name::new(name), NonZeroU32::new(*weight).unwrap());
        let config = queue::Config {
            max_requests: 20_000,
            max_requests_per_caller: 2000,
            longest_wait: 10 * HOUR,
            weights: settings.weights.iter().map(weight).collect(),
        };
        let queue = Queue::start(config, quota.clone(), &tasks, queue::Metrics::default());
        let upstream = upstream.clone();
        let client = Next::new(service_fn(move |call: Charged| upstream.clone().call(call)));
        let stack = ServiceBuilder::new()
            .layer(layer(Retry))
            .layer(layer(queue.clone()))
            .layer(layer(quota::Charging {
                wall: wall.clone(),
                registration: 0,
            }))
            .service(client);
        Self {
            queue,
            quota,
            tasks,
            stack,
            request: Arc::new(Request::plain(Endpoint::HISTORY, ["a"]).unwrap()),
        }
    }

    pub(super) fn attempt(&self, name: &Name, urgency: u8, wait: Duration) -> Attempt {
        let now = Instant::now();
        Attempt {
            request: Arc::clone(&self.request) as _,
            caller: Arc::new(Caller {
                name: name.clone(),
                urgency: Urgency::new(urgency).unwrap(),
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

    /// One request; refused, it says when to come back.
    pub(super) async fn ask(&self, name: &Name, urgency: u8, wait: Duration) -> Result<UpstreamResponse, Duration> {
        let answer = self.request(name, urgency, wait).await;
        answer.map_err(|refused| {
            let after = refused.map(|refused| refused.retry_after_s());
            Duration::from_secs(after.unwrap_or(1))
        })
    }

    /// One request; refused by the queue, it says how.
    pub(super) async fn request(
        &self,
        name: &Name,
        urgency: u8,
        wait: Duration,
    ) -> Result<UpstreamResponse, Option<Refused>> {
        let attempt = self.attempt(name, urgency, wait);
        let answer = self.stack.clone().oneshot(attempt).await;
        let answer = answer.or_else(|mut error| {
            let failure = error.downcast_mut::<Failure>();
            failure.and_then(|failure| failure.answer.take()).ok_or(error)
        });
        // Whoever shares a call gets the failure as it is; the refusal is its cause.
        answer.map_err(|error| {
            let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error.as_ref());
            while let Some(error) = cause {
                if let Some(refused) = error.downcast_ref::<Refused>() {
                    return Some(refused.clone());
                }
                cause = error.source();
            }
            None
        })
    }
}
