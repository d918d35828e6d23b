//! A cache over a service that the test controls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use prometheus_client::registry::Registry;
use tokio::time::{Instant, advance};
use tower::{Layer as _, Service as _, ServiceExt as _};
use tower_test::mock::{self, SendResponse};

use crate::BoxError;
use crate::cache::layer::CacheService;
use crate::cache::{Cache, Config, Layer, Metrics};
use crate::caller::{CacheDirectives, Caller, Name, RequestId, Urgency};
use crate::middleware::Next;
use crate::scan::{
    CacheSink as _, Call, Endpoint, Outcome, Request, ServedResponse, Status, UpstreamProfile, UpstreamResponse,
};
use crate::task::Tasks;

pub(super) type Below = mock::Handle<Call, ServedResponse>;

pub(super) struct Fixture {
    pub(super) cache: Arc<Cache>,
    pub(super) front: CacheService,
    pub(super) below: Below,
    pub(super) surplus: Arc<AtomicBool>,
    pub(super) tasks: Tasks,
}

impl Fixture {
    pub(super) fn new(config: Config) -> Self {
        Self::with(config, None)
    }

    pub(super) fn with(config: Config, upstream_profile: Option<Arc<UpstreamProfile>>) -> Self {
        let cache = Arc::new(Cache::new(
            config,
            upstream_profile,
            Metrics::register(&mut Registry::default()),
        ));
        let surplus = Arc::new(AtomicBool::new(true));
        let tasks = Tasks::new();
        let (mock, below) = mock::pair();
        let has_surplus = Arc::clone(&surplus);
        let layer = Layer::new(
            Arc::clone(&cache),
            tasks.clone(),
            Arc::new(move |_| has_surplus.load(Ordering::Relaxed)),
        );
        Self {
            cache,
            front: layer.layer(Next::new(mock)),
            below,
            surplus,
            tasks,
        }
    }

    pub(super) fn ask(
        &mut self,
        id: &str,
        cache_directives: CacheDirectives,
    ) -> tokio::task::JoinHandle<Result<ServedResponse, BoxError>> {
        let future = self.front.call(call(id, cache_directives));
        self.tasks.spawn("test", future)
    }

    /// The next call of the service below. A call that does not come fails the test instead of
    /// hanging it.
    pub(super) async fn next(&mut self) -> (Call, SendResponse<ServedResponse>) {
        let next = tokio::time::timeout(Duration::from_hours(1), self.below.next_request()).await;
        next.expect("a call comes").unwrap()
    }

    /// Answers the next call of the service below as a flight would, and stores the answer.
    pub(super) async fn answer(&mut self, status: u16, body: &'static str) -> Call {
        let (call, respond) = self.next().await;
        self.respond(&call, respond, answer(status, body));
        call
    }

    pub(super) fn respond(&self, call: &Call, respond: SendResponse<ServedResponse>, answer: UpstreamResponse) {
        let ttl = self.cache.keep(&call.request, &answer, Instant::now());
        respond.send_response(ServedResponse {
            may_link: true,
            answer,
            outcome: Outcome::Forwarded,
            status: Status {
                stored: ttl.is_some(),
                ttl: ttl.map(|ttl| i64::try_from(ttl.as_secs()).unwrap()),
                ..Status::default()
            },
            age: None,
        });
    }

    /// What the cache answers without calling the service below.
    pub(super) async fn stored(&mut self, id: &str) -> ServedResponse {
        let served = self.front.clone().oneshot(call(id, only_if_cached())).await.unwrap();
        assert_eq!(served.status.forward, None);
        served
    }

    pub(super) async fn fill(&mut self, id: &str, body: &'static str) {
        let asked = self.ask(id, CacheDirectives::default());
        self.answer(200, body).await;
        asked.await.unwrap().unwrap();
    }

    pub(super) async fn nothing_is_asked(&mut self) {
        let next = tokio::time::timeout(Duration::from_millis(1), self.below.next_request()).await;
        assert!(next.is_err(), "a call was made");
    }
}

pub(in crate::cache) fn call(id: &str, cache_directives: CacheDirectives) -> Call {
    Call {
        request: Arc::new(Request::plain(Endpoint::HISTORY, [id]).unwrap()),
        caller: Arc::new(Caller {
            name: Name::new("test"),
            urgency: Urgency::default(),
            deadline: Instant::now() + Duration::from_secs(30),
            wait: None,
            cache_directives,
            request_id: RequestId::random(),
            trace: crate::telemetry::trace::Trace::None,
            has_fallback: false,
        }),
    }
}

pub(super) fn answer(status: u16, body: &'static str) -> UpstreamResponse {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
    UpstreamResponse {
        status: StatusCode::from_u16(status).unwrap(),
        headers: headers.into(),
        body: Bytes::from_static(body.as_bytes()),
    }
}

/// An object of this many bytes.
pub(super) fn long(bytes: usize) -> Bytes {
    format!(r#"{{"value":["{}"]}}"#, "x".repeat(bytes - 14)).into()
}

pub(super) fn only_if_cached() -> CacheDirectives {
    CacheDirectives {
        only_if_cached: true,
        ..CacheDirectives::default()
    }
}

pub(super) fn no_cache() -> CacheDirectives {
    CacheDirectives {
        no_cache: true,
        ..CacheDirectives::default()
    }
}

pub(super) async fn pass(seconds: u64) {
    advance(Duration::from_secs(seconds)).await;
}
