//! What outlives every configuration, and how parts are made on it.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::environment::HostEnvironment;
use super::supervised::Supervised;
use super::token_limiters::TokenLimiters;
use super::{settings, token_proxy};
use crate::clock::Wall;
use crate::config::Resolved;
use crate::memory::{AnswerMemory, MemoryBudget, Shares};
use crate::task::Tasks;
use crate::telemetry::trace::{self, Tracer};
use crate::{cache, net, queue, region, scan, server, shared_cache, single_flight, store, token};

/// What outlives every configuration.
#[derive(Clone, Debug)]
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
    pub(super) fn token_source(
        &self,
        config: &Resolved,
        token: token::Config,
        net: &net::Client,
        metrics: token::Metrics,
    ) -> Supervised<token::TokenSource> {
        let exchanges = token_proxy::exchanges(net, &config.credentials);
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
        let fair_use = queue::CallerLimiter::new(limit.calls, limit.window)?;
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
        cache: &Arc<cache::Cache>,
    ) -> Option<Supervised<shared_cache::SharedCache>> {
        let (store, metrics) = (self.store.clone()?, self.metrics.shared_cache.clone()?);
        let shared_cache = settings::shared_cache(config, store)?;
        let shared_cache = shared_cache.with_memory(self.memory.answers.clone());
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
        let [waits, scarcity, slots, surplus] = std::array::from_fn(|_| self.token_limiters.clone());
        let outlook = single_flight::PredictedWait {
            wait: Arc::new(move |payer| waits.predicted_wait(payer)),
            scarcity: Arc::new(move |payer| scarcity.scarcity(payer)),
            slots: Arc::new(move |payer, until, most| slots.slots_until(payer, until, most)),
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
