//! The parts, made and joined, as one configuration wants them.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::time::Instant;

use super::context::{
    BackgroundTasks, HostEnvironment, Memory, SharedContext, SharedMetrics, Supervised, keep, open_quotas,
};
use super::merge_memory::MergeTurns;
use super::token_limiters::{self, TokenLimiters};
use super::{Error, ReloadError, settings};
use crate::clock::Wall;
use crate::config::{self, Key, Resolved, keys};
use crate::memory::Shares;
use crate::task::Tasks;
use crate::telemetry::trace::{self, Exporter, Tracer};
use crate::{
    cache, net, queue, quota, region, scan, server, shared_cache, single_flight, stack, store, token, upstream,
};

/// How long new credentials may take to bring a token before the old ones are kept.
const SIGN_IN_PATIENCE: Duration = Duration::from_secs(15);

/// All parts of a gateway. Clones share them.
#[derive(Clone)]
pub(super) struct Components {
    pub(super) config: Resolved,
    pub(super) context: SharedContext,
    net: net::Client,
    /// The way to the regions.
    region_client: net::Client,
    pub(super) regions: Supervised<region::HostSelector>,
    pub(super) token_source: Supervised<token::TokenSource>,
    fair_use: Option<Supervised<queue::CallerLimiter>>,
    upstream_profile: Arc<scan::UpstreamProfile>,
    merge_memory: BackgroundTasks,
    pub(super) cache: Arc<cache::Cache>,
    pub(super) shared_cache: Option<Supervised<shared_cache::SharedCache>>,
    single_flight: single_flight::SingleFlight,
    pub(super) calls: upstream::Metrics,
    read: server::read::Layer,
    pub(super) guard: server::guard::Guard,
    plan: Plan,
    /// How many app registrations there were before this one.
    registration: u64,
}

/// The settings that parts are made with: all of them are right before any part is touched.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) net: net::Config,
    pub(super) regions: region::Config,
    pub(super) token: token::Config,
    limiter: token_limiters::Config,
    hosts: server::guard::Hosts,
    pub(super) attempt: Duration,
}

impl Plan {
    pub(super) fn of(config: &Resolved, environment: &HostEnvironment, shares: &Shares) -> Result<Self, Error> {
        let net = net::Config {
            receive_buffer: shares.receive_buffer(),
            ..settings::net(config, &environment.net)?
        };
        let mut regions = settings::regions(config)?;
        (environment.regions)(&mut regions);
        let attempt = settings::attempt(config, &net, &regions);
        Ok(Self {
            hosts: settings::hosts(config)?,
            limiter: token_limiters::Config {
                quota: settings::quota(config, attempt)?,
                queue: settings::queue(config),
            },
            token: settings::token(&config.credentials),
            net,
            regions,
            attempt,
        })
    }
}

impl Components {
    /// Makes every part; signing in begins, and measuring the regions.
    ///
    /// # Errors
    /// A file cannot be used, or a part refuses its settings.
    pub(super) fn first(
        config: &Resolved,
        environment: HostEnvironment,
        tasks: &Tasks,
        root: &mut Registry,
    ) -> Result<(Self, Exporter), Error> {
        let memory = Memory::new(settings::shares(config, environment.machine));
        let plan = Plan::of(config, &environment, &memory.shares)?;
        let net = connections(&plan.net, &environment)?;
        let (context, exporter) = shared_context(config, &plan, &net, environment, memory, tasks, root)?;
        let token_source = context.token_source(config, plan.token.clone(), &net, context.metrics.token.clone());
        let region_client = region_client(&net, config);
        let regions = context.regions(plan.regions.clone(), region::Metrics::register(root), &region_client);
        // What answers teach about pages and order is learnt by the flights and used by both.
        let upstream_profile = Arc::new(scan::UpstreamProfile::new(config.merge.known_rows));
        let merge_memory = context.remember_merging(config, &upstream_profile);
        let cache_config = settings::cache(config, &context.memory.shares);
        let cache = cache::Cache::new(
            cache_config,
            Some(Arc::clone(&upstream_profile)),
            cache::Metrics::register(root),
        );
        let cache = Arc::new(cache);
        let flight_metrics = single_flight::Metrics::register(root);
        let shared_cache = context.shared_cache(config, plan.attempt, &cache);
        let single_flight = context.single_flight(
            config,
            plan.attempt,
            keep(&cache, shared_cache.as_ref()),
            &upstream_profile,
            flight_metrics,
        );
        let calls = upstream::Metrics::register(root).of_regions(regions.part.labels());
        let made = Self {
            fair_use: context.fair_use(config),
            read: server::read::Layer::new(settings::read(config, &context.memory.shares)),
            guard: server::guard::Guard::new(plan.hosts.clone()),
            plan,
            registration: 0,
            config: config.clone(),
            context,
            net,
            region_client,
            regions,
            token_source,
            upstream_profile,
            merge_memory,
            cache,
            shared_cache,
            single_flight,
            calls,
        };
        Ok((made, exporter))
    }

