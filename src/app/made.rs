//! The parts, made and joined.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;

use super::lane::{self, Lanes};
use super::saved::Saved;
use super::surroundings::Surroundings;
use super::{Error, settings, token_proxy};
use crate::clock::Wall;
use crate::config::Resolved;
use crate::task::Tasks;
use crate::telemetry::trace::{self, Exporter, Tracer};
use crate::{cache, coalesce, fleet, net, queue, quota, region, scan, server, stack, token, upstream};

/// All parts of a gateway: the layers, and what is shown and stopped from outside of them.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) parts: stack::Parts,
    pub(super) net: net::Client,
    pub(super) regions: region::Table,
    pub(super) keeper: token::Keeper,
    pub(super) lanes: Lanes,
    pub(super) cache: Arc<cache::Cache>,
    pub(super) fleet: Option<fleet::Member>,
    pub(super) saved: Saved,
    pub(super) exporter: Exporter,
}

/// What many parts are made with.
struct Making<'a> {
    config: &'a Resolved,
    tasks: &'a Tasks,
    wall: Wall,
    root: &'a mut Registry,
}

impl Made {
    /// Makes every part; signing in begins, and the tasks of the queue.
    ///
    /// # Errors
    /// A file cannot be used, or a part refuses its settings.
    pub(super) fn new(
        config: &Resolved,
        surroundings: Surroundings,
        tasks: &Tasks,
        root: &mut Registry,
    ) -> Result<Self, Error> {
        let mut making = Making {
            config,
            tasks,
            wall: Wall::system(),
            root,
        };
        let net_config = settings::net(config, &surroundings.net)?;
        let net = net::Client::with_resolver(&net_config, surroundings.resolver)
            .map_err(Error::of("connections to the outside"))?;
        let mut region_config = settings::regions(config)?;
        (surroundings.regions)(&mut region_config);
        let attempt = settings::attempt(config, &net_config, &region_config);
        let regions = region::Table::new(region_config, region::Metrics::register(making.root));
        let (tracer, exporter) = making.traces(&net)?;
        let keeper = making.keeper(&net, &tracer)?;
        let (lanes, queue_metrics) = making.lanes(attempt)?;
        let fair_use = making.fair_use(queue_metrics);
        // What answers teach about pages and order is learnt by the flights and used by both.
        let lore = Arc::new(scan::Lore::new(config.merge.known_rows));
        let cache_metrics = cache::Metrics::register(making.root);
        let cache_config = settings::cache(config);
        let cache = Arc::new(cache::Cache::new(cache_config, Some(Arc::clone(&lore)), cache_metrics));
        let fleet = making.fleet(&cache);
        let coalesce = making.coalesce(attempt, keep(&cache, fleet.as_ref()), lore, &lanes);
        let count = server::count::Metrics::register(making.root);
        let saved = Saved::default();
        let calls = upstream::Metrics::register(making.root, regions.labels());
        let parts = stack::Parts {
            trace: server::trace::Layer::new(tracer),
            panic: server::panic::Layer::new(count.panics()),
            count: server::count::Layer::new(count),
            respond: settings::respond(config, lanes.quota()),
            guard: server::guard::Layer::new(settings::hosts(config)?),
            read: server::read::Layer::new(settings::read(config)),
            saved: super::SavedLayer::new(saved.clone()),
            fair_use,
            cache: making.cache(&cache, &lanes),
            fleet: fleet.clone().map_or_else(fleet::Layer::off, fleet::Layer::new),
            coalesce,
            lanes: lane::Layer::new(lanes.clone()),
            hedge: making.hedge(&lanes, &calls),
            quota: quota::Layer::new(making.wall),
            region: region::RegionLayer::new(regions.clone()),
            token: token::Layer::new(keeper.clone()),
            client: upstream::Client::new(net.clone(), settings::upstream(config), calls),
        };
        Ok(Self {
            parts,
            net,
            regions,
            keeper,
            lanes,
            cache,
            fleet,
            saved,
            exporter,
        })
    }
}

