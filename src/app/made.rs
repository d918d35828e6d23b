//! The parts, made and joined, as one configuration wants them.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::time::Instant;

use super::changes::Changes;
use super::ground::{Ground, Memory, Meters};
use super::lane::{self, Lanes};
use super::replicas::keep;
use super::surroundings::Surroundings;
use super::tended::{Tended, Upkeep};
use super::{Error, settings};
use crate::clock::Wall;
use crate::config::{self, Resolved};
use crate::scan::Operation;
use crate::task::Tasks;
use crate::telemetry::trace::{self, Exporter, Tracer};
use crate::{cache, coalesce, fleet, net, queue, quota, region, scan, server, stack, store, token, upstream};

/// How long new credentials may take to bring a token before the old ones are kept.
const SIGN_IN_PATIENCE: Duration = Duration::from_secs(15);

/// All parts of a gateway. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Made {
    pub(super) config: Resolved,
    pub(super) ground: Ground,
    net: net::Client,
    /// The way to the regions.
    region_client: net::Client,
    pub(super) regions: Tended<region::Table>,
    pub(super) keeper: Tended<token::Keeper>,
    fair_use: Option<Tended<queue::FairUse>>,
    lore: Arc<scan::Lore>,
    pub(super) cache: Arc<cache::Cache>,
    pub(super) fleet: Option<Tended<fleet::Member>>,
    coalesce: coalesce::Layer,
    pub(super) calls: upstream::Metrics,
    read: server::read::Layer,
    pub(super) guard: server::guard::Layer,
    lane: lane::Config,
}

/// The settings that parts are made with: all of them are right before any part is touched.
struct Plan {
    net: net::Config,
    regions: region::Config,
    token: token::Config,
    lane: lane::Config,
    hosts: server::guard::Hosts,
    attempt: Duration,
}

impl Plan {
    fn of(config: &Resolved, surroundings: &Surroundings) -> Result<Self, Error> {
        let shares = settings::shares(config, surroundings.machine);
        let net = net::Config {
            receive_buffer: shares.receive_buffer(),
            ..settings::net(config, &surroundings.net)?
        };
        let mut regions = settings::regions(config)?;
        (surroundings.regions)(&mut regions);
        let attempt = settings::attempt(config, &net, &regions);
        Ok(Self {
            hosts: settings::hosts(config)?,
            lane: lane::Config {
                quota: settings::quota(config, attempt)?,
                queue: settings::queue(config),
            },
            token: settings::token(&config.credentials)?,
            net,
            regions,
            attempt,
        })
    }
}

impl Made {
    /// Makes every part; signing in begins, and measuring the regions.
    ///
    /// # Errors
    /// A file cannot be used, or a part refuses its settings.
    pub(super) fn first(
        config: &Resolved,
        surroundings: Surroundings,
        tasks: &Tasks,
        root: &mut Registry,
    ) -> Result<(Self, Exporter), Error> {
        let plan = Plan::of(config, &surroundings)?;
        let net = connections(&plan.net, &surroundings)?;
        let wall = Wall::system();
        let store = settings::store(config).map(store::Client::from);
        let (own, quota_metrics) = open_quotas(config, plan.attempt, &wall, tasks, store.as_ref(), root)?;
        let lane_meters = lane::Meters {
            quota: quota_metrics,
            queue: queue::Metrics::register(root),
        };
        let meters = Meters {
            queue: lane_meters.queue.clone(),
            count: server::count::Metrics::register(root),
            token: token::Metrics::register(root),
            fleet: config.store.address.as_ref().map(|_| fleet::Metrics::register(root)),
        };
        let (tracer, exporter) = traces(config, &net, &wall, root)?;
        let ground = Ground {
            tracer,
            store,
            lanes: Lanes::open(plan.lane.clone(), own, wall.clone(), tasks, lane_meters),
            tasks: tasks.clone(),
            wall,
            memory: Memory::new(settings::shares(config, surroundings.machine)),
            surroundings,
            meters,
        };
        let keeper = ground.keeper(config, plan.token, &net)?;
        let region_client = region_client(&net, config);
        let regions = ground.regions(plan.regions, region::Metrics::register(root), &region_client);
        // What answers teach about pages and order is learnt by the flights and used by both.
        let lore = Arc::new(scan::Lore::new(config.merge.known_rows));
        let cache_config = settings::cache(config, &ground.memory.shares);
        let cache = cache::Cache::new(cache_config, Some(Arc::clone(&lore)), cache::Metrics::register(root));
        let cache = Arc::new(cache);
        let coalesce_metrics = coalesce::Metrics::register(root);
        let fleet = ground.fleet(config, &cache);
        let coalesce = ground.coalesce(
            config,
            plan.attempt,
            keep(&cache, fleet.as_ref()),
            &lore,
            coalesce_metrics,
        );
        let calls = upstream::Metrics::register(root, regions.part.labels());
        let made = Self {
            fair_use: ground.fair_use(config),
            read: server::read::Layer::new(settings::read(config, &ground.memory.shares)),
            guard: server::guard::Layer::new(plan.hosts),
            lane: plan.lane,
            config: config.clone(),
            ground,
            net,
            region_client,
            regions,
            keeper,
            lore,
            cache,
            fleet,
            coalesce,
            calls,
        };
        Ok((made, exporter))
    }