    /// The parts as `config` wants them: those whose settings are the same are kept, with all they
    /// know. Nothing changes for those who use the present parts; [`Components::take_over`] is the
    /// moment of change.
    ///
    /// Other credentials are taken only once they have brought a token, while the present token is
    /// good.
    ///
    /// # Errors
    /// A file cannot be used, a part refuses its settings, or the new credentials bring no token.
    pub(super) async fn next(&self, config: &Resolved) -> Result<Self, ReloadError> {
        let context = &self.context;
        let plan = Plan::of(config, &context.environment, &context.memory.shares)?;
        let before = &self.plan;
        let changes = Changes(self.config.settings.changed(&config.settings));
        let mut next = Self {
            config: config.clone(),
            guard: server::guard::Guard::new(plan.hosts.clone()),
            plan: plan.clone(),
            registration: self.registration + u64::from(!self.has_identity_of(config)),
            ..self.clone()
        };
        // The content of the file is no part of these settings.
        let other_net = plan.net != before.net || changes.any(&["defender.ca_file"]);
        if other_net {
            next.net = connections(&plan.net, &context.environment)?;
        }
        let other_sign_in = other_net || changes.sign_in();
        if other_sign_in {
            let metrics = context.metrics.token.of_candidate();
            next.token_source = context.token_source(config, plan.token, &next.net, metrics);
            next.calls = next.calls.of_other_credentials();
            if self.token_source.part.current().is_some() {
                next.token_source.part.bearer(Instant::now() + SIGN_IN_PATIENCE).await?;
            }
        }
        let other_way = other_net || config.defender.h2c != self.config.defender.h2c;
        if other_way {
            next.region_client = region_client(&next.net, config);
        }
        let other_regions = other_way || plan.regions != before.regions;
        if other_regions {
            let metrics = self.regions.part.metrics().succeed();
            next.regions = context.regions(plan.regions, metrics, &next.region_client);
            // The first callers need not wait for what can be known before.
            next.regions.part.measured().await;
            next.calls = next.calls.of_regions(next.regions.part.labels());
        }
        let other_profile = !self.has_identity_of(config) || config.merge.known_rows != self.config.merge.known_rows;
        if other_profile {
            next.upstream_profile = Arc::new(scan::UpstreamProfile::new(config.merge.known_rows));
        }
        // A new one would have to wait until the lease of the one before has ended.
        if other_profile || changes.any(&["merge.enabled", "quota.state_file", "store.prefix"]) {
            next.merge_memory = context.remember_merging(config, &next.upstream_profile);
        }
        // A call of before may bring credentials of scanners that are to reach nobody from now on.
        let (before, now) = (&self.config.definitions, &config.definitions);
        let other_answers = before.pass_authentication_params != now.pass_authentication_params;
        next.share_answers(self, plan.attempt, !other_sign_in && !other_regions && !other_answers);
        if config.callers.limit != self.config.callers.limit {
            next.fair_use = context.fair_use(config);
        }
        let [before, reading] = [&self.config, config].map(|of| settings::read(of, &context.memory.shares));
        if reading != before {
            next.read = server::read::Layer::new(reading);
        }
        Ok(next)
    }

