//! From the resolved configuration to each part's own settings.

mod quota;
mod resources;
mod sign_in;

use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;
use prometheus_client::metrics::counter::Counter;

pub use self::quota::ledger;
pub(super) use self::quota::{attempt, quota, quota_of, registration, shared_cache, sharing_of, store};
pub(super) use self::resources::{admin_listener, data_listener, shares, warn_about_memory};
pub(super) use self::sign_in::{SIGN_IN_BYTES, SIGN_IN_TIMEOUT, identity, token};
use super::context::Memory;
use super::token_limiters::TokenLimiters;
use super::{Error, rate_limit};
use crate::caller::Name;
use crate::config::{self, Resolved, Scope};
use crate::memory::Shares;
use crate::scan::{Operation, TokenOwner};
use crate::secret::Secret;
use crate::{cache, net, queue, region, response, server, single_flight, upstream};

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
    let secrets = if config.definitions.pass_authentication_params {
        upstream::Secrets::Passed
    } else {
        upstream::Secrets::Replaced
    };
    upstream::Config {
        secrets,
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
    let defaults = server::read::Config::default();
    server::read::Config {
        max_body: max_body.min(shares.max_body()),
        body_budget: shares.bodies,
        max_wait: config.queue.max_wait,
        max_wait_limit: config.queue.max_wait_limit,
        authorization: if config.credentials.passthrough {
            server::read::Authorization::CallerToken
        } else {
            server::read::Authorization::Dropped
        },
        ..defaults
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
    panics: &Counter,
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
    let layer = response::Layer::by_quota(quotas.map(|(index, quota)| response::Config {
        upstream_hosts: hosts.clone(),
        rate_limit: rate_limit::of(quota.clone(), operation(index)),
        panics: panics.clone(),
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
