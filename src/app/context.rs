//! What outlives every configuration, and how parts are made on it, with their work in the
//! background.

use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::DropGuard;

use super::merge_memory::MergeTurns;
use super::token_limiters::TokenLimiters;
use super::{Error, settings};
use crate::clock::Wall;
use crate::config::{self, Resolved};
use crate::memory::{ALLOCATED_PER_BYTE, AnswerMemory, Exhausted, MemoryBudget, REQUEST, Shares};
use crate::middleware::{Middleware, Next};
use crate::resources::Machine;
use crate::scan::{self, Call, Operation, ServedResponse};
use crate::task::Tasks;
use crate::telemetry::trace::{self, Tracer};
use crate::{BoxError, cache, net, queue, quota, region, server, shared_cache, single_flight, store, token};

/// What outlives every configuration.
#[derive(Clone)]
pub(super) struct SharedContext {
    pub(super) tasks: Tasks,
    pub(super) wall: Wall,
    pub(super) environment: HostEnvironment,
    pub(super) tracer: Tracer,
    /// The connections in use, for what is made once.
    pub(super) way_out: Arc<ArcSwap<net::Client>>,
    /// What replicas share the quota and answers through, if there is one: as it was at the start.
    pub(super) store: Option<store::Client>,
    pub(super) token_limiters: TokenLimiters,
    pub(super) metrics: SharedMetrics,
    pub(super) memory: Memory,
    pub(super) merge_turns: MergeTurns,
    /// When the last call may leave; `None` in it before the stop.
    pub(super) closing: watch::Sender<Option<Instant>>,
}

/// What each purpose may take of the memory, and the budgets of those that are shared. Divided
/// once: what is held outlives settings.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    pub(super) shares: Shares,
    pub(super) answers: AnswerMemory,
    pub(super) waiting: Arc<MemoryBudget>,
}

impl Memory {
    pub(super) fn new(shares: Shares) -> Self {
        Self {
            shares,
            answers: shares.answers(),
            waiting: MemoryBudget::new(shares.waiting),
        }
    }
}

/// Where parts report that may be made anew.
#[derive(Clone, Debug)]
pub(super) struct SharedMetrics {
    pub(super) queue: queue::Metrics,
    pub(super) count: server::access_log::Metrics,
    pub(super) token: token::Metrics,
    /// Registered if there was a store at the start; whether there is one does not change.
    pub(super) shared_cache: Option<shared_cache::Metrics>,
}

impl SharedContext {
    /// No call leaves after `last`: who would have to wait longer is told.
    pub(super) fn close(&self, last: Instant) {
        self.token_limiters.close(last);
        self.closing.send_replace(Some(last));
    }

    pub(super) fn token_source(
        &self,
        config: &Resolved,
        token: token::Config,
        net: &net::Client,
        metrics: token::Metrics,
    ) -> Supervised<token::TokenSource> {
        let exchanges = settings::exchanges(net, &config.credentials);
        let [exchange, imds] = exchanges.map(|exchange| trace::traced(exchange, &self.tracer, "sign in"));
        let wall = self.wall.clone();
        Supervised::make(&self.tasks, |tasks| {
            token::TokenSource::start(token, exchange, imds, wall, tasks, metrics)
        })
    }

    pub(super) fn regions(
        &self,
        config: region::Config,
        metrics: region::Metrics,
        net: &net::Client,
    ) -> Supervised<region::HostSelector> {
        Supervised::make(&self.tasks, |tasks| {
            let table = region::HostSelector::new(config, metrics);
            table.watch(tasks, net.connector().clone());
            table
        })
    }

    pub(super) fn fair_use(&self, config: &Resolved) -> Option<Supervised<queue::CallerLimiter>> {
        let limit = config.callers.limit.as_ref()?;
        let fair_use = queue::CallerLimiter::new(limit.exact_calls(), limit.window())?;
        Some(Supervised::make(&self.tasks, |tasks| {
            fair_use.spawn_upkeep(tasks);
            fair_use
        }))
    }

    /// What replicas share besides the quota, if they do. Made anew with every configuration: whose
    /// answers they are may be another's.
    pub(super) fn shared_cache(
        &self,
        config: &Resolved,
        attempt: Duration,
        cache: &Arc<cache::Cache>,
    ) -> Option<Supervised<shared_cache::SharedCache>> {
        let (store, metrics) = (self.store.clone()?, self.metrics.shared_cache.clone()?);
        let mut shared_cache = settings::shared_cache(config, store)?;
        shared_cache.attempt = attempt;
        shared_cache.memory = Some(self.memory.answers.clone());
        shared_cache.closing = Some(self.closing.subscribe());
        let memory = Arc::clone(cache);
        let adopt: shared_cache::InsertLocal = Arc::new(move |request, found| {
            memory.insert_remote(request, &found.answer, (found.asked, found.stored), found.ttl);
        });
        Some(Supervised::make(&self.tasks, |tasks| {
            shared_cache::SharedCache::join(shared_cache, adopt, tasks, metrics)
        }))
    }

