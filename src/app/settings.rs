//! From the resolved configuration to each part's own settings.

use std::time::Duration;

use http::header::AUTHORIZATION;
use prometheus_client::metrics::counter::Counter;

use super::{Error, rate_limit};
use crate::caller::Name;
use crate::config::{self, Credential, ManagedEndpoint, OnUnknownPast, Pacing, Resolved};
use crate::machine::Machine;
use crate::telemetry::trace::{self, Sampler};
use crate::{admin, cache, coalesce, fleet, net, queue, quota, region, respond, server, store, token, upstream};

/// Longest token exchange. Sign-in answers in well under a second; ten cover a bad day and keep callers from waiting in vain.
pub(super) const SIGN_IN_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest sign-in answer. A token has a few kB.
pub(super) const SIGN_IN_BYTES: usize = 256 * 1024;

pub(super) fn net(config: &Resolved, base: &net::Config) -> Result<net::Config, Error> {
    let proxy = config.defender.proxy.as_ref().map(proxy).transpose()?;
    Ok(net::Config {
        ca_file: config.defender.ca_file.clone(),
        proxy,
        ..base.clone()
    })
}

fn proxy(proxy: &config::Proxy) -> Result<net::Proxy, Error> {
    let made = net::Proxy::new(proxy.url.as_str(), &proxy.except.join(",")).map_err(Error::of("the forward proxy"))?;
    let Some(authorization) = &proxy.authorization else {
        return Ok(made);
    };
    made.with_authorization(authorization.expose())
        .map_err(Error::of("the forward proxy"))
}

pub(super) fn collector(traces: &config::Traces) -> Result<trace::Collector, Error> {
    let sampling = traces.sampling;
    let root = match sampling.millionths {
        0 => Sampler::AlwaysOff,
        config::Sampling::ALL.. => Sampler::AlwaysOn,
        some => Sampler::TraceIdRatioBased(f64::from(some) / f64::from(config::Sampling::ALL)),
    };
    Ok(trace::Collector {
        url: traces
            .url
            .as_str()
            .try_into()
            .map_err(Error::of("the collector's address"))?,
        fields: traces.fields.clone(),
        sampler: if sampling.parent_based {
            Sampler::ParentBased(Box::new(root))
        } else {
            root
        },
        resource: traces.resource.clone(),
    })
}

pub(super) fn regions(config: &Resolved) -> Result<region::Config, Error> {
    let candidates = config.defender.candidates().map(|region| region::Candidate {
        name: region.name.clone(),
        url: region.url.clone(),
    });
    region::Config::new(candidates.collect()).map_err(Error::of("the regions"))
}

pub(super) fn upstream(config: &Resolved) -> upstream::Config {
    upstream::Config::new(config.defender.timeout)
}

/// The longest that a paid call can take, all told: finding a host, connecting, signing in, and the attempt.
pub(super) fn attempt(config: &Resolved, net: &net::Config, regions: &region::Config) -> Duration {
    regions.first_wait + regions.failover_limit + net.connect_timeout + token::MAX_PERMIT_HOLD + config.defender.timeout
}

pub(super) fn quota(config: &Resolved, attempt: Duration) -> Result<quota::Config, Error> {
    let limits = config
        .quota
        .limits
        .iter()
        .map(|limit| quota::Limit::try_new(limit.calls, limit.window));
    let limits = limits.collect::<Result<_, _>>().map_err(Error::of("the quota"))?;
    let past = match config.quota.on_unknown_past {
        OnUnknownPast::Empty => quota::UnknownPast::Empty,
        OnUnknownPast::Paced => quota::UnknownPast::Paced,
        OnUnknownPast::Full => quota::UnknownPast::Full,
    };
    let quota = quota::Config::try_new(limits, config.quota.burst, attempt).map_err(Error::of("the quota"))?;
    let pacing = match config.quota.pacing {
        Pacing::Spread => quota::Pacing::Spread,
        Pacing::None => quota::Pacing::None,
    };
    Ok(quota
        .unknown_past(past)
        .pacing(pacing)
        .state_file(config.quota.state_file.clone()))
}

/// Where the store is, if there is one.
pub(super) fn store(config: &Resolved) -> Option<store::Config> {
    let address = config.store.address.clone()?;
    Some(store::Config {
        password_file: config.store.password_file.clone(),
        ca_file: config.store.ca_file.clone(),
        certificate_file: config.store.certificate_file.clone(),
        ..store::Config::new(address, config.store.timeout)
    })
}

