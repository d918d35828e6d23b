//! The middle of the stack over an upstream that the test plays, in virtual time: the same layers
//! in the same order as in `stack.rs`.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode, header};
use prometheus_client::registry::Registry;
use tokio::time::{Instant, sleep};
use tower::util::BoxCloneService;
use tower::{BoxError, Layer as _, ServiceBuilder, ServiceExt as _, service_fn};

use defender_gateway::testing::attempt::{Attempt, Charged, QueuePosition, Retries};
use defender_gateway::testing::caller::{CacheDirectives, Caller, Name, RequestId, Urgency};
use defender_gateway::testing::clock::Wall;
use defender_gateway::testing::middleware::{Next, layer};
use defender_gateway::testing::scan::{
    CacheSink, Call, Endpoint, Merging, Outcome, Request, ServedResponse, Status, UpstreamProfile, UpstreamResponse,
};
use defender_gateway::testing::task::Tasks;
use defender_gateway::testing::{cache, queue, quota, single_flight, upstream};

/// The longest that a call takes.
const ATTEMPT: Duration = Duration::from_mins(1);

/// How much is shared. Each contains the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sharing {
    Nothing,
    Cache,
    SingleFlight,
    ById,
    /// With merging once it has been found out that it changes no answer.
    MergeProven,
    /// With merging as it is switched on, and nothing known of how long answers get.
    MergeBlind,
    /// With merging as it is switched on, and how long answers get is known.
    Merge,
}

/// Arrivals at the upstream: when, for what, and whether it was answered.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    pub(super) at: Instant,
    pub(super) ids: Vec<String>,
    /// Who pays for it.
    pub(super) caller: Name,
    /// Whether it asks with the largest `$top`.
    pub(super) all: bool,
    pub(super) good: bool,
}

pub(super) struct StackFixture {
    pub(super) front: BoxCloneService<Call, ServedResponse, BoxError>,
    pub(super) down: Arc<AtomicBool>,
    pub(super) arrivals: Arc<Mutex<Vec<Arrival>>>,
    pub(super) upstream_profile: Arc<UpstreamProfile>,
}

/// Whether a caller may get an answer that is past its freshness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StaleAnswers {
    Allowed,
    Off,
}

/// How the upstream sets its rows apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    Compact,
    Pretty,
}

/// How the upstream answers calls for many ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tenant {
    /// As it answers those for one.
    Consistent,
    /// Likewise, but each id has other rows after every ten minutes.
    Changing,
    /// With so many rows at most, without saying so.
    Caps(usize),
    /// With the oldest rows first.
    Reorders,
    /// With one row of each id.
    Deduplicates,
    /// With the ids in capitals.
    ChangesCasing,
    /// Not at all.
    Refuses,
}

impl Tenant {
    /// A call for more ids than this is one for many.
    pub(super) const MANY: usize = 6;
}

impl StackFixture {
    pub(super) fn new(sharing: Sharing, limits: &[(u32, u64)]) -> Self {
        Self::with(sharing, limits, StaleAnswers::Allowed, Layout::Compact)
    }

    pub(super) fn with(sharing: Sharing, limits: &[(u32, u64)], stale: StaleAnswers, layout: Layout) -> Self {
        Self::of(sharing, limits, stale, layout, Tenant::Consistent)
    }

    /// With merging once it has been found out that it changes no answer, before that upstream.
    pub(super) fn proving(tenant: Tenant, limits: &[(u32, u64)]) -> Self {
        let stale = StaleAnswers::Off;
        Self::of(Sharing::MergeProven, limits, stale, Layout::Compact, tenant)
    }

