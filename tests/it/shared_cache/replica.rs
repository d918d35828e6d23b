//! A replica without its quota: memory, shared cache and single flight over an upstream that
//! records its calls.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tower::util::BoxCloneSyncService;
use tower::{ServiceBuilder, ServiceExt as _, service_fn};

use defender_gateway::testing::attempt::{Attempt, Delivery, Failure, RetryHint, Scarcity};
use defender_gateway::testing::caller::{CacheDirectives, Caller, Name, RequestId, Urgency};
use defender_gateway::testing::middleware::{Next, layer};
use defender_gateway::testing::scan::{
    Call, Endpoint, Merging, Request, ServedResponse, UpstreamProfile, UpstreamResponse,
};
use defender_gateway::testing::task::Tasks;
use defender_gateway::testing::{BoxError, cache, shared_cache, single_flight, store};

use crate::support::until;

/// The upstream behind its quota: calls wait for a slot, arrive, wait at a gate, and are answered with
/// two rows for each id.
#[derive(Clone)]
pub(crate) struct Upstream(Arc<Inner>);

struct Inner {
    /// So many calls have asked for a slot.
    queued: AtomicUsize,
    /// So many of the first of these get none.
    queue: watch::Sender<usize>,
    calls: Mutex<Vec<Vec<String>>>,
    /// So many of the first calls wait.
    gate: watch::Sender<usize>,
    /// What the next calls get, before all further ones are answered well.
    bad: Mutex<Vec<Bad>>,
}

/// A bad answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bad {
    Status(u16),
    /// A 429, whose call would be repeated if its leader had time. The next calls wait at the gate.
    OutOfTime,
    /// No slot in time: the call never leaves.
    NoSlot,
    NoStore,
    Large,
}

impl Upstream {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner {
            queued: AtomicUsize::new(0),
            queue: watch::Sender::new(0),
            calls: Mutex::default(),
            gate: watch::Sender::new(0),
            bad: Mutex::default(),
        }))
    }

    /// The first so many calls get no slot, and all others do.
    pub(crate) fn keep_waiting(&self, calls: usize) {
        self.0.queue.send_replace(calls);
    }

    /// Waits until so many calls have asked for a slot.
    pub(crate) async fn queued(&self, calls: usize) {
        let queued = async || (self.0.queued.load(Ordering::Relaxed) >= calls).then_some(());
        until("calls in the queue", queued).await;
    }

    pub(crate) fn close_gate(&self) {
        self.0.gate.send_replace(usize::MAX);
    }

    pub(crate) fn open_gate(&self) {
        self.open_gate_after(0);
    }

    /// The first so many calls wait, and all others are answered.
    pub(crate) fn open_gate_after(&self, calls: usize) {
        self.0.gate.send_replace(calls);
    }

    /// The next calls get these.
    pub(crate) fn misbehave(&self, bad: &[Bad]) {
        self.0.bad.lock().unwrap().extend(bad);
    }

    pub(crate) fn calls(&self) -> usize {
        self.0.calls.lock().unwrap().len()
    }

    /// Waits until so many calls have arrived.
    pub(crate) async fn arrived(&self, calls: usize) {
        until("calls at the upstream", async || (self.calls() >= calls).then_some(())).await;
    }

    async fn call(self, attempt: Attempt) -> Result<UpstreamResponse, BoxError> {
        let before = self.0.queued.fetch_add(1, Ordering::Relaxed);
        if matches!(self.0.bad.lock().unwrap().first(), Some(Bad::NoSlot)) {
            self.0.bad.lock().unwrap().remove(0);
            return Err(failure(Delivery::NoSlot, None).into());
        }
        let mut queue = self.0.queue.subscribe();
        queue.wait_for(|waiting| *waiting <= before).await?;
        let request = attempt.request.bind().unwrap();
        let ids: Vec<String> = request.ids().map(Into::into).collect();
        let before = {
            let mut calls = self.0.calls.lock().unwrap();
            calls.push(ids.clone());
            calls.len() - 1
        };
        let mut gate = self.0.gate.subscribe();
        gate.wait_for(|waiting| *waiting <= before).await?;
        let bad = {
            let mut bad = self.0.bad.lock().unwrap();
            (!bad.is_empty()).then(|| bad.remove(0))
        };
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        let mut status = StatusCode::OK;
        let mut padding = String::new();
        match bad {
            Some(Bad::Status(code)) => status = StatusCode::from_u16(code)?,
            Some(Bad::OutOfTime) => {
                self.close_gate();
                return Err(failure(Delivery::Answered, Some(StatusCode::TOO_MANY_REQUESTS)).into());
            }
            Some(Bad::NoStore) => drop(headers.insert("cache-control", HeaderValue::from_static("no-store"))),
            Some(Bad::Large) => {
                let noise = std::iter::repeat_with(|| char::from(rand::random_range(b'0'..b'z')));
                padding = noise.filter(|c| *c != '\\').take(3 << 20).collect();
            }
            Some(Bad::NoSlot) | None => {}
        }
        let rows = ids.iter().flat_map(|id| [1, 2].map(|n| row(id, n)));
        let rows: Vec<_> = rows.collect();
        Ok(UpstreamResponse {
            status,
            headers: headers.into(),
            body: format!(r#"{{"@odata.context":"{padding}","value":[{}]}}"#, rows.join(",")).into(),
        })
    }
}

