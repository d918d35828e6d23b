//! The running gateway.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::saved::Saved;
use super::status::Status;
use super::{Error, settings};
use crate::clock::Wall;
use crate::config::Resolved;
use crate::task::Tasks;
use crate::telemetry::metrics::{Mode, Registry};
use crate::{cache, coalesce, net, queue, quota, region, respond, server, stack, token, upstream};

/// A gateway whose listeners are bound and whose upkeep runs; [`Gateway::serve`] lets callers in.
#[derive(Debug)]
pub struct Gateway {
    data: server::Bound,
    parts: stack::Parts,
    status: Status,
    tasks: Tasks,
    registry: Registry,
}

/// How a gateway ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Connections that were cut at the end of the drain, with requests in flight.
    pub cut: usize,
    /// Tasks that did not end in time.
    pub left: usize,
}

impl Gateway {
    /// Builds every part, takes the addresses, starts upkeep: signing in, probing regions. Needs a running tokio runtime.
    ///
    /// # Errors
    /// [`Error`] when an address is taken, a file cannot be used, or a part refuses its settings.
    pub async fn start(config: &Resolved) -> Result<Self, Error> {
        let tasks = Tasks::new();
        let wall = Wall::system();
        let mut registry = Registry::new(env!("CARGO_PKG_VERSION"));
        let root = registry.root();

        let net_config = settings::net(config)?;
        let net = net::Client::new(&net_config).map_err(Error::of("connections to the outside"))?;

        let region_config = settings::regions(config)?;
        let attempt = settings::attempt(config, &net_config, &region_config);
        let regions = region::Table::new(region_config, region::Metrics::register(root));

        let keeper = {
            let config = settings::token(&config.credentials)?;
            let exchange = net.exchange(settings::SIGN_IN_BYTES, settings::SIGN_IN_TIMEOUT);
            let imds = net.direct().exchange(settings::SIGN_IN_BYTES, settings::SIGN_IN_TIMEOUT);
            token::Keeper::start(config, exchange, imds, wall.clone(), &tasks, token::Metrics::register(root))
        };

        let quota_config = settings::quota(config, attempt)?;
        let quota = quota::Quota::open(&quota_config, wall.clone(), quota::Metrics::register(root))
            .map_err(Error::of("the quota's state file"))?;

        let queue_metrics = queue::Metrics::register(root);
        let queue = queue::Queue::start(settings::queue(config), quota.clone(), &tasks, queue_metrics.clone());
        let fair_use = config.callers.limit.as_ref().and_then(|limit| queue::FairUse::new(limit.calls, limit.window));
        if let Some(fair_use) = &fair_use {
            fair_use.spawn_upkeep(&tasks);
        }

        let cache = Arc::new(cache::Cache::new(settings::cache(config), cache::Metrics::register(root)));
        let count = server::count::Metrics::register(root);
        let saved = Saved::default();
        let upstream_metrics = upstream::Metrics::register(root, regions.labels());

        let parts = stack::Parts {
            panic: server::panic::Layer::new(count.panics()),
            count: server::count::Layer::new(count),
            respond: respond::Layer::new(settings::respond(config, &quota)),
            guard: server::guard::Layer::new(settings::hosts(config)?),
            read: server::read::Layer::new(settings::read(config)),
            saved: super::SavedLayer::new(saved.clone()),
            fair_use: queue::FairUseLayer::new(fair_use, queue_metrics),
            cache: cache::Layer::new(Arc::clone(&cache), tasks.clone(), {
                let quota = quota.clone();
                Arc::new(move || quota.has_surplus())
            }),
            coalesce: coalesce::Layer::new(coalesce::Config { attempt }, tasks.clone(), Arc::clone(&cache) as _, {
                let queue = queue.clone();
                Arc::new(move || queue.snapshot().predicted_wait)
            }),
            queue: queue::Layer::new(queue.clone()),
            quota: quota::Layer::new(wall),
            region: region::RegionLayer::new(regions.clone()),
            token: token::Layer::new(keeper.clone()),
            client: upstream::Client::new(net.clone(), settings::upstream(config), upstream_metrics),
        };
        let data = server::Bound::bind(settings::data_listener(config)).await.map_err(Error::of("the data listener"))?;
        regions.watch(&tasks, net.connector().clone());
        let status = Status { started: Instant::now(), quota, queue, regions, keeper, cache, saved };
        Ok(Self { data, parts, status, tasks, registry })
    }
}
