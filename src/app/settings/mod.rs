//! From the resolved configuration to each part's own settings.

mod resources;
mod sign_in;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;

use super::Error;
use super::context::Memory;
use super::token_limiters::TokenLimiters;
use crate::caller::Name;
use crate::config::{self, Resolved, Scope};
use crate::memory::Shares;
use crate::scan::{Operation, TokenOwner};
use crate::secret::Secret;
use crate::{cache, net, queue, quota, region, response, server, shared_cache, single_flight, store, token, upstream};

pub use resources::cache_bytes;
pub(super) use resources::{admin_listener, data_listener, shares, warn_about_memory};
pub(super) use sign_in::{exchanges, token};

pub(super) fn net(config: &Resolved, base: &net::Config) -> Result<net::Config, Error> {
    let proxy = config.defender.via_proxy.as_ref().map(proxy).transpose()?;
    Ok(net::Config {
        ca_file: config.defender.ca_file.clone(),
        proxy,
        ..base.clone()
    })
}

fn proxy(proxy: &config::Proxy) -> Result<net::Proxy, Error> {
    let authorization = proxy.authorization.as_ref().map(Secret::expose);
    net::Proxy::new(&proxy.url, authorization, &proxy.except).map_err(Error::of("the forward proxy"))
}

pub(super) fn regions(config: &Resolved) -> Result<region::Config, Error> {
    let candidates = config.defender.candidates().cloned();
    region::Config::new(candidates.collect()).map_err(Error::of("the regions"))
}

pub(super) fn upstream(config: &Resolved) -> upstream::Config {
    upstream::Config {
        secrets: config.definitions.pass_authentication_params,
        ..upstream::Config::new(config.defender.timeout)
    }
}

pub(super) fn queue(config: &Resolved) -> queue::Config {
    queue::Config {
        max_requests: config.queue.max_requests.get(),
        max_requests_per_caller: config.queue.max_requests_per_caller.get(),
        longest_wait: config.queue.max_wait_limit,
        weights: config
            .callers
            .weights
            .iter()
            .map(|(name, weight)| (Name::new(name), *weight))
            .collect(),
    }
}

pub(super) fn read(config: &Resolved, shares: &Shares) -> server::read::Config {
    let max_body = usize::try_from(config.server.max_body).unwrap_or(usize::MAX);
    server::read::Config {
        max_body: max_body.min(shares.max_body()),
        body_timeout: server::read::Config::BODY_TIMEOUT,
        body_budget: shares.bodies,
        max_wait: config.queue.max_wait,
        max_wait_limit: config.queue.max_wait_limit,
        authorization: if config.credentials.passthrough {
            server::read::Authorization::CallerToken
        } else {
            server::read::Authorization::Dropped
        },
    }
}

pub(super) fn access_log(config: &Resolved) -> server::access_log::Config {
    server::access_log::Config {
        caller_header: config.queue.caller_header.clone(),
        access_log: config.telemetry.access_log,
    }
}

pub(super) fn cache(config: &Resolved, shares: &Shares) -> cache::Config {
    cache::Config {
        ttl: config.cache.ttl,
        finished_ttl: config.cache.finished_ttl.max(config.cache.ttl),
        stale_while_revalidate: config.cache.stale_while_revalidate,
        stale_if_error: config.cache.stale_if_error,
        prefetch: config.merge.enabled,
        max_size: config.cache.max_size.min(shares.max_cached() as u64),
        max_held: shares.cache,
    }
}

pub(super) fn single_flight(config: &Resolved, attempt: Duration) -> single_flight::Config {
    single_flight::Config {
        attempt,
        merge: single_flight::BatchConfig {
            when: config.merge.enabled,
            max_ids: config.merge.max_ids,
            gather: config.merge.gather,
        },
    }
}