    pub(super) fn single_flight(
        &self,
        config: &Resolved,
        attempt: Duration,
        keep: Arc<dyn scan::CacheSink>,
        upstream_profile: &Arc<scan::UpstreamProfile>,
        metrics: single_flight::Metrics,
    ) -> single_flight::SingleFlight {
        let [waits, turns, scarcity, slots, surplus] = std::array::from_fn(|_| self.token_limiters.clone());
        let outlook = single_flight::PredictedWait {
            wait: Arc::new(move |payer| waits.predicted_wait(payer)),
            turn: Arc::new(move |payer, caller| turns.of(payer, |limiter| limiter.queue.predicted_turn(caller))),
            scarcity: Arc::new(move |payer| scarcity.of(payer, |limiter| limiter.quota.scarcity())),
            slots: Arc::new(move |payer, until, most| {
                slots.of(payer, |limiter| limiter.quota.slots_until(until, most))
            }),
            has_surplus: Arc::new(move |payer| surplus.has_surplus(payer)),
        };
        single_flight::SingleFlight::new(
            settings::single_flight(config, attempt),
            self.tasks.clone(),
            keep,
            Arc::clone(upstream_profile),
            outlook,
            metrics,
        )
    }
}

/// Where answers go that were paid for: into memory, and to the other replicas.
pub(super) fn keep(
    cache: &Arc<cache::Cache>,
    shared_cache: Option<&Supervised<shared_cache::SharedCache>>,
) -> Arc<dyn scan::CacheSink> {
    let memory = Arc::clone(cache) as Arc<dyn scan::CacheSink>;
    match shared_cache {
        Some(supervised) => Arc::new(shared_cache::Publisher::new(supervised.part.clone(), memory)),
        None => memory,
    }
}

/// How names are looked up, and the times of connections and probes. Tests of faults shorten the
/// times and make names fail.
#[derive(Clone)]
pub struct HostEnvironment {
    /// Finds addresses.
    pub resolver: net::Resolver,
    /// Times of connections; the proxy and the CA file in it are replaced by the configuration's.
    pub net: net::Config,
    /// Changes the times of probes and backoffs.
    pub regions: fn(&mut region::Config),
    /// How often a replica asks the store what others have found out about merging.
    pub merge_interval: Duration,
    /// What the machine lets this process use.
    pub machine: Machine,
}

impl Default for HostEnvironment {
    fn default() -> Self {
        Self {
            resolver: net::Resolver::system(),
            net: net::Config::default(),
            regions: |_| {},
            merge_interval: Duration::from_mins(1),
            machine: Machine::detect(),
        }
    }
}

/// Background work goes on while a clone of this is kept. The empty one keeps nothing up.
#[derive(Clone, Debug, Default)]
pub(super) struct BackgroundTasks(Vec<Arc<DropGuard>>);

impl BackgroundTasks {
    pub(super) fn together<'a>(all: impl IntoIterator<Item = &'a Self>) -> Self {
        Self(all.into_iter().flat_map(|one| one.0.iter().cloned()).collect())
    }

    /// Keeps up what is still going on: for flights, which a request begins that keeps this alive.
    /// What waits for a request must not do so itself.
    pub(super) fn keep_up(&self) -> single_flight::KeepUp {
        let tasks: Vec<_> = self.0.iter().map(Arc::downgrade).collect();
        Arc::new(move || Box::new(tasks.iter().filter_map(Weak::upgrade).collect::<Vec<_>>()))
    }
}

/// A part and its upkeep.
#[derive(Clone, Debug)]
pub(super) struct Supervised<T> {
    pub(super) part: T,
    pub(super) upkeep: BackgroundTasks,
}

impl<T> Supervised<T> {
    /// Makes a part, whose background work runs as the tasks it is given.
    pub(super) fn make(tasks: &Tasks, make: impl FnOnce(&Tasks) -> T) -> Self {
        let (branch, guard) = tasks.branch();
        Self {
            part: make(&branch),
            upkeep: BackgroundTasks(vec![Arc::new(guard)]),
        }
    }
}

/// One quota for all operations, or one for each, with an `operation` in their metrics. The quotas
/// of callers' own tokens report to the metrics returned.
pub(super) fn open_quotas(
    config: &Resolved,
    attempt: Duration,
    wall: &Wall,
    tasks: &Tasks,
    store: Option<&store::Client>,
    root: &mut Registry,
) -> Result<Vec<quota::Quota>, Error> {
    let open = |operation: Option<Operation>, registry: &mut Registry, metrics: quota::Metrics| {
        let quota_config = settings::quota_of(operation, config, attempt)?;
        let Some(store) = store else {
            let opened = quota::Quota::open(&quota_config, wall.clone(), metrics);
            return opened.map_err(Error::of("the quota's state file"));
        };
        let sharing = settings::sharing_of(operation, config, store.clone());
        let metrics = quota::shared::Metrics::register(registry, metrics);
        Ok(quota::Quota::join(&quota_config, &sharing, tasks, metrics))
    };
    if config.quota.scope == config::Scope::All {
        let metrics = quota::Metrics::register(root);
        return Ok(vec![open(None, root, metrics)?]);
    }
    let quotas = Operation::ALL.into_iter().map(|operation| {
        let label = ("operation".into(), operation.declaration().name.into());
        let registry = root.sub_registry_with_label(label);
        let metrics = quota::Metrics::register(registry);
        open(Some(operation), registry, metrics)
    });
    quotas.collect()
}

/// Memory for requests that the cache could not answer: as many may wait as there is memory for,
/// and the others are told so at once.
#[derive(Clone, Debug)]
pub struct RequestMemory(pub(super) Arc<MemoryBudget>);

impl Middleware<Call, Next<Call, ServedResponse, BoxError>, ServedResponse, BoxError> for RequestMemory {
    async fn call(&self, call: Call, next: &Next<Call, ServedResponse, BoxError>) -> Result<ServedResponse, BoxError> {
        // The ids as they came in, and once more as they go out.
        let bytes = REQUEST + call.request.key().len() * ALLOCATED_PER_BYTE;
        let _reservation = self.0.try_reserve(bytes).ok_or(Exhausted { of: "requests" })?;
        next.call(call).await
    }
}