    /// Whether the token is the same application's, for which alone its answers are meant.
    fn has_identity_of(&self, config: &Resolved) -> bool {
        let identities = [&self.config, config].map(|config| {
            let credentials = &config.credentials;
            (&credentials.authority, &credentials.tenant_id, &credentials.client_id)
        });
        identities[0] == identities[1]
    }

    /// The cache and the flights go on from those before. What was answered to one application is
    /// not for another, and no new request waits for a call by another way.
    fn share_answers(&mut self, before: &Self, attempt: Duration, is_same_way: bool) {
        let is_same_identity = before.has_identity_of(&self.config);
        let cache_config = settings::cache(&self.config, &self.context.memory.shares);
        let profile = Arc::clone(&self.upstream_profile);
        self.cache = Arc::new(if is_same_identity {
            before.cache.reconfigured(cache_config, Some(profile))
        } else {
            before.cache.emptied(cache_config, Some(profile))
        });
        self.shared_cache = self.context.shared_cache(&self.config, attempt, &self.cache);
        let keep = keep(&self.cache, self.shared_cache.as_ref());
        let flights = settings::single_flight(&self.config, attempt);
        let profile = Arc::clone(&self.upstream_profile);
        self.single_flight = before.single_flight.reconfigured(flights, keep, profile, is_same_way);
    }

    /// Where merged calls are counted; `None` when nothing is merged.
    pub(super) fn merging(&self) -> Option<single_flight::Metrics> {
        (self.config.merge.enabled != config::Merging::Off).then(|| self.single_flight.metrics())
    }

    /// Where the flights report.
    pub(super) fn flights(&self) -> single_flight::Metrics {
        self.single_flight.metrics()
    }

    /// What has been found out about merging; `None` when nothing has to be.
    pub(super) fn merge_evidence(&self) -> Option<Arc<scan::UpstreamProfile>> {
        (self.config.merge.enabled == config::Merging::Auto).then(|| Arc::clone(&self.upstream_profile))
    }

    /// What all configurations share goes on as this one says: queue and quota, the way of traces,
    /// and whose token is shown in metrics.
    pub(super) fn take_over(&self, before: &Resolved) {
        self.context.way_out.store(Arc::new(self.net.clone()));
        self.token_source.part.take_over();
        self.context.token_limiters.reconfigure(self.plan.limiter.clone());
        if !self.has_identity_of(before) {
            self.context.token_limiters.forget_refusals(self.registration);
        }
    }

    /// The layers of the request path.
    pub(super) fn parts(&self) -> stack::Parts {
        let (config, context) = (&self.config, &self.context);
        let (token_limiters, count) = (&context.token_limiters, context.metrics.count.clone());
        let cache_limiters = token_limiters.clone();
        stack::Parts {
            trace: context.tracer.clone(),
            respond: settings::respond(config, token_limiters, &count, &context.memory),
            access_log: server::access_log::Layer::new(count, settings::access_log(config)),
            guard: self.guard.clone(),
            read: self.read.clone(),
            fair_use: queue::CallerLimitLayer::new(queue::CallerLimit::new(
                self.fair_use.as_ref().map(|supervised| supervised.part.clone()),
                context.metrics.queue.clone(),
            )),
            cache: cache::Layer::new(
                Arc::clone(&self.cache),
                context.tasks.clone(),
                Arc::new(move |payer| cache_limiters.has_surplus(payer)),
            ),
            request_memory: super::RequestMemory(Arc::clone(&context.memory.waiting)),
            shared_cache: self.shared_cache.as_ref().map(|supervised| supervised.part.clone()),
            single_flight: self
                .single_flight
                .clone()
                .keeping_up(self.upkeep().keep_up())
                .with_memory(context.memory.answers.clone()),
            token_limiters: token_limiters.clone(),
            quota: quota::Charging {
                wall: context.wall.clone(),
                registration: self.registration,
            },
            region: self.regions.part.clone(),
            token: self.token_source.part.clone(),
            client: upstream::Client::new(
                self.region_client.clone(),
                settings::upstream(config),
                context.memory.answers.clone(),
                self.calls.clone(),
            ),
        }
    }

