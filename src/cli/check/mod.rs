//! `check`: every mistake in the configuration, or a summary of what would run.

mod files;

use std::fmt::Write as _;
use std::time::Duration;

use super::process::block_on_one;
use super::{Check, Error, print};
use crate::app;
use crate::config::{self, Disk, Environment, Loaded, Merging, Mistakes, Resolved, show_duration, show_size};
use crate::store::{self, Eviction};
use crate::token::Credential;

/// Reads the configuration, prints a summary or all of it to stdout. Starts nothing.
///
/// # Errors
/// Every mistake, one per line.
pub fn check(asked: &Check) -> Result<(), Error> {
    if asked.schema {
        return print(&config::schema());
    }
    let loaded = config::load(asked.config.config.as_deref(), &Environment::real(), &Disk)?;
    if asked.show {
        return print(&loaded.resolved.settings.show(loaded.file.as_deref()));
    }
    let mistakes = files::mistakes(&loaded);
    if !mistakes.is_empty() {
        return Err(Mistakes::new(loaded.file, mistakes).into());
    }
    print(&summary(&loaded))
}

/// What would run, a line per subject. Holds no secret.
fn summary(loaded: &Loaded) -> String {
    let mut text = String::new();
    let source = match &loaded.file {
        Some(path) => format!("{}, then the environment", path.display()),
        None => "the environment alone; no file".into(),
    };
    let subjects = [("configuration", source)]
        .into_iter()
        .chain(subjects(&loaded.resolved));
    for (name, value) in subjects {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<14} {value}");
    }
    for note in &loaded.notes {
        let _ = writeln!(text, "{:<14} {note}", "note");
    }
    text
}