impl Making<'_> {
    /// Where spans are started, and the task that sends them.
    fn traces(&mut self, net: &net::Client) -> Result<(Tracer, Exporter), Error> {
        let Some(traces) = &self.config.telemetry.traces else {
            return Ok((Tracer::off(), Exporter::none()));
        };
        let collector = settings::collector(traces)?;
        let metrics = trace::Metrics::register(self.root);
        Ok(Exporter::start(collector, net.clone(), self.wall.clone(), metrics))
    }

    fn keeper(&mut self, net: &net::Client, tracer: &Tracer) -> Result<token::Keeper, Error> {
        let credentials = &self.config.credentials;
        let exchange = match settings::token_proxy(credentials) {
            Some(proxy) => token_proxy::exchange(net, proxy),
            None => net.exchange(settings::SIGN_IN_BYTES, settings::SIGN_IN_TIMEOUT),
        };
        let imds = net
            .direct()
            .exchange(settings::SIGN_IN_BYTES, settings::SIGN_IN_TIMEOUT);
        let in_spans = |exchange| trace::traced(exchange, tracer, "sign in");
        Ok(token::Keeper::start(
            settings::token(credentials)?,
            in_spans(exchange),
            in_spans(imds),
            self.wall.clone(),
            self.tasks,
            token::Metrics::register(self.root),
        ))
    }

    /// The lanes, and where queues report.
    fn lanes(&mut self, attempt: Duration) -> Result<(Lanes, queue::Metrics), Error> {
        let config = lane::Config {
            quota: settings::quota(self.config, attempt)?,
            queue: settings::queue(self.config),
        };
        let meters = lane::Meters {
            quota: quota::Metrics::register(self.root),
            queue: queue::Metrics::register(self.root),
        };
        let metrics = meters.quota.clone();
        let own = open_quota(
            self.config,
            attempt,
            self.wall.clone(),
            self.tasks,
            (self.root, metrics),
        )?;
        let queue = meters.queue.clone();
        Ok((Lanes::open(config, own, self.wall.clone(), self.tasks, meters), queue))
    }

    fn fair_use(&self, metrics: queue::Metrics) -> queue::FairUseLayer {
        let limit = self.config.callers.limit.as_ref();
        let fair_use = limit.and_then(|limit| queue::FairUse::new(limit.calls, limit.window));
        if let Some(fair_use) = &fair_use {
            fair_use.spawn_upkeep(self.tasks);
        }
        queue::FairUseLayer::new(fair_use, metrics)
    }

    fn cache(&self, cache: &Arc<cache::Cache>, lanes: &Lanes) -> cache::Layer {
        let lanes = lanes.clone();
        let surplus = Arc::new(move |holder| lanes.has_surplus(holder));
        cache::Layer::new(Arc::clone(cache), self.tasks.clone(), surplus)
    }

    /// What replicas share besides the quota, if they do.
    fn fleet(&mut self, cache: &Arc<cache::Cache>) -> Option<fleet::Member> {
        let config = settings::fleet(self.config)?;
        let memory = Arc::clone(cache);
        let adopt: fleet::Adopt = Arc::new(move |request, life, answer| {
            memory.adopt(request, answer, (life.asked, life.stored), life.ttl);
        });
        let metrics = fleet::Metrics::register(self.root);
        Some(fleet::Member::join(config, adopt, self.tasks, metrics))
    }

    fn coalesce(
        &mut self,
        attempt: Duration,
        keep: Arc<dyn scan::Keep>,
        lore: Arc<scan::Lore>,
        lanes: &Lanes,
    ) -> coalesce::Layer {
        let lanes = lanes.clone();
        coalesce::Layer::new(
            settings::coalesce(self.config, attempt),
            self.tasks.clone(),
            keep,
            lore,
            Arc::new(move |holder| lanes.predicted_wait(holder)),
            coalesce::Metrics::register(self.root),
        )
    }

    /// Second attempts are made only with calls that nobody will miss.
    fn hedge(&self, lanes: &Lanes, metrics: &upstream::Metrics) -> upstream::HedgeLayer<quota::Permit> {
        if !self.config.defender.hedge {
            return upstream::HedgeLayer::off();
        }
        let lanes = lanes.clone();
        upstream::HedgeLayer::new(Arc::new(move |holder| lanes.spare(holder)), metrics.clone())
    }
}

/// Where answers go that were paid for: into memory, and to the other replicas.
fn keep(cache: &Arc<cache::Cache>, fleet: Option<&fleet::Member>) -> Arc<dyn scan::Keep> {
    let memory = Arc::clone(cache) as Arc<dyn scan::Keep>;
    match fleet {
        Some(member) => Arc::new(fleet::Publisher::new(member.clone(), memory)),
        None => memory,
    }
}

/// The quota of this process, or the one that replicas share.
pub(super) fn open_quota(
    config: &Resolved,
    attempt: Duration,
    wall: Wall,
    tasks: &Tasks,
    (root, metrics): (&mut Registry, quota::Metrics),
) -> Result<quota::Quota, Error> {
    let quota_config = settings::quota(config, attempt)?;
    let Some(sharing) = settings::sharing(config) else {
        return quota::Quota::open(&quota_config, wall, metrics).map_err(Error::of("the quota's state file"));
    };
    let metrics = quota::shared::Metrics::register(root, metrics);
    Ok(quota::Quota::join(&quota_config, &sharing, tasks, metrics))
}