pub(super) fn respond(
    config: &Resolved,
    token_limiters: &TokenLimiters,
    count: &server::access_log::Metrics,
    memory: &Memory,
) -> response::Layer {
    let hosts = config
        .defender
        .regions
        .iter()
        .filter_map(|region| region.url.host_str());
    let hosts: Vec<_> = hosts.map(str::to_ascii_lowercase).collect();
    let operation = |index: usize| {
        let one = Operation::ALL.get(index);
        let one = one.filter(|_| config.quota.scope == Scope::Operation);
        one.map(|operation| operation.declaration().name)
    };
    let quotas = token_limiters.quotas().enumerate();
    let layer = response::Layer::new(quotas.map(|(index, quota)| response::Config {
        upstream_hosts: hosts.clone(),
        rate_limit: response::rate_limit_of(quota.clone(), operation(index)),
        panics: count.panics(),
        exhausted: count.exhausted(),
        token_owner: TokenOwner::Gateway,
        vary: None,
        large_answers: Some(Arc::clone(&memory.answers.large)),
    }))
    .trusting(config.server.trusted_proxies.iter().copied());
    if config.credentials.passthrough {
        layer.without_rate_limit_for(AUTHORIZATION)
    } else {
        layer
    }
}

pub(super) fn hosts(config: &Resolved) -> Result<server::guard::Hosts, Error> {
    let hosts = server::guard::Hosts::new(config.server.hosts.iter().map(String::as_str));
    hosts.map_err(Error::of("the accepted hosts"))
}

/// The longest that a paid call can take, all told: finding a host, connecting, signing in, waiting
/// for memory, and the attempt.
pub(super) fn attempt(config: &Resolved, net: &net::Config, regions: &region::Config) -> Duration {
    let connecting = regions.first_wait + regions.failover_limit + net.connect_timeout;
    connecting + token::MAX_PERMIT_HOLD + net::MEMORY_WAIT + config.defender.timeout
}

pub(super) fn quota(config: &Resolved, attempt: Duration) -> Result<quota::Config, Error> {
    let limits = config.quota.limits.clone();
    let quota = quota::Config::try_new(limits, config.quota.burst, attempt).map_err(Error::of("the quota"))?;
    Ok(quota
        .unknown_past(config.quota.on_unknown_past)
        .pacing(config.quota.pacing)
        .state_file(config.quota.state_file.clone()))
}

/// The quota of one operation, or of all: each remembers its calls in a file of its own. After a
/// change of `quota.scope` the calls in the files of the other scope count: to the whole those of
/// each, and to each all, since none is known by its operation.
pub(super) fn quota_of(
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
pub(super) fn store(config: &Resolved) -> Option<store::Config> {
    let address = config.store.url.clone()?;
    Some(store::Config {
        password_file: config.store.password_file.clone(),
        ca_file: config.store.ca_file.clone(),
        certificate_file: config.store.certificate_file.clone(),
        ..store::Config::new(address, config.store.timeout)
    })
}

/// How replicas share the quota of one operation, or of all, through `store`.
pub(super) fn sharing_of(
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
pub(super) fn shared_cache(config: &Resolved, store: store::Client) -> Option<shared_cache::Config> {
    let settings = &config.store;
    let is_shared = settings.answers && !config.cache.ttl.is_zero();
    is_shared.then(|| {
        let mut shared_cache = shared_cache::Config::new(
            store,
            &settings.prefix,
            registration(config),
            settings.answer_timeout,
            config.cache.ttl,
        );
        shared_cache.finished_ttl = config.cache.finished_ttl;
        shared_cache
    })
}

/// The tenant and the application that the quota and the answers belong to.
pub(super) fn registration(config: &Resolved) -> (&str, &str) {
    let credentials = &config.credentials;
    match (credentials.tenant_id.as_deref(), credentials.client_id.as_deref()) {
        (Some(tenant), client) => (tenant, client.unwrap_or_default()),
        // Only an identity that the platform assigns needs no word about the tenant. One without an
        // id is told apart by `store.prefix` alone.
        (None, client) => ("managed", client.unwrap_or("system")),
    }
}
