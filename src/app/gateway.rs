//! The running gateway.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::admin_thread::AdminThread;
use super::saved::Saved;
use super::status::Status;
use super::surroundings::Surroundings;
use super::{Error, settings, token_proxy};
use crate::clock::Wall;
use crate::config::Resolved;
use crate::task::Tasks;
use crate::telemetry::metrics::{Mode, ModeGauge, Registry};
use crate::{admin, cache, coalesce, net, queue, quota, region, respond, scan, server, stack, token, upstream};

/// A gateway whose listeners are bound and whose upkeep runs; [`Gateway::serve`] lets callers in.
#[derive(Debug)]
pub struct Gateway {
    data: server::Bound,
    admin: AdminThread,
    parts: stack::Parts,
    queue: queue::Queue<quota::Quota>,
    health: admin::Health,
    mode: ModeGauge,
    tasks: Tasks,
    stop: CancellationToken,
    linger: Duration,
    drain: Duration,
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
        Self::start_in(config, Surroundings::default()).await
    }

    /// The same in other surroundings, for tests.
    ///
    /// # Errors
    /// As [`Gateway::start`].
    pub async fn start_in(config: &Resolved, surroundings: Surroundings) -> Result<Self, Error> {
        let tasks = Tasks::new();
        let wall = Wall::system();
        let mut registry = Registry::new(env!("CARGO_PKG_VERSION"));
        let root = registry.root();

        let net_config = settings::net(config, &surroundings.net)?;
        let net = net::Client::with_resolver(&net_config, surroundings.resolver)
            .map_err(Error::of("connections to the outside"))?;

        let mut region_config = settings::regions(config)?;
        (surroundings.regions)(&mut region_config);
        let attempt = settings::attempt(config, &net_config, &region_config);
        let regions = region::Table::new(region_config, region::Metrics::register(root));

        let keeper = {
            let exchange = match settings::token_proxy(&config.credentials) {
                Some(proxy) => token_proxy::exchange(&net, proxy),
                None => net.exchange(settings::SIGN_IN_BYTES, settings::SIGN_IN_TIMEOUT),
            };
            let config = settings::token(&config.credentials)?;
            let imds = net
                .direct()
                .exchange(settings::SIGN_IN_BYTES, settings::SIGN_IN_TIMEOUT);
            token::Keeper::start(
                config,
                exchange,
                imds,
                wall.clone(),
                &tasks,
                token::Metrics::register(root),
            )
        };

        let quota = open_quota(config, attempt, wall.clone(), &tasks, root)?;

        let queue_metrics = queue::Metrics::register(root);
        let queue = queue::Queue::start(settings::queue(config), quota.clone(), &tasks, queue_metrics.clone());
        let fair_use = config
            .callers
            .limit
            .as_ref()
            .and_then(|limit| queue::FairUse::new(limit.calls, limit.window));
        if let Some(fair_use) = &fair_use {
            fair_use.spawn_upkeep(&tasks);
        }

        // What answers teach about pages and order is learnt by the flights and used by both.
        let lore = Arc::new(scan::Lore::new(config.merge.known_rows));
        let cache_metrics = cache::Metrics::register(root);
        let cache = Arc::new(cache::Cache::new(
            settings::cache(config),
            Some(Arc::clone(&lore)),
            cache_metrics,
        ));
        let coalesce_metrics = coalesce::Metrics::register(root);
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
            coalesce: {
                let config = settings::coalesce(config, attempt);
                let outlook = queue.clone();
                let outlook = Arc::new(move || outlook.predicted_wait());
                coalesce::Layer::new(
                    config,
                    tasks.clone(),
                    Arc::clone(&cache) as _,
                    lore,
                    outlook,
                    coalesce_metrics,
                )
            },
            queue: queue::Layer::new(queue.clone()),
            hedge: hedge(config, &quota, &upstream_metrics),
            quota: quota::Layer::new(wall),
            region: region::RegionLayer::new(regions.clone()),
            token: token::Layer::new(keeper.clone()),
            client: upstream::Client::new(net.clone(), settings::upstream(config), upstream_metrics),
        };
        let data = server::Bound::bind(settings::data_listener(config))
            .await
            .map_err(Error::of("the data listener"))?;
        regions.watch(&tasks, net.connector().clone());
        let status = Status {
            started: Instant::now(),
            quota,
            queue: queue.clone(),
            regions,
            keeper,
            cache,
            saved,
        };
        let stop = CancellationToken::new();
        let mode = registry.mode();
        let health = admin::Health::new(status.checks());
        let view = view(config, registry, status, health.clone(), stop.clone());
        let admin = AdminThread::start(settings::admin_listener(config), admin::Admin::new(view))?;
        Ok(Self {
            data,
            admin,
            parts,
            queue,
            health,
            mode,
            tasks,
            stop,
            linger: config.server.linger,
            drain: config.server.drain,
        })
    }

    /// Where callers are served; port 0 has become the port that was chosen.
    #[must_use]
    pub fn addresses(&self) -> &[server::Address] {
        self.data.addresses()
    }

    /// Where health, metrics and status are served.
    #[must_use]
    pub fn admin_address(&self) -> &server::Address {
        self.admin.address()
    }

    /// Ends the gateway when cancelled, as `POST /quitquitquit` does.
    #[must_use]
    pub fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Answers callers until the stop, then drains: what can be answered in time is, what cannot is told at once.
    ///
    /// # Cancel safety
    /// Dropping the future cuts all connections.
    pub async fn serve(self) -> Ended {
        let Self {
            data,
            admin,
            parts,
            queue,
            health,
            mode,
            tasks,
            stop,
            linger,
            drain,
        } = self;
        health.set_ready();
        let draining = async {
            stop.cancelled().await;
            tracing::info!(
                linger_s = linger.as_secs(),
                drain_s = drain.as_secs(),
                "draining: after the linger no new connections; work in flight is finished"
            );
            health.set_draining();
            mode.set(Mode::Draining);
            // The last call must leave early enough for its answer to arrive.
            queue.close(Instant::now() + linger + drain.saturating_sub(ANSWER));
        };
        let serving = data.serve(stack::build(parts), &tasks, stop.clone());
        let (drained, ()) = tokio::join!(serving, draining);
        let left = tasks.finish(Duration::from_secs(1)).await;
        admin.finish().await;
        tracing::info!(cut = drained.cut, left, "stopped");
        Ended { cut: drained.cut, left }
    }
}

