//! Single flight over a service that the test controls.

use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, advance};
use tower::{Layer as _, service_fn};

use crate::BoxError;
use crate::attempt::{Attempt, Delivery, Failure, RetryHint, Scarcity};
use crate::caller::{CacheDirectives, Caller, Name, RequestId, Urgency};
use crate::memory::AnswerMemory;
use crate::middleware::{self, Next};
use crate::scan::{
    CacheSink, Call, CallObserver, Endpoint, Headers, Merging, Request, ServedResponse, StoredRows, UpstreamProfile,
    UpstreamResponse,
};
use crate::single_flight::driver::Below;
use crate::single_flight::{BatchConfig, Config, Metrics, PredictedWait, SingleFlight};
use crate::task::Tasks;

pub(super) const MERGE: BatchConfig = BatchConfig {
    when: Merging::On,
    max_ids: NonZeroUsize::new(4).unwrap(),
    gather: Duration::ZERO,
};

pub(super) type Reply = oneshot::Sender<Result<UpstreamResponse, BoxError>>;

/// Single flight over a service that the test controls.
pub(super) struct Fixture {
    pub(super) flights: Next<Call, ServedResponse, BoxError>,
    pub(super) single_flight: SingleFlight,
    pub(super) calls: mpsc::UnboundedReceiver<(Attempt, Reply)>,
    pub(super) sink: Arc<RecordingSink>,
    pub(super) tasks: Tasks,
    pub(super) metrics: Metrics,
}

impl Fixture {
    pub(super) fn new() -> Self {
        let merge = BatchConfig {
            when: Merging::Off,
            ..MERGE
        };
        Self::with(merge, UpstreamProfile::new(0))
    }

    /// Calls take up to four ids, and answers are known to hold a thousand rows.
    pub(super) fn batching() -> Self {
        Self::with(MERGE, UpstreamProfile::new(1000))
    }

    pub(super) fn with(merge: BatchConfig, upstream_profile: UpstreamProfile) -> Self {
        Self::with_slots(merge, upstream_profile, Scarcity::default())
    }

    pub(super) fn with_slots(merge: BatchConfig, upstream_profile: UpstreamProfile, scarcity: Scarcity) -> Self {
        Self::made_with(merge, upstream_profile, scarcity, None)
    }

    pub(super) fn with_memory(memory: AnswerMemory) -> Self {
        Self::made_with(MERGE, UpstreamProfile::new(1000), Scarcity::default(), Some(memory))
    }

    fn made_with(
        merge: BatchConfig,
        upstream_profile: UpstreamProfile,
        scarcity: Scarcity,
        memory: Option<AnswerMemory>,
    ) -> Self {
        let (send, calls) = mpsc::unbounded_channel();
        let below = service_fn(move |attempt: Attempt| {
            let (reply, answer) = oneshot::channel();
            send.send((attempt, reply)).unwrap();
            async move { answer.await.expect("the test replies") }
        });
        let sink = Arc::new(RecordingSink::default());
        let tasks = Tasks::new();
        let metrics = Metrics::default();
        let single_flight = SingleFlight::new(
            Config {
                merge,
                attempt: Duration::from_mins(1),
            },
            tasks.clone(),
            Arc::clone(&sink) as Arc<dyn CacheSink>,
            Arc::new(upstream_profile),
            PredictedWait {
                scarcity: Arc::new(move |_| scarcity),
                turn: Arc::new(|_, caller| Duration::from_secs(if caller.name == Name::new("soon") { 5 } else { 77 })),
                ..predicted_wait(Duration::from_secs(77))
            },
            metrics.clone(),
        );
        let single_flight = match memory {
            Some(memory) => single_flight.with_memory(memory),
            None => single_flight,
        };
        Self {
            flights: middleware::layer(single_flight.clone()).layer(Below::new(below)),
            single_flight,
            calls,
            sink,
            tasks,
            metrics,
        }
    }

    pub(super) fn ask(&mut self, caller: Caller) -> JoinHandle<Result<ServedResponse, BoxError>> {
        self.ask_for(request(&["a"]), caller)
    }

    pub(super) fn ask_for(&mut self, request: Request, caller: Caller) -> JoinHandle<Result<ServedResponse, BoxError>> {
        let future = self.flights.call(Call {
            request: Arc::new(request),
            caller: Arc::new(caller),
        });
        self.tasks.spawn("test", future)
    }

    /// The next call, which still waits for its slot.
    pub(super) async fn waiting(&mut self) -> (Attempt, Reply) {
        // A call that does not come fails the test instead of hanging it.
        let next = tokio::time::timeout(Duration::from_hours(1), self.calls.recv()).await;
        next.expect("a call comes down").unwrap()
    }

    /// The next call, with its slot granted.
    pub(super) async fn departed(&mut self) -> (Attempt, Reply) {
        let (attempt, reply) = self.waiting().await;
        attempt.request.bind();
        (attempt, reply)
    }