    /// The parts as `config` wants them: those whose settings are the same are kept, with all they know. Nothing changes for those who use
    /// the present parts; [`Made::take_over`] is the moment of change.
    ///
    /// Other credentials are taken only once they have brought a token, while the present token is good.
    ///
    /// # Errors
    /// A file cannot be used, a part refuses its settings, or the new credentials bring no token.
    pub(super) async fn next(&self, config: &Resolved) -> Result<Self, Error> {
        let changes = Changes::between(&self.config, config);
        let ground = &self.ground;
        let plan = Plan::of(config, &ground.surroundings)?;
        let other_net = changes.any(&["defender.via_proxy", "defender.ca_file"]);
        let net = if other_net {
            connections(&plan.net, &ground.surroundings)?
        } else {
            self.net.clone()
        };
        let keeper = if other_net || changes.sign_in() {
            let keeper = ground.keeper(config, plan.token, &net)?;
            if self.keeper.part.current().is_some() {
                let token = keeper.part.bearer(Instant::now() + SIGN_IN_PATIENCE).await;
                token.map_err(Error::of("the new credentials"))?;
            }
            keeper
        } else {
            self.keeper.clone()
        };
        let other_way = other_net || changes.any(&["defender.h2c"]);
        let region_client = if other_way {
            region_client(&net, config)
        } else {
            self.region_client.clone()
        };
        let other_regions = other_way || changes.any(&["defender.cloud", "defender.region", "defender.regions"]);
        let (regions, calls) = if other_regions {
            let metrics = self.regions.part.metrics().succeed();
            let regions = ground.regions(plan.regions, metrics, &region_client);
            // The first callers need not wait for what can be known before.
            regions.part.measured().await;
            let calls = self.calls.of_regions(regions.part.labels());
            (regions, calls)
        } else {
            (self.regions.clone(), self.calls.clone())
        };
        let keeps_lore = !changes.any(&["merge.known_rows"]);
        let lore = if keeps_lore {
            Arc::clone(&self.lore)
        } else {
            Arc::new(scan::Lore::new(config.merge.known_rows))
        };
        let (cache, fleet, coalesce) = self.sharing(config, plan.attempt, &lore);
        Ok(Self {
            fair_use: if changes.any(&["callers.limit"]) {
                ground.fair_use(config)
            } else {
                self.fair_use.clone()
            },
            read: if changes.reading() {
                server::read::Layer::new(settings::read(config, &ground.memory.shares))
            } else {
                self.read.clone()
            },
            guard: server::guard::Layer::new(plan.hosts),
            lane: plan.lane,
            config: config.clone(),
            ground: ground.clone(),
            net,
            region_client,
            regions,
            keeper,
            lore,
            cache,
            fleet,
            coalesce,
            calls,
        })
    }

    /// The cache and the flights. What was answered to one application is not for another.
    fn sharing(
        &self,
        config: &Resolved,
        attempt: Duration,
        lore: &Arc<scan::Lore>,
    ) -> (Arc<cache::Cache>, Option<Tended<fleet::Member>>, coalesce::Layer) {
        let cache_config = settings::cache(config, &self.ground.memory.shares);
        let lore = Arc::clone(lore);
        if settings::identity(config) != settings::identity(&self.config) {
            let cache = Arc::new(self.cache.emptied(cache_config, Some(Arc::clone(&lore))));
            let metrics = self.coalesce.metrics();
            let fleet = self.ground.fleet(config, &cache);
            let keep = keep(&cache, fleet.as_ref());
            let coalesce = self.ground.coalesce(config, attempt, keep, &lore, metrics);
            return (cache, fleet, coalesce);
        }
        let cache = Arc::new(self.cache.reconfigured(cache_config, Some(Arc::clone(&lore))));
        let flights = settings::coalesce(config, attempt);
        let fleet = self.ground.fleet(config, &cache);
        let coalesce = self.coalesce.reconfigured(flights, keep(&cache, fleet.as_ref()), lore);
        (cache, fleet, coalesce)
    }

    /// Where merged calls are counted; `None` when nothing is merged.
    pub(super) fn merging(&self) -> Option<coalesce::Metrics> {
        self.config.merge.enabled.then(|| self.coalesce.metrics())
    }

    /// Queue and quota, which all configurations share, go on as this one says.
    pub(super) fn take_over(&self) {
        self.ground.lanes.reconfigure(self.lane.clone());
    }