/// How replicas share the quota, if they do.
pub(super) fn sharing(config: &Resolved) -> Option<quota::shared::Config> {
    let store = store(config)?;
    let (tenant, application) = registration(config);
    let timing = quota::shared::Timing::new(store.timeout);
    Some(quota::shared::Config::new(
        store,
        timing,
        &config.store.prefix,
        tenant,
        application,
    ))
}

/// Where the shared ledger is, and the name of one of its keys, if replicas share the quota.
#[must_use]
pub fn ledger(config: &Resolved) -> Option<(store::Config, String)> {
    let sharing = sharing(config)?;
    Some((store(config)?, sharing.ledger_key()))
}

/// How replicas share answers, if they do.
pub(super) fn fleet(config: &Resolved) -> Option<fleet::Config> {
    let settings = &config.store;
    let store = store(config).filter(|_| settings.answers && !config.cache.ttl.is_zero())?;
    Some(fleet::Config::new(
        store,
        &settings.prefix,
        registration(config),
        settings.answer_timeout,
        config.cache.ttl,
    ))
}

/// The tenant and the application that the quota and the answers belong to.
fn registration(config: &Resolved) -> (&str, &str) {
    match &config.credentials.credential {
        Credential::ClientSecret {
            tenant_id, client_id, ..
        }
        | Credential::Certificate {
            tenant_id, client_id, ..
        }
        | Credential::WorkloadIdentity {
            tenant_id, client_id, ..
        } => (tenant_id.as_str(), client_id.as_str()),
        // Without a word about the tenant there is one identity, and the platform knows which.
        Credential::ManagedIdentity { client_id, .. } => ("managed", client_id.as_deref().unwrap_or("system")),
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

pub(super) fn read(config: &Resolved) -> server::read::Config {
    let max_body = usize::try_from(config.server.max_body).unwrap_or(usize::MAX);
    let defaults = server::read::Config::default();
    server::read::Config {
        max_body,
        // At least one body of the largest size must fit.
        body_budget: defaults.body_budget.max(max_body),
        max_wait: config.queue.max_wait,
        max_wait_limit: config.queue.max_wait_limit,
        caller_header: config.queue.caller_header.clone(),
        authorization: if config.credentials.passthrough {
            server::read::Authorization::Delegated
        } else {
            server::read::Authorization::Dropped
        },
        ..defaults
    }
}

/// The part of a memory limit that the cache takes when nobody says how much: a gateway needs some 15 MiB for itself, and each request in
/// flight its body.
const CACHE_SHARE: u64 = 4;

pub(super) fn cache(config: &Resolved, machine: Machine) -> cache::Config {
    let share = machine
        .memory_limit
        .map(|limit| limit / CACHE_SHARE)
        .filter(|_| !config.settings.is_said("cache.max_size"));
    cache::Config {
        ttl: config.cache.ttl,
        stale_while_revalidate: config.cache.stale_while_revalidate,
        stale_if_error: config.cache.stale_if_error,
        max_size: share.map_or(config.cache.max_size, |share| share.min(config.cache.max_size)),
    }
}

pub(super) fn coalesce(config: &Resolved, attempt: Duration) -> coalesce::Config {
    let merge = coalesce::Merge {
        max_ids: config.merge.max_ids,
        gather: config.merge.gather,
    };
    coalesce::Config {
        attempt,
        merge: config.merge.enabled.then_some(merge),
    }
}

pub(super) fn respond(config: &Resolved, quota: &quota::Quota, panics: Counter) -> respond::Layer {
    let hosts = config
        .defender
        .regions
        .iter()
        .filter_map(|region| region.url.host_str());
    let layer = respond::Layer::new(respond::Config {
        upstream_hosts: hosts.map(str::to_ascii_lowercase).collect(),
        rate_limit: rate_limit::of(quota.clone()),
        panics,
    })
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

/// Files that are kept for everything but callers: connections to the upstream, the store and the admin address, and files.
const OTHER_FILES: u64 = 512;

/// Callers must not take the last open files: without any left, no call could leave.
fn connections(wanted: u32, machine: Machine) -> u32 {
    let left = machine
        .open_files
        .map(|files| files - OTHER_FILES.min(files / 2))
        .and_then(|left| u32::try_from(left).ok());
    left.map_or(wanted, |left| wanted.min(left))
}

pub(super) fn data_listener(config: &Resolved, machine: Machine) -> server::Config {
    let usual = server::Config::default();
    let max_connections = connections(usual.max_connections, machine);
    if max_connections < usual.max_connections {
        tracing::warn!(
            open_files = machine.open_files,
            max_connections,
            "few files may be open, so fewer callers' connections are taken than usual: raise the limit of open files (ulimit -n)"
        );
    }
    server::Config {
        max_connections,
        listen: config.server.listen.iter().map(address).collect(),
        drain: config.server.drain,
        linger: config.server.linger,
        ..usual
    }
}

pub(super) fn admin_listener(config: &Resolved, machine: Machine) -> server::Config {
    let listener = admin::listener(address(&config.admin.listen));
    let few = machine.open_files.map_or(u64::MAX, |files| files / 8);
    server::Config {
        max_connections: u32::try_from(few).map_or(listener.max_connections, |few| listener.max_connections.min(few)),
        ..listener
    }
}

fn address(listen: &config::Listen) -> server::Address {
    match listen {
        config::Listen::Tcp(address) => server::Address::Tcp(*address),
        config::Listen::Unix(path) => server::Address::Unix(path.clone()),
    }
}

pub(super) fn token(config: &config::Credentials) -> Result<token::Config, Error> {
    let scope = token::Scope::try_new(&config.scope).map_err(Error::of("the scope"))?;
    Ok(token::Config {
        credential: credential(config)?,
        scope,
    })
}

/// Whose token the gateway has: what it is answered is meant for that application alone.
pub(super) fn identity(config: &Resolved) -> (&str, Option<&str>, Option<&str>) {
    let credentials = &config.credentials;
    let credential = &credentials.credential;
    (
        credentials.authority.as_str(),
        credential.tenant_id(),
        credential.client_id(),
    )
}

/// Where token requests go instead of the authority, if anywhere.
pub(super) fn token_proxy(config: &config::Credentials) -> Option<&config::TokenProxy> {
    match &config.credential {
        Credential::WorkloadIdentity { proxy, .. } => proxy.as_ref(),
        _ => None,
    }
}

fn credential(config: &config::Credentials) -> Result<token::Credential, Error> {
    let app = |tenant_id: &str, client_id: &str| {
        token::App::try_new(&config.authority, tenant_id, client_id).map_err(Error::of("the app registration"))
    };
    Ok(match &config.credential {
        Credential::ClientSecret {
            tenant_id,
            client_id,
            secret,
        } => token::Credential::ClientSecret {
            app: app(tenant_id, client_id)?,
            secret: match secret {
                config::SecretSource::Value(secret) => token::SecretSource::Value(secret.clone()),
                config::SecretSource::File(path) => token::SecretSource::File(path.clone()),
            },
        },
        Credential::Certificate {
            tenant_id,
            client_id,
            certificate_file,
            private_key_file,
        } => token::Credential::Certificate {
            app: app(tenant_id, client_id)?,
            files: token::CertificateFiles {
                certificate: certificate_file.clone(),
                private_key: private_key_file.clone(),
            },
        },
        Credential::WorkloadIdentity {
            tenant_id,
            client_id,
            token_file,
            proxy,
        } => {
            let app = app(tenant_id, client_id)?;
            let app = match proxy {
                Some(proxy) => app
                    .through_token_proxy(&proxy.url)
                    .map_err(Error::of("the token proxy"))?,
                None => app,
            };
            token::Credential::WorkloadIdentity {
                app,
                token_file: token_file.clone(),
            }
        }
        Credential::ManagedIdentity { client_id, endpoint } => token::Credential::ManagedIdentity(token::Identity {
            client_id: client_id.clone(),
            host: match endpoint {
                ManagedEndpoint::Metadata(address) => token::IdentityHost::Imds {
                    address: address.clone(),
                },
                ManagedEndpoint::AppService { url, header } => token::IdentityHost::AppService {
                    endpoint: url.clone(),
                    header: header.clone(),
                },
            },
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_never_take_the_last_open_files() {
        let with = |open_files| Machine {
            open_files,
            ..Machine::detect()
        };
        for (files, expected) in [
            (None, 2048),
            (Some(1 << 20), 2048),
            (Some(2560), 2048),
            (Some(1024), 512),
            (Some(300), 150),
        ] {
            assert_eq!(connections(2048, with(files)), expected, "{files:?}");
        }
    }
}
