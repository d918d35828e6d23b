//! What the machine has, divided: memory, connections and open files.

use std::sync::Arc;

use crate::app::context::Memory;
use crate::config::Resolved;
use crate::memory::{DEFAULT_TOTAL, LEAST_TOTAL, Shares};
use crate::resources::Machine;
use crate::{admin, server};

/// The memory that the process may take, divided. What does not fit into the container does not
/// exist, whatever the configuration says.
pub(in crate::app) fn shares(config: &Resolved, machine: Machine) -> Shares {
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

/// The bytes of answers that a cache here keeps at most: what is written, or what the memory
/// leaves.
pub fn cache_bytes(config: &Resolved) -> u64 {
    let left = shares(config, Machine::detect()).max_cached();
    config.cache.max_size.min(left as u64)
}

/// Says what of the configuration does not fit into the memory.
pub(in crate::app) fn warn_about_memory(config: &Resolved, machine: Machine, shares: &Shares) {
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

/// Files that are kept for everything but callers: connections to the upstream, the store and the
/// admin address, and files.
const OTHER_FILES: u64 = 512;

/// Callers must not take the last open files: without any left, no call could leave.
fn connections(wanted: u32, machine: Machine) -> u32 {
    let left = machine
        .open_files
        .map(|files| files - OTHER_FILES.min(files / 2))
        .and_then(|left| u32::try_from(left).ok());
    left.map_or(wanted, |left| wanted.min(left))
}

pub(in crate::app) fn data_listener(config: &Resolved, machine: Machine, memory: &Memory) -> server::Config {
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
        listen: config.server.listen.clone(),
        drain: config.server.drain,
        linger: config.server.linger,
        ..usual
    }
}

pub(in crate::app) fn admin_listener(config: &Resolved, machine: Machine) -> server::Config {
    let listener = admin::listener(config.admin.listen.clone());
    let few = machine.open_files.map_or(u64::MAX, |files| files / 8);
    server::Config {
        max_connections: u32::try_from(few).map_or(listener.max_connections, |few| listener.max_connections.min(few)),
        ..listener
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Document, Environment};
    use std::path::Path;

    fn divided(text: &str, limit: Option<u64>, physical: Option<u64>) -> Shares {
        let document = Document::new(Path::new("gateway.toml"), text.into());
        let kind = ("DEFENDER_GATEWAY_CREDENTIALS_KIND", "managed_identity");
        let loaded = crate::app::ConfigSource::new(None, Environment::from_iter([kind]));
        let resolved = loaded.resolve(&document).unwrap().resolved;
        let machine = Machine {
            memory_limit: limit,
            physical_memory: physical,
            ..Machine::detect()
        };
        shares(&resolved, machine)
    }

    fn total(memory: &str, limit: Option<u64>, physical: Option<u64>) -> usize {
        divided(&format!("[server]\nmemory = \"{memory}\"\n"), limit, physical).total
    }

    #[test]
    fn the_file_with_all_defaults_divides_the_memory_as_no_file_does() {
        let text = include_str!("../../../config/gateway.toml");
        for limit in [48 << 20, 128 << 20, 256 << 20, 1 << 30] {
            assert_eq!(
                divided(text, Some(limit), None),
                divided("", Some(limit), None),
                "{limit}"
            );
        }
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