    /// The layers of the request path.
    pub(super) fn parts(&self) -> stack::Parts {
        let (config, ground) = (&self.config, &self.ground);
        let (lanes, count) = (&ground.lanes, ground.meters.count.clone());
        let cache_lanes = lanes.clone();
        let fair_use = self.fair_use.as_ref().map(|tended| tended.part.clone());
        stack::Parts {
            trace: server::trace::Layer::new(ground.tracer.clone()),
            respond: settings::respond(config, lanes, &count.panics(), &ground.memory),
            count: server::count::Layer::new(count, settings::count(config)),
            guard: self.guard.clone(),
            read: self.read.clone(),
            fair_use: queue::FairUseLayer::new(fair_use, ground.meters.queue.clone()),
            cache: cache::Layer::new(
                Arc::clone(&self.cache),
                ground.tasks.clone(),
                Arc::new(move |payer| cache_lanes.has_surplus(payer)),
            ),
            request_memory: super::RequestMemoryLayer::new(Arc::clone(&ground.memory.waiting)),
            fleet: self
                .fleet
                .as_ref()
                .map_or_else(fleet::Layer::off, |tended| fleet::Layer::new(tended.part.clone())),
            coalesce: self.coalesce.clone(),
            lanes: lane::Layer::new(lanes.clone()),
            quota: quota::Layer::new(ground.wall.clone()),
            region: region::RegionLayer::new(self.regions.part.clone()),
            token: token::Layer::new(self.keeper.part.clone()),
            client: upstream::Client::new(
                self.region_client.clone(),
                settings::upstream(config),
                ground.memory.answers.clone(),
                self.calls.clone(),
            ),
        }
    }

    /// What these parts need in the background.
    pub(super) fn upkeep(&self) -> Upkeep {
        let upkeep = Upkeep::default().and(&self.keeper.upkeep).and(&self.regions.upkeep);
        let upkeep = match &self.fleet {
            Some(fleet) => upkeep.and(&fleet.upkeep),
            None => upkeep,
        };
        match &self.fair_use {
            Some(fair_use) => upkeep.and(&fair_use.upkeep),
            None => upkeep,
        }
    }
}

/// The way to the regions over `net`.
pub(super) fn region_client(net: &net::Client, config: &Resolved) -> net::Client {
    if config.defender.h2c {
        net.cleartext_http2()
    } else {
        net.clone()
    }
}

fn connections(config: &net::Config, surroundings: &Surroundings) -> Result<net::Client, Error> {
    net::Client::with_resolver(config, surroundings.resolver.clone()).map_err(Error::of("connections to the outside"))
}

/// Where spans are started, and the task that sends them.
fn traces(config: &Resolved, net: &net::Client, wall: &Wall, root: &mut Registry) -> Result<(Tracer, Exporter), Error> {
    let Some(traces) = &config.telemetry.traces else {
        return Ok((Tracer::off(), Exporter::none()));
    };
    let collector = settings::collector(traces)?;
    let metrics = trace::Metrics::register(root);
    Ok(Exporter::start(collector, net.clone(), wall.clone(), metrics))
}

/// The gateway's quotas: one for all operations, or one for each, with an `operation` in their metrics. Delegated tokens' quotas report to
/// the metrics returned.
pub(super) fn open_quotas(
    config: &Resolved,
    attempt: Duration,
    wall: &Wall,
    tasks: &Tasks,
    store: Option<&store::Client>,
    root: &mut Registry,
) -> Result<(Vec<quota::Quota>, quota::Metrics), Error> {
    if config.quota.scope == config::Scope::All {
        let metrics = quota::Metrics::register(root);
        let quota = open_quota(
            config,
            None,
            attempt,
            wall.clone(),
            tasks,
            store,
            (root, metrics.clone()),
        )?;
        return Ok((vec![quota], metrics));
    }
    let open = |operation: Operation| {
        let label = ("operation".into(), operation.declaration().name.into());
        let registry = root.sub_registry_with_label(label);
        let metrics = quota::Metrics::register(registry);
        open_quota(
            config,
            Some(operation),
            attempt,
            wall.clone(),
            tasks,
            store,
            (registry, metrics),
        )
    };
    let quotas = Operation::ALL.into_iter().map(open).collect::<Result<_, _>>()?;
    Ok((quotas, quota::Metrics::default()))
}

/// The quota of this process, or the one that replicas share: that of one operation, or of all.
fn open_quota(
    config: &Resolved,
    operation: Option<Operation>,
    attempt: Duration,
    wall: Wall,
    tasks: &Tasks,
    store: Option<&store::Client>,
    (root, metrics): (&mut Registry, quota::Metrics),
) -> Result<quota::Quota, Error> {
    let quota_config = settings::quota_of(operation, config, attempt)?;
    let Some(sharing) = store.map(|store| settings::sharing_of(operation, config, store.clone())) else {
        return quota::Quota::open(&quota_config, wall, metrics).map_err(Error::of("the quota's state file"));
    };
    let metrics = quota::shared::Metrics::register(root, metrics);
    Ok(quota::Quota::join(&quota_config, &sharing, tasks, metrics))
}