    fn of(sharing: Sharing, limits: &[(u32, u64)], stale: StaleAnswers, layout: Layout, tenant: Tenant) -> Self {
        let (tasks, mut registry) = (Tasks::new(), Registry::default());
        let registry = &mut registry;
        let quota = quota(limits, registry);
        let queue = queue::Queue::start(
            queue::Config::default(),
            quota.clone(),
            &tasks,
            queue::Metrics::register(registry),
        );
        let (down, arrivals) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let paid = ServiceBuilder::new()
            .layer(layer(upstream::Retry))
            .layer(layer(queue.clone()))
            .layer(layer(quota::Charging {
                wall: Wall::system(),
                registration: 0,
            }))
            .service(upstream(layout, tenant, &down, &arrivals));

        let upstream_profile = Arc::new(UpstreamProfile::new(match sharing {
            Sharing::MergeBlind | Sharing::MergeProven => 0,
            _ => 10_000,
        }));
        let merging = match sharing {
            Sharing::MergeBlind | Sharing::Merge => Merging::On,
            Sharing::MergeProven => Merging::Auto,
            _ => Merging::Off,
        };
        let defaults = cache::Config::default();
        let config = cache::Config {
            ttl: Duration::from_secs(if sharing >= Sharing::Cache { 30 } else { 0 }),
            prefetch: merging,
            ..match stale {
                StaleAnswers::Allowed => defaults,
                StaleAnswers::Off => cache::Config {
                    stale_while_revalidate: Duration::ZERO,
                    stale_if_error: Duration::ZERO,
                    ..defaults
                },
            }
        };
        let by_id = (sharing >= Sharing::ById).then(|| Arc::clone(&upstream_profile));
        let cache = Arc::new(cache::Cache::new(config, by_id, cache::Metrics::register(registry)));
        // The defaults.
        let merge = single_flight::BatchConfig {
            when: merging,
            max_ids: NonZeroUsize::new(100).unwrap(),
            gather: Duration::from_millis(5),
        };
        let flights = if sharing >= Sharing::SingleFlight {
            let config = single_flight::Config {
                merge,
                attempt: ATTEMPT,
            };
            let [scarcity, slots, surplus] = [(); 3].map(|()| quota.clone());
            let turns = queue.clone();
            let outlook = single_flight::PredictedWait {
                wait: Arc::new(move |_| queue.predicted_wait()),
                turn: Arc::new(move |_, caller| turns.predicted_turn(caller)),
                scarcity: Arc::new(move |_| scarcity.scarcity()),
                slots: Arc::new(move |_, until, most| slots.slots_until(until, most)),
                has_surplus: Arc::new(move |_| surplus.has_surplus()),
            };
            let keep = Arc::clone(&cache) as Arc<dyn CacheSink>;
            let metrics = single_flight::Metrics::register(registry);
            let profile = Arc::clone(&upstream_profile);
            let tasks = tasks.clone();
            let flights = single_flight::SingleFlight::new(config, tasks, keep, profile, outlook, metrics);
            layer(flights).layer(paid)
        } else {
            each_for_itself(paid, Arc::clone(&cache))
        };
        let surplus = Arc::new(move |_| quota.has_surplus());
        Self {
            front: BoxCloneService::new(cache::Layer::new(cache, tasks, surplus).layer(flights)),
            down,
            arrivals,
            upstream_profile,
        }
    }

    /// Asks, willing to wait for half a minute.
    pub(super) async fn ask(&self, name: &str, ids: &[String]) -> Result<ServedResponse, BoxError> {
        self.ask_with(name, ids, CacheDirectives::default()).await
    }

    pub(super) async fn ask_with(
        &self,
        name: &str,
        ids: &[String],
        cache_directives: CacheDirectives,
    ) -> Result<ServedResponse, BoxError> {
        let request = Request::plain(Endpoint::HISTORY, ids.iter().map(String::as_str)).unwrap();
        let caller = Caller {
            name: Name::new(name),
            urgency: Urgency::default(),
            deadline: Instant::now() + Duration::from_secs(30),
            wait: None,
            cache_directives,
            request_id: RequestId::random(),
            trace: defender_gateway::testing::telemetry::trace::Trace::None,
            has_fallback: false,
        };
        let (request, caller) = (Arc::new(request), Arc::new(caller));
        self.front.clone().oneshot(Call { request, caller }).await
    }
}

fn quota(limits: &[(u32, u64)], registry: &mut Registry) -> quota::Quota {
    let limits = limits.iter().map(|(calls, seconds)| {
        let calls = (*calls).try_into().unwrap();
        quota::Limit::try_new(calls, Duration::from_secs(*seconds)).unwrap()
    });
    let limits: Vec<_> = limits.collect();
    let burst = limits.iter().map(quota::Limit::calls).min().unwrap();
    let burst = u32::try_from(burst).unwrap().try_into().unwrap();
    let config = quota::Config::try_new(limits, burst, ATTEMPT).unwrap();
    quota::Quota::open(&config, Wall::system(), quota::Metrics::register(registry)).unwrap()
}

