//! The quota, the store, and what replicas share through it.

use std::path::PathBuf;
use std::time::Duration;

use crate::app::Error;
use crate::config::{Resolved, Scope};
use crate::scan::Operation;
use crate::{net, quota, region, shared_cache, store, token};

/// The longest that a paid call can take, all told: finding a host, connecting, signing in, waiting
/// for memory, and the attempt.
pub(in crate::app) fn attempt(config: &Resolved, net: &net::Config, regions: &region::Config) -> Duration {
    let connecting = regions.first_wait + regions.failover_limit + net.connect_timeout;
    connecting + token::MAX_PERMIT_HOLD + net::MEMORY_WAIT + config.defender.timeout
}

pub(in crate::app) fn quota(config: &Resolved, attempt: Duration) -> Result<quota::Config, Error> {
    let limits = config
        .quota
        .limits
        .iter()
        .map(|limit| quota::Limit::try_new(limit.calls, limit.window));
    let limits = limits.collect::<Result<_, _>>().map_err(Error::of("the quota"))?;
    let quota = quota::Config::try_new(limits, config.quota.burst, attempt).map_err(Error::of("the quota"))?;
    Ok(quota
        .unknown_past(config.quota.on_unknown_past)
        .pacing(config.quota.pacing)
        .state_file(config.quota.state_file.clone()))
}

/// The quota of one operation, or of all: each remembers its calls in a file of its own. After a
/// change of `quota.scope` the calls in the files of the other scope count: to the whole those of
/// each, and to each all, since none is known by its operation.
pub(in crate::app) fn quota_of(
    operation: Option<Operation>,
    config: &Resolved,
    attempt: Duration,
) -> Result<quota::Config, Error> {
    let quota = quota(config, attempt)?;
    let Some(path) = &config.quota.state_file else {
        return Ok(quota);
    };
    let of = |operation: Operation| {
        let mut file = path.clone().into_os_string();
        file.push(".");
        file.push(operation.declaration().name);
        PathBuf::from(file)
    };
    Ok(match operation {
        None => quota.predecessors(Operation::ALL.map(of).to_vec()),
        Some(one) => quota.state_file(Some(of(one))).predecessors(vec![path.clone()]),
    })
}

/// Where the store is, if there is one.
pub(in crate::app) fn store(config: &Resolved) -> Option<store::Config> {
    let address = config.store.url.clone()?;
    Some(store::Config {
        password_file: config.store.password_file.clone(),
        ca_file: config.store.ca_file.clone(),
        certificate_file: config.store.certificate_file.clone(),
        ..store::Config::new(address, config.store.timeout)
    })
}

/// How replicas share the quota of one operation, or of all, through `store`.
pub(in crate::app) fn sharing_of(
    operation: Option<Operation>,
    config: &Resolved,
    store: store::Client,
) -> quota::shared::Config {
    let prefix = &config.store.prefix;
    let prefix = operation.map_or_else(
        || prefix.clone(),
        |operation| format!("{prefix}:{}", operation.declaration().name),
    );
    let (tenant, application) = registration(config);
    let timing = quota::shared::Timing::new(config.store.timeout);
    quota::shared::Config::new(store, timing, &prefix, tenant, application)
}

/// Where the shared ledger is, and the name of one of its keys, if replicas share the quota.
pub fn ledger(config: &Resolved) -> Option<(store::Config, String)> {
    let one = Some(Operation::HistoryByDefinition);
    let operation = one.filter(|_| config.quota.scope == Scope::Operation);
    let store = store(config)?;
    let sharing = sharing_of(operation, config, store::Client::new(&store));
    Some((store, sharing.ledger_key()))
}

/// How replicas share answers, if they do.
pub(in crate::app) fn shared_cache(config: &Resolved, store: store::Client) -> Option<shared_cache::Config> {
    let settings = &config.store;
    let is_shared = settings.answers && !config.cache.ttl.is_zero();
    is_shared.then(|| {
        let shared_cache = shared_cache::Config::new(
            store,
            &settings.prefix,
            registration(config),
            settings.answer_timeout,
            config.cache.ttl,
        );
        shared_cache.with_finished_ttl(config.cache.finished_ttl)
    })
}

/// The tenant and the application that the quota and the answers belong to.
pub(in crate::app) fn registration(config: &Resolved) -> (&str, &str) {
    let credentials = &config.credentials;
    match (credentials.tenant_id.as_deref(), credentials.client_id.as_deref()) {
        (Some(tenant), client) => (tenant, client.unwrap_or_default()),
        // Only an identity that the platform assigns needs no word about the tenant. One without an
        // id is told apart by `store.prefix` alone.
        (None, client) => ("managed", client.unwrap_or("system")),
    }
}