fn failure(delivery: Delivery, status: Option<StatusCode>) -> Failure {
    Failure {
        delivery,
        again: RetryHint::WhenAllowed,
        answer: status.map(|status| UpstreamResponse {
            status,
            headers: HeaderMap::new().into(),
            body: "".into(),
        }),
        source: "no time is left".into(),
    }
}

fn row(id: &str, n: u32) -> String {
    format!(r#"{{"ScanDefinitionIds":"{id}","LastScanned":"2026-03-0{n}T00:00:00.0000000Z"}}"#)
}

/// The options of a test's replicas.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) ttl: Duration,
    /// How long a lookup may take. It is long unless it is what the test is about, because a busy
    /// test machine is slow.
    pub(crate) look: Duration,
    pub(crate) lease: Duration,
    pub(crate) merge: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ttl: Duration::from_mins(1),
            look: Duration::from_secs(10),
            lease: Duration::from_secs(2),
            merge: false,
        }
    }
}

/// How long a caller waits: longer than a test does, so that a follower who is told nothing fails it
/// instead of asking by itself in the end.
const ASKS_FOR: Duration = Duration::from_mins(10);

/// A lease that nobody sees running out.
pub(crate) const LONG_LEASE: Duration = Duration::from_mins(10);

/// A running replica. Dropping it ends it as if killed.
pub(crate) struct Replica {
    service: BoxCloneSyncService<Call, ServedResponse, BoxError>,
    pub(crate) member: shared_cache::SharedCache,
    /// When it stops.
    pub(crate) closing: watch::Sender<Option<Instant>>,
    tasks: Tasks,
    /// Its tasks live here, so that dropping it ends them at any point.
    runtime: Option<Runtime>,
}

impl Replica {
    pub(crate) fn start(url: &str, upstream: &Upstream) -> Self {
        Self::start_with(url, upstream, &Options::default())
    }