/// What stands in for the flights when nothing is joined.
fn each_for_itself(
    paid: Next<Attempt, UpstreamResponse, BoxError>,
    cache: Arc<cache::Cache>,
) -> Next<Call, ServedResponse, BoxError> {
    Next::new(service_fn(move |call: Call| {
        let (paid, cache) = (paid.clone(), Arc::clone(&cache));
        async move {
            let asked = Instant::now();
            let attempt = Attempt {
                request: Arc::clone(&call.request) as _,
                caller: call.caller,
                position: QueuePosition::new(asked),
                retries: Retries::default(),
            };
            let answer = paid.oneshot(attempt).await?;
            cache.keep(&call.request, &answer, asked);
            Ok(ServedResponse {
                may_link: true,
                answer,
                outcome: Outcome::Forwarded,
                status: Status::default(),
                age: None,
            })
        }
    }))
}

/// An upstream that takes 300 ms, with two rows for each id, newest first; or one that is out of
/// order.
fn upstream(
    layout: Layout,
    tenant: Tenant,
    down: &Arc<AtomicBool>,
    arrivals: &Arc<Mutex<Vec<Arrival>>>,
) -> Next<Charged> {
    let (down, arrivals) = (Arc::clone(down), Arc::clone(arrivals));
    Next::new(service_fn(move |call: Charged| {
        let good = !down.load(Ordering::Relaxed);
        arrivals.lock().unwrap().push(Arrival {
            at: Instant::now(),
            ids: call.request.ids().map(Into::into).collect(),
            caller: call.caller.name.clone(),
            all: call.request.asks_for_all(),
            good,
        });
        async move {
            sleep(Duration::from_millis(300)).await;
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            let is_many = call.request.ids().len() > Tenant::MANY;
            let (status, body) = if good && is_many && tenant == Tenant::Refuses {
                (StatusCode::BAD_REQUEST, REFUSAL.to_owned())
            } else if good {
                (StatusCode::OK, rows(&call.request, layout, tenant))
            } else {
                (StatusCode::SERVICE_UNAVAILABLE, String::new())
            };
            Ok(UpstreamResponse {
                status,
                headers: headers.into(),
                body: body.into(),
            })
        }
    }))
}

/// The time that has passed, as an upstream whose rows change sees it.
fn seconds() -> u64 {
    thread_local!(static START: Instant = Instant::now());
    START.with(Instant::elapsed).as_secs()
}

const REFUSAL: &str = r#"{"error":{"code":"MaximumBatchSizeExceeded","message":"too many ids","target":"1"}}"#;

/// What that upstream answers.
pub(super) fn rows(request: &Request, layout: Layout, tenant: Tenant) -> String {
    let is_many = request.ids().len() > Tenant::MANY;
    let mut rows: Vec<(u32, &str)> = Vec::new();
    for id in request.ids() {
        let n: u32 = id[2..].parse().unwrap();
        // All different, and in another order than the ids are.
        let newest = 20_000 + n * 7919 % 10_007;
        rows.push((n * 7919 % 10_007, id));
        if !(is_many && tenant == Tenant::Deduplicates) {
            rows.push((newest, id));
        }
        if tenant == Tenant::Changing {
            let age = 40_000 + u32::try_from(seconds() + u64::from(n * 17)).unwrap() / 600;
            rows.push((age, id));
        }
    }
    rows.sort_unstable_by(|one, other| other.cmp(one));
    match tenant {
        Tenant::Reorders if is_many => rows.reverse(),
        Tenant::Caps(most) => rows.truncate(most),
        _ => {}
    }
    let rows: Vec<_> = rows
        .iter()
        .map(|(time, id)| {
            let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
            let id = if is_many && tenant == Tenant::ChangesCasing {
                id.to_uppercase()
            } else {
                (*id).to_owned()
            };
            format!(
                "{{\"ScanDefinitionIds\":\"{id}\",\"LastScanned\":\"2026-03-01T{hour:02}:{minute:02}:{second:02}.0000000Z\"}}"
            )
        })
        .collect();
    match layout {
        Layout::Compact => format!("{{\"@odata.context\":\"c\",\"value\":[{}]}}", rows.join(",")),
        Layout::Pretty => format!(
            "{{\n  \"@odata.context\": \"c\",\n  \"value\": [\n    {}\n  ]\n}}",
            rows.join(",\n    ")
        ),
    }
}