fn subjects(resolved: &Resolved) -> [(&'static str, String); 12] {
    [
        ("callers", callers(resolved)),
        ("admin", resolved.admin.listen.to_string()),
        ("cloud", resolved.defender.cloud.to_string()),
        ("regions", regions(resolved)),
        ("way out", way_out(resolved)),
        ("sign-in", sign_in(resolved)),
        ("quota", quota(resolved)),
        ("queue", queue(resolved)),
        ("cache", cache(resolved)),
        ("merging", merging(resolved)),
        ("store", format!("{}{}", store(resolved), eviction(resolved))),
        ("telemetry", telemetry(resolved)),
    ]
}

fn callers(resolved: &Resolved) -> String {
    let addresses: Vec<_> = resolved.server.listen.iter().map(ToString::to_string).collect();
    let open = resolved.server.listen.iter().any(|listen| !listen.is_local());
    let warning = if open {
        " (reachable by other machines, without authentication)"
    } else {
        ""
    };
    format!("{}{warning}", addresses.join(" "))
}

fn regions(resolved: &Resolved) -> String {
    let mut names: Vec<&str> = Vec::new();
    let mut hosts = 0;
    for region in resolved.defender.candidates() {
        hosts += 1;
        if !names.contains(&region.name.as_str()) {
            names.push(&region.name);
        }
    }
    let names = names.join(" ");
    match (&resolved.defender.region, hosts) {
        (None, 1) => format!("{names}: one host"),
        (None, _) => format!("the nearest of {hosts} hosts: {names}"),
        (Some(_), 1) => format!("pinned to {names}: one host"),
        (Some(_), _) => format!("pinned to {names}: the nearest of {hosts} hosts"),
    }
}

fn way_out(resolved: &Resolved) -> String {
    let defender = &resolved.defender;
    let mut text = defender.via_proxy.as_ref().map_or_else(
        || "direct".to_owned(),
        |proxy| format!("through the proxy {}", proxy.url.as_str().trim_end_matches('/')),
    );
    if let Some(path) = &defender.ca_file {
        text = format!("{text}, trusting {} too", path.display());
    }
    text
}

fn sign_in(resolved: &Resolved) -> String {
    let credentials = &resolved.credentials;
    let is_managed = matches!(credentials.credential, Credential::ManagedIdentity(_));
    let who = match (&credentials.client_id, &credentials.tenant_id) {
        (Some(client), _) if is_managed => format!("identity {client}"),
        (Some(client), Some(tenant)) => format!("application {client} of tenant {tenant} at {}", credentials.authority),
        _ => "the system-assigned identity".into(),
    };
    format!("{} {}; {who}", credentials.credential.kind().as_str(), credentials.why)
}

fn telemetry(resolved: &Resolved) -> String {
    let telemetry = &resolved.telemetry;
    let traces = telemetry
        .otlp_endpoint
        .as_ref()
        .map_or("nowhere", |traces| traces.url.as_str());
    format!(
        "logs {} as {}, traces go {traces}",
        telemetry.log,
        telemetry.format.as_str()
    )
}

fn quota(resolved: &Resolved) -> String {
    let quota = &resolved.quota;
    let limits: Vec<_> = quota.limits.iter().map(ToString::to_string).collect();
    let memory = match (&resolved.store.url, &quota.state_file) {
        (Some(_), Some(path)) => format!("remembered in the store and not in {}", path.display()),
        (Some(_), None) => "remembered in the store".into(),
        (None, Some(path)) => format!("remembered in {}", path.display()),
        (None, None) => "not remembered across restarts".into(),
    };
    let past = quota.on_unknown_past.as_str();
    format!(
        "{}, burst {}, pacing {}, {memory}, unknown past: {past}",
        limits.join(" "),
        quota.burst,
        quota.pacing.as_str()
    )
}

fn queue(resolved: &Resolved) -> String {
    let queue = &resolved.queue;
    let limit = resolved.callers.limit.as_ref();
    let limit = limit.map_or_else(String::new, |limit| format!(", fair use {limit} per caller"));
    format!(
        "{} requests, {} per caller, wait {} up to {}{limit}",
        queue.max_requests,
        queue.max_requests_per_caller,
        show_duration(queue.max_wait),
        show_duration(queue.max_wait_limit)
    )
}

fn cache(resolved: &Resolved) -> String {
    let cache = &resolved.cache;
    if cache.ttl == Duration::ZERO {
        return "off".into();
    }
    let here = app::cache_bytes(resolved);
    let size = if here < cache.max_size {
        let about = show_size(here - here % (1 << 20));
        format!(
            "{}, of which the memory here leaves about {about}",
            show_size(cache.max_size)
        )
    } else {
        show_size(cache.max_size)
    };
    format!(
        "fresh {}, while revalidating {}, on errors {}, {size}",
        show_duration(cache.ttl),
        show_duration(cache.stale_while_revalidate),
        show_duration(cache.stale_if_error),
    )
}

fn merging(resolved: &Resolved) -> String {
    let merge = &resolved.merge;
    let when = match merge.enabled {
        Merging::On => "",
        Merging::Auto => ", once comparisons have shown that it changes no answer",
        Merging::Off => return "off".into(),
    };
    format!(
        "up to {} ids in one call, gathered for {}{when}",
        merge.max_ids,
        show_duration(merge.gather)
    )
}

fn store(resolved: &Resolved) -> String {
    let store = &resolved.store;
    store.url.as_ref().map_or_else(
        || "none: this process alone".into(),
        |address| {
            format!(
                "{}, prefix {}, timeout {}; {}",
                address.shown(),
                store.prefix,
                show_duration(store.timeout),
                if store.answers {
                    "quota and answers"
                } else {
                    "the quota only"
                }
            )
        },
    )
}

/// A warning when the store says that it may evict the ledger, or why it could not be asked, which
/// is no mistake: it need not be reachable from here.
fn eviction(resolved: &Resolved) -> String {
    let Some((store, key)) = app::ledger(resolved) else {
        return String::new();
    };
    let asked = block_on_one(async {
        Eviction::of(&store, &key)
            .await
            .map_err(|error| Error::failed("it could not be asked what it evicts", error))
    });
    match asked {
        Ok(eviction) if eviction.takes_any_key() => format!(
            "; its maxmemory-policy {} may evict the ledger of the quota: set noeviction or volatile-lru",
            eviction.policy
        ),
        Ok(_) => String::new(),
        Err(error) => format!("; {}", store::reason(&error)),
    }
}