/// Time kept at the end of the drain for answers to arrive.
const ANSWER: Duration = Duration::from_secs(3);

/// Second attempts are made only with calls that nobody will miss.
fn hedge(config: &Resolved, quota: &quota::Quota, metrics: &upstream::Metrics) -> upstream::HedgeLayer<quota::Permit> {
    if !config.defender.hedge {
        return upstream::HedgeLayer::off();
    }
    let quota = quota.clone();
    let spare = move || quota.has_surplus().then(|| quota.take(Instant::now()).ok()).flatten();
    upstream::HedgeLayer::new(Arc::new(spare), metrics.clone())
}

fn view(
    config: &Resolved,
    registry: Registry,
    status: Status,
    health: admin::Health,
    stop: CancellationToken,
) -> admin::View {
    let quota = status.quota.clone();
    let quit: Arc<dyn Fn() + Send + Sync> = Arc::new(move || stop.cancel());
    admin::View {
        status: {
            let health = health.clone();
            Arc::new(move || status.show(mode(&health, &status.quota)))
        },
        metrics: {
            let health = health.clone();
            let gauge = registry.mode();
            Arc::new(move |exposition| {
                quota.show();
                gauge.set(mode(&health, &quota));
                registry.encode(exposition)
            })
        },
        health,
        openapi: server::OPENAPI.into(),
        quit: config.admin.quit.then_some(quit),
    }
}

/// The quota of this process, or the one that replicas share.
pub(super) fn open_quota(
    config: &Resolved,
    attempt: Duration,
    wall: Wall,
    tasks: &Tasks,
    root: &mut prometheus_client::registry::Registry,
) -> Result<quota::Quota, Error> {
    let quota_config = settings::quota(config, attempt)?;
    let metrics = quota::Metrics::register(root);
    let Some(sharing) = settings::sharing(config)? else {
        return quota::Quota::open(&quota_config, wall, metrics).map_err(Error::of("the quota's state file"));
    };
    let metrics = quota::shared::Metrics::register(root, metrics);
    Ok(quota::Quota::join(&quota_config, &sharing, tasks, metrics))
}

/// What the gateway is doing now.
fn mode(health: &admin::Health, quota: &quota::Quota) -> Mode {
    if health.state() == admin::State::Draining {
        Mode::Draining
    } else if quota.lost().is_some() {
        Mode::StoreLost
    } else {
        Mode::Normal
    }
}