    pub(super) async fn settled(&mut self) {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    /// Answers every call until no request waits any more; returns the ids of each call.
    pub(super) async fn answer_all(&mut self, answer: impl Fn(&Request) -> UpstreamResponse) -> Vec<Vec<String>> {
        let mut calls = Vec::new();
        while !self.tasks.is_empty() {
            let next = tokio::time::timeout(Duration::from_secs(3), self.calls.recv()).await;
            let Ok(Some((attempt, reply))) = next else { break };
            if reply.is_closed() {
                continue;
            }
            let request = attempt.request.bind().unwrap();
            self.settled().await;
            calls.push(request.ids().map(str::to_owned).collect());
            reply.send(Ok(answer(&request))).unwrap();
            self.settled().await;
        }
        // Flights that became members are no longer queued.
        while let Ok((_, reply)) = self.calls.try_recv() {
            assert!(reply.is_closed());
        }
        calls
    }

    pub(super) async fn nothing_is_left(mut self) {
        self.settled().await;
        assert!(
            self.single_flight.flight_table.len() == 0,
            "a flight is still in the table"
        );
        assert!(self.calls.try_recv().is_err(), "another call was made");
        assert_eq!(self.tasks.len(), 0, "a task is alive");
    }
}

/// The answer of an upstream that knows two rows of each id, and lists them in an order of its own.
pub(super) fn rows(request: &Request) -> UpstreamResponse {
    let mut rows = String::new();
    for n in [1, 2] {
        let mut ids: Vec<_> = request.ids().collect();
        ids.reverse();
        for id in ids {
            let comma = if rows.is_empty() { "" } else { "," };
            write!(rows, "{comma}{{\"scanDefinitionId\":\"{id}\",\"n\":{n}.0}}").unwrap();
        }
    }
    answer(format!("{{\"@odata.context\":\"c\",\"value\":[{rows}]}}").leak())
}

/// Forecasts of plentiful slots, with this wait for requests that come now.
pub(super) fn predicted_wait(wait: Duration) -> PredictedWait {
    PredictedWait {
        wait: Arc::new(move |_| wait),
        turn: Arc::new(move |_, _| wait),
        scarcity: Arc::new(|_| Scarcity::default()),
        slots: Arc::new(|_, _, _| 0),
        has_surplus: Arc::new(|_| true),
    }
}

/// Records the answers that it was given. The other answer, if there is one, has come by itself for
/// every request. The last are what its observers hear.
#[derive(Debug, Default)]
pub(super) struct RecordingSink(
    pub(super) Mutex<Vec<(Bytes, Instant)>>,
    pub(super) Mutex<Option<UpstreamResponse>>,
    pub(super) Arc<Mutex<Vec<&'static str>>>,
);

/// Records what it hears of its call.
#[derive(Debug)]
struct RecordingObserver(Arc<Mutex<Vec<&'static str>>>, AtomicBool);

impl CallObserver for RecordingObserver {
    fn has_left(&self, has_left: bool) {
        if self.1.swap(has_left, Ordering::Relaxed) != has_left {
            self.0.lock().unwrap().push(if has_left { "left" } else { "waits" });
        }
    }
}

impl Drop for RecordingObserver {
    fn drop(&mut self) {
        self.0.lock().unwrap().push("gone");
    }
}

/// All rows of a request.
#[derive(Debug)]
struct Whole(UpstreamResponse);

impl StoredRows for Whole {
    fn missing(&self) -> Option<&Request> {
        None
    }

    fn complete(&self, _: Option<&UpstreamResponse>) -> Option<(UpstreamResponse, Instant)> {
        Some((self.0.clone(), Instant::now()))
    }
}

impl RecordingSink {
    pub(super) fn kept(&self) -> Vec<Bytes> {
        self.0.lock().unwrap().iter().map(|(body, _)| body.clone()).collect()
    }

    /// What its observers have heard since the last time.
    pub(super) fn heard(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.2.lock().unwrap())
    }
}

impl CacheSink for RecordingSink {
    fn keep(&self, _: &Request, answer: &UpstreamResponse, asked: Instant) -> Option<Duration> {
        self.0.lock().unwrap().push((answer.body.clone(), asked));
        Some(Duration::from_secs(30))
    }

    fn observer(&self, _: &Request) -> Option<Box<dyn CallObserver>> {
        Some(Box::new(RecordingObserver(Arc::clone(&self.2), AtomicBool::new(false))))
    }

    fn rows_since(&self, _: &Arc<Request>, _: Instant) -> Option<Box<dyn StoredRows>> {
        let answer = self.1.lock().unwrap().clone()?;
        Some(Box::new(Whole(answer)))
    }
}

pub(super) fn request(ids: &[&str]) -> Request {
    Request::plain(Endpoint::HISTORY, ids.iter().copied()).unwrap()
}

pub(super) fn call(caller: Caller) -> Call {
    Call {
        request: Arc::new(request(&["a"])),
        caller: Arc::new(caller),
    }
}

pub(super) fn caller(name: &str, seconds: u64) -> Caller {
    Caller {
        name: Name::new(name),
        urgency: Urgency::default(),
        deadline: Instant::now() + Duration::from_secs(seconds),
        wait: None,
        cache_directives: CacheDirectives::default(),
        request_id: RequestId::random(),
        trace: crate::telemetry::trace::Trace::None,
        has_fallback: false,
    }
}

pub(super) fn no_cache(mut caller: Caller) -> Caller {
    caller.cache_directives.no_cache = true;
    caller
}

pub(super) fn no_store(mut caller: Caller) -> Caller {
    caller.cache_directives.no_store = true;
    caller
}

pub(super) fn answer(body: &'static str) -> UpstreamResponse {
    UpstreamResponse {
        status: StatusCode::OK,
        headers: Headers::default(),
        body: Bytes::from_static(body.as_bytes()),
    }
}

pub(super) fn failure(again: RetryHint) -> BoxError {
    Failure {
        delivery: Delivery::Unknown,
        again,
        answer: None,
        source: "connection lost".into(),
    }
    .into()
}

/// The queue's error when it has no slot in time.
pub(super) fn no_slot() -> BoxError {
    Failure {
        delivery: Delivery::NoSlot,
        again: RetryHint::InBatch,
        answer: None,
        source: "no slot in time".into(),
    }
    .into()
}

/// The innermost cause of an error, as text.
pub(super) fn root(error: &BoxError) -> String {
    let mut cause: &(dyn std::error::Error + 'static) = error.as_ref();
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

pub(super) async fn pass(seconds: u64) {
    advance(Duration::from_secs(seconds)).await;
}