    pub(crate) fn start_with(url: &str, upstream: &Upstream, options: &Options) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let _inside = runtime.enter();
        let tasks = Tasks::new();
        let upstream_profile = Arc::new(UpstreamProfile::new(10_000));
        let memory = cache::Config {
            ttl: options.ttl,
            stale_while_revalidate: Duration::ZERO,
            ..cache::Config::default()
        };
        let metrics = cache::Metrics::register(&mut prometheus_client::registry::Registry::default());
        let cache = Arc::new(cache::Cache::new(memory, Some(Arc::clone(&upstream_profile)), metrics));
        let closing = watch::Sender::new(None);
        let member = join(url, options, &tasks, &cache, closing.subscribe());
        let keep = Arc::new(shared_cache::Publisher::new(member.clone(), Arc::clone(&cache) as _));
        let merge = single_flight::BatchConfig {
            when: if options.merge { Merging::On } else { Merging::Off },
            max_ids: NonZeroUsize::new(100).unwrap(),
            gather: Duration::from_secs(1),
        };
        let flights = single_flight::Config {
            merge,
            attempt: Duration::from_secs(30),
        };
        let outlook = single_flight::PredictedWait {
            wait: Arc::new(|_| Duration::ZERO),
            turn: Arc::new(|_, _| Duration::ZERO),
            // Slots are scarce, so that calls wait for others to join them.
            scarcity: Arc::new(|_| Scarcity {
                gather: Some(Duration::from_millis(500)),
                interval: Duration::from_mins(1),
            }),
            slots: Arc::new(|_, _, _| 0),
            has_surplus: Arc::new(|_| true),
        };
        let metrics = single_flight::Metrics::default();
        let calls = upstream.clone();
        let service = ServiceBuilder::new()
            .layer(cache::Layer::new(cache, tasks.clone(), Arc::new(|_| true)))
            .layer(layer(Some(member.clone())))
            .layer(layer(single_flight::SingleFlight::new(
                flights,
                tasks.clone(),
                keep,
                upstream_profile,
                outlook,
                metrics,
            )))
            .service(Next::new(service_fn(move |attempt| calls.clone().call(attempt))));
        Self {
            service: BoxCloneSyncService::new(service),
            member,
            closing,
            tasks,
            runtime: Some(runtime),
        }
    }

    /// Asks for these ids in the background.
    pub(crate) fn ask(&self, ids: &[&str]) -> JoinHandle<Result<ServedResponse, BoxError>> {
        self.ask_with(ids, CacheDirectives::default(), ASKS_FOR)
    }

    pub(crate) fn ask_with(
        &self,
        ids: &[&str],
        cache_directives: CacheDirectives,
        wait: Duration,
    ) -> JoinHandle<Result<ServedResponse, BoxError>> {
        self.ask_for(history_request(ids), cache_directives, wait)
    }

    /// Asks for these ids with that urgency in the background.
    pub(crate) fn ask_at(&self, ids: &[&str], urgency: u8) -> JoinHandle<Result<ServedResponse, BoxError>> {
        let mut caller = caller_of(&history_request(ids), CacheDirectives::default(), ASKS_FOR);
        caller.urgency = Urgency::new(urgency).unwrap();
        self.ask_as(caller, history_request(ids))
    }

    /// Asks for these ids, which must not be answered from anywhere.
    pub(crate) fn insist(&self, ids: &[&str]) -> JoinHandle<Result<ServedResponse, BoxError>> {
        let insists = CacheDirectives {
            no_cache: true,
            ..CacheDirectives::default()
        };
        self.ask_with(ids, insists, ASKS_FOR)
    }

    pub(crate) fn ask_for(
        &self,
        request: Request,
        cache_directives: CacheDirectives,
        wait: Duration,
    ) -> JoinHandle<Result<ServedResponse, BoxError>> {
        self.ask_as(caller_of(&request, cache_directives, wait), request)
    }

    fn ask_as(&self, caller: Caller, request: Request) -> JoinHandle<Result<ServedResponse, BoxError>> {
        let call = Call {
            request: Arc::new(request),
            caller: Arc::new(caller),
        };
        self.runtime.as_ref().unwrap().spawn(self.service.clone().oneshot(call))
    }

    /// The answer to a request that must be answered.
    pub(crate) async fn served(&self, ids: &[&str]) -> ServedResponse {
        good(self.ask(ids)).await
    }

    /// Waits until the replica's counters are as wanted.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&shared_cache::Snapshot) -> bool) {
        let look = async || wanted(&self.member.snapshot()).then_some(());
        until(what, look).await;
    }

    /// Ends as a process does that was told to stop.
    pub(crate) async fn stop(mut self) {
        assert_eq!(self.tasks.finish(Duration::from_secs(5)).await, 0);
        self.runtime.take().unwrap().shutdown_background();
    }

    /// Ends as a process does that was killed: what it had not yet sent is lost.
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

fn join(
    url: &str,
    options: &Options,
    tasks: &Tasks,
    cache: &Arc<cache::Cache>,
    closing: watch::Receiver<Option<Instant>>,
) -> shared_cache::SharedCache {
    let patience = Duration::from_secs(10);
    let store = store::Config::new(store::Address::parse(url).unwrap(), patience);
    let mut config = shared_cache::Config::new(store, "test", ("tenant", "app"), options.look, options.ttl);
    config.lease = options.lease;
    config.closing = Some(closing);
    let memory = Arc::clone(cache);
    let adopt: shared_cache::InsertLocal = Arc::new(move |request, found| {
        memory.insert_remote(request, &found.answer, (found.asked, found.stored), found.ttl);
    });
    shared_cache::SharedCache::join(config, adopt, tasks, shared_cache::Metrics::default())
}

fn caller_of(request: &Request, cache_directives: CacheDirectives, wait: Duration) -> Caller {
    Caller {
        // Each request is another caller's.
        name: Name::new(&format!("test {:?}", request.ids())),
        urgency: Urgency::default(),
        deadline: Instant::now() + wait,
        wait: None,
        cache_directives,
        request_id: RequestId::random(),
        trace: defender_gateway::testing::telemetry::trace::Trace::None,
        has_fallback: false,
    }
}

pub(crate) fn history_request(ids: &[&str]) -> Request {
    Request::plain(Endpoint::HISTORY, ids.iter().copied()).unwrap()
}

/// The answer, with both rows of each of its ids.
pub(crate) async fn good(asked: JoinHandle<Result<ServedResponse, BoxError>>) -> ServedResponse {
    let served = crate::support::within("an answer", asked).await.unwrap().unwrap();
    assert_eq!(served.answer.status, StatusCode::OK);
    served
}
