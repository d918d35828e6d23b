//! From the resolved configuration to each part's own settings.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;
use prometheus_client::metrics::counter::Counter;

use super::context::Memory;
use super::status::Identity;
use super::token_limiters::TokenLimiters;
use super::{Error, rate_limit};
use crate::caller::Name;
use crate::config::{self, Credential, ManagedEndpoint, Merging, OnUnknownPast, Pacing, Resolved, Scope};
use crate::memory::{DEFAULT_TOTAL, LEAST_TOTAL, Shares};
use crate::resources::Machine;
use crate::scan::Operation;
use crate::server::access_log::AccessLog;
use crate::telemetry::trace::{self, Sampler};
use crate::{
    admin, cache, net, queue, quota, region, response, server, shared_cache, single_flight, store, token, upstream,
};

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

/// The longest that a paid call can take, all told: finding a host, connecting, signing in, waiting for memory, and the attempt.
pub(super) fn attempt(config: &Resolved, net: &net::Config, regions: &region::Config) -> Duration {
    let connecting = regions.first_wait + regions.failover_limit + net.connect_timeout;
    connecting + token::MAX_PERMIT_HOLD + net::MEMORY_WAIT + config.defender.timeout
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

/// The quota of one operation, or of all: each remembers its calls in a file of its own. After a change of `quota.scope`
/// the calls in the files of the other scope count: to the whole those of each, and to each all, since none is known by
/// its operation.
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
    let address = config.store.address.clone()?;
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
#[must_use]
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
pub(super) fn registration(config: &Resolved) -> (&str, &str) {
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

pub(super) fn count(config: &Resolved) -> server::access_log::Config {
    server::access_log::Config {
        caller_header: config.queue.caller_header.clone(),
        access_log: if config.telemetry.access_log {
            AccessLog::On
        } else {
            AccessLog::Off
        },
    }
}

pub(super) fn cache(config: &Resolved, shares: &Shares) -> cache::Config {
    cache::Config {
        ttl: config.cache.ttl,
        finished_ttl: config.cache.finished_ttl.max(config.cache.ttl),
        stale_while_revalidate: config.cache.stale_while_revalidate,
        stale_if_error: config.cache.stale_if_error,
        prefetch: match config.merge.enabled {
            Merging::On => cache::Prefetch::On,
            Merging::Auto => cache::Prefetch::Proven,
            Merging::Off => cache::Prefetch::Off,
        },
        max_size: config.cache.max_size.min(shares.max_cached() as u64),
        max_held: shares.cache,
    }
}

/// The memory that the process may take, divided. What does not fit into the container does not exist, whatever the configuration says.
pub(super) fn shares(config: &Resolved, machine: Machine) -> Shares {
    let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let usual = machine
        .physical_memory
        .map_or(DEFAULT_TOTAL, |all| DEFAULT_TOTAL.min(bytes(all) / 2));
    let limit = machine.memory_limit.map(bytes);
    let wanted = config.server.memory.map(bytes).or(limit).unwrap_or(usual);
    let total = limit.map_or(wanted, |limit| wanted.min(limit));
    let is_said = config.settings.is_set("cache.max_size");
    Shares::of(total, is_said.then(|| bytes(config.cache.max_size)))
}

/// Says what of the configuration does not fit into the memory.
pub(super) fn warn_about_memory(config: &Resolved, machine: Machine, shares: &Shares) {
    let limit = machine.memory_limit;
    if config
        .server
        .memory
        .is_some_and(|wanted| limit.is_some_and(|limit| limit < wanted))
    {
        tracing::warn!(
            memory = config.server.memory,
            memory_limit_bytes = limit,
            "server.memory is more than the container's limit, which holds"
        );
    }
    if limit.is_some_and(|limit| limit < LEAST_TOTAL as u64) {
        tracing::warn!(
            memory_limit_bytes = limit,
            least_bytes = LEAST_TOTAL,
            "the memory limit is too low: the kernel may end this process"
        );
    }
    if config.settings.is_set("cache.max_size") && config.cache.max_size > shares.max_cached() as u64 {
        tracing::warn!(
            max_size = config.cache.max_size,
            cache_bytes = shares.max_cached(),
            "cache.max_size is more than the memory leaves for the cache: raise the memory limit, or server.memory"
        );
    }
    if config.server.max_body > shares.max_body() as u64 {
        tracing::warn!(
            max_body = config.server.max_body,
            accepted_bytes = shares.max_body(),
            "server.max_body is more than the memory leaves for bodies: raise the memory limit, or server.memory"
        );
    }
}

pub(super) fn single_flight(config: &Resolved, attempt: Duration) -> single_flight::Config {
    let when = match config.merge.enabled {
        Merging::On => Some(single_flight::BatchWhen::Always),
        Merging::Auto => Some(single_flight::BatchWhen::Proven),
        Merging::Off => None,
    };
    let merge = |when| single_flight::BatchConfig {
        when,
        max_ids: config.merge.max_ids,
        gather: config.merge.gather,
    };
    single_flight::Config {
        attempt,
        merge: when.map(merge),
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
        token_owner: response::TokenOwner::Gateway,
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

pub(super) fn data_listener(config: &Resolved, machine: Machine, memory: &Memory) -> server::Config {
    let usual = server::Config::default();
    let wanted = usual.max_connections.min(memory.shares.max_connections());
    let max_connections = connections(wanted, machine);
    if max_connections < wanted {
        tracing::warn!(
            open_files = machine.open_files,
            max_connections,
            "few files may be open, so fewer callers' connections are taken than usual: raise the limit of open files (ulimit -n)"
        );
    }
    server::Config {
        max_connections,
        head_bytes: memory.shares.heads,
        socket_buffer: memory.shares.socket_buffer(),
        large_answers: Some(Arc::clone(&memory.answers.large)),
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
/// The tenant and the cloud, for people.
pub(super) fn shown_identity(config: &Resolved) -> Identity {
    Identity {
        tenant: config.credentials.credential.tenant_id().map(str::to_owned),
        cloud: config.defender.cloud.as_str(),
    }
}

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
    use crate::config::{Document, Environment};
    use std::path::Path;

    fn total(memory: &str, limit: Option<u64>, physical: Option<u64>) -> usize {
        let text = format!("[server]\nmemory = \"{memory}\"\n[credentials]\nkind = \"managed_identity\"\n");
        let document = Document::new(Path::new("gateway.toml"), text);
        let loaded = super::super::ConfigSource::new(None, Environment::from_iter::<[(String, String); 0]>([]));
        let resolved = loaded.resolve(&document).unwrap().resolved;
        let machine = Machine {
            memory_limit: limit,
            physical_memory: physical,
            ..Machine::detect()
        };
        shares(&resolved, machine).total
    }

    #[test]
    fn the_memory_is_what_is_written_within_what_the_container_has() {
        let mib = |mib: u64| Some(mib << 20);
        for (memory, limit, physical, expected_mib) in [
            ("auto", None, mib(1 << 20), 1024),
            ("auto", None, mib(512), 256),
            ("auto", mib(128), mib(1 << 20), 128),
            ("64MiB", mib(128), mib(1 << 20), 64),
            ("256MiB", mib(128), mib(1 << 20), 128),
            ("4GiB", None, mib(512), 4096),
            ("auto", mib(16), None, 48),
        ] {
            assert_eq!(
                total(memory, limit, physical),
                expected_mib << 20,
                "{memory} {limit:?} {physical:?}"
            );
        }
    }

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