    /// What these parts need in the background.
    pub(super) fn upkeep(&self) -> BackgroundTasks {
        let always = [&self.token_source.upkeep, &self.regions.upkeep, &self.merge_memory];
        let shared_cache = self.shared_cache.as_ref().map(|made| &made.upkeep);
        let fair_use = self.fair_use.as_ref().map(|made| &made.upkeep);
        BackgroundTasks::together(always.into_iter().chain(shared_cache).chain(fair_use))
    }
}

/// What outlives `config`, the first configuration, and what sends its traces.
fn shared_context(
    config: &Resolved,
    plan: &Plan,
    net: &net::Client,
    environment: HostEnvironment,
    memory: Memory,
    tasks: &Tasks,
    root: &mut Registry,
) -> Result<(SharedContext, Exporter), Error> {
    let wall = Wall::system();
    let store = settings::store(config).map(store::Client::from);
    let own = open_quotas(config, plan.attempt, &wall, tasks, store.as_ref(), root)?;
    let metrics = SharedMetrics {
        queue: queue::Metrics::register(root),
        count: server::access_log::Metrics::register(root),
        token: token::Metrics::register(root),
        shared_cache: store.as_ref().map(|_| shared_cache::Metrics::register(root)),
    };
    let way_out = Arc::new(ArcSwap::from_pointee(net.clone()));
    let (tracer, exporter) = traces(config, &way_out, &wall, root);
    let context = SharedContext {
        tracer,
        way_out,
        store,
        token_limiters: TokenLimiters::open(plan.limiter.clone(), own, wall.clone(), tasks, metrics.queue.clone()),
        tasks: tasks.clone(),
        wall,
        memory,
        environment,
        metrics,
        merge_turns: MergeTurns::default(),
        closing: watch::Sender::new(None),
    };
    Ok((context, exporter))
}

/// The way to the regions over `net`.
pub(super) fn region_client(net: &net::Client, config: &Resolved) -> net::Client {
    if config.defender.h2c {
        net.cleartext_http2()
    } else {
        net.clone()
    }
}

pub(super) fn connections(config: &net::Config, environment: &HostEnvironment) -> Result<net::Client, Error> {
    net::Client::with_resolver(config, environment.resolver.clone()).map_err(Error::of("connections to the outside"))
}

/// Where spans are started, and the task that sends them.
fn traces(config: &Resolved, net: &Arc<ArcSwap<net::Client>>, wall: &Wall, root: &mut Registry) -> (Tracer, Exporter) {
    let Some(collector) = config.telemetry.otlp_endpoint.clone() else {
        return (Tracer::off(), Exporter::none());
    };
    let metrics = trace::Metrics::register(root);
    Exporter::start(collector, Arc::clone(net), wall.clone(), metrics)
}

/// The keys that differ between two configurations.
struct Changes(Vec<&'static Key>);

impl Changes {
    /// Whether one of these keys has changed.
    fn any(&self, paths: &[&str]) -> bool {
        for path in paths {
            debug_assert!(keys().any(|key| key.path() == *path), "no key {path}");
        }
        self.0.iter().any(|key| paths.contains(&key.path().as_str()))
    }

    /// Whether the gateway signs in differently.
    fn sign_in(&self) -> bool {
        let mut credentials = self.0.iter().filter(|key| key.section == "credentials");
        // The cloud says where, and for what.
        self.any(&["defender.cloud"]) || credentials.any(|key| key.name != "passthrough")
    }
}
