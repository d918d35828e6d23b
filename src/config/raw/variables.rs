//! The environment: the variables of the keys, and other programs' variables for keys without a
//! value.

use super::{Entry, Node, Raw, RawConfig, deprecated};
use crate::config::config_error::{ConfigError, Origin, nearest};
use crate::config::env::{Environment, variable};
use crate::config::key::{Key, Kind, keys};
use crate::config::section::SECTIONS;

/// Adds every `DEFENDER_GATEWAY_<SECTION>_<KEY>` to `raw`.
pub(super) fn read(
    env: &Environment,
    written: &mut RawConfig,
    mistakes: &mut Vec<ConfigError>,
    notes: &mut Vec<String>,
) {
    for (name, value) in env.iter() {
        let Some(rest) = name.strip_prefix(Key::PREFIX) else {
            continue;
        };
        if name == variable::CONFIG || is_service_link(rest, value.unwrap_or_default()) {
            continue;
        }
        if let Some(note) = deprecated(name) {
            notes.push(note);
            continue;
        }
        let key = keys().find(|key| key.variable() == name);
        let mut wrong = |key: Option<&Key>, problem: String| {
            let origin = Origin::Variable(name.into());
            mistakes.push(ConfigError::new(origin, key.map(Key::path), problem));
        };
        match (key, value) {
            (Some(key), Some(value)) if key.in_file() => written.set(key, node(key, name, value)),
            // Secrets are read where they are used, so that no copy of them is kept here.
            (Some(_), Some(_)) => {}
            (Some(key), None) => wrong(Some(key), "is not UTF-8".into()),
            (None, _) => {
                if let Some(problem) = unknown(rest) {
                    wrong(None, problem);
                }
            }
        }
    }
}

/// Sets keys that are absent or empty, in the file and in the environment, from other programs'
/// variables.
pub(super) fn borrow(env: &Environment, written: &mut RawConfig) {
    for key in keys().filter(|key| key.in_file()) {
        let current = written.node(key);
        // A default that is not empty is replaced as well, because it was not written.
        if current.origin != Origin::Default && !current.is_empty() {
            continue;
        }
        let said = key.borrowed.iter().find_map(|name| Some((*name, env.value(name)?)));
        if let Some((name, value)) = said {
            written.set(key, node(key, name, value.expose()));
        }
    }
}

/// Converts a variable's text to the key's type. A text that does not fit stays text, which the
/// reader rejects.
fn node(key: &Key, name: &str, value: &str) -> Node {
    let at = |raw| Node::new(raw, Origin::Variable(name.into()));
    let items = || value.split(',').map(str::trim).filter(|item| !item.is_empty());
    let raw = match key.kind {
        Kind::Flag | Kind::FlagOr(_) if value == "true" => Raw::Flag(true),
        Kind::Flag | Kind::FlagOr(_) if value == "false" => Raw::Flag(false),
        Kind::Count(..) if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) => Raw::Number(value.into()),
        Kind::List(_) => Raw::List(items().map(|item| at(Raw::Text(item.into()))).collect()),
        Kind::Regions => Raw::List(items().map(|item| at(region(item, &at))).collect()),
        Kind::Shares(..) => Raw::Table(items().map(|item| share(item, &at)).collect()),
        _ => Raw::Text(value.into()),
    };
    at(raw)
}

/// `NAME=URL`.
fn region(item: &str, at: &impl Fn(Raw) -> Node) -> Raw {
    let Some((name, url)) = item.split_once('=') else {
        return Raw::Text(item.into());
    };
    let text = |value: &str| at(Raw::Text(value.trim().into()));
    Raw::Table(vec![entry("name", text(name)), entry("url", text(url))])
}

fn entry(name: &str, value: Node) -> Entry {
    Entry {
        name: name.into(),
        origin: value.origin.clone(),
        value,
    }
}

/// `NAME=NUMBER`; a name may contain an equals sign. Without one there is no number, which the
/// reader reports.
fn share(item: &str, at: &impl Fn(Raw) -> Node) -> Entry {
    let (name, number) = item.rsplit_once('=').unwrap_or((item, ""));
    let number = number.trim();
    let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    let value = at(if is_number {
        Raw::Number(number.into())
    } else {
        Raw::Text(number.into())
    });
    entry(name.trim(), value)
}

/// The error about a variable with our prefix that names no key; `None` when the variable may
/// belong to another program.
///
/// Under a known section it is an error. Anything else may belong to another program, such as the
/// address by which a caller in the same pod finds the gateway, unless it is nearly the name of one
/// of our variables.
fn unknown(rest: &str) -> Option<String> {
    let under = SECTIONS.iter().find_map(|section| {
        let key = rest.strip_prefix(&section.name.to_uppercase())?.strip_prefix('_')?;
        Some((section.keys, key.to_lowercase()))
    });
    if let Some((keys_here, name)) = under {
        let near = nearest(&name, keys_here.iter().map(|key| key.name));
        let near = near.and_then(|near| keys_here.iter().find(|key| key.name == near));
        return Some(if let Some(key) = near {
            format!("is unknown; did you mean {}?", key.variable())
        } else {
            let names: Vec<_> = keys_here.iter().map(|key| key.variable()).collect();
            format!("is unknown; there are {}", names.join(", "))
        });
    }
    let all: Vec<_> = keys().map(Key::variable).chain([variable::CONFIG.into()]).collect();
    let near = nearest(rest, all.iter().filter_map(|name| name.strip_prefix(Key::PREFIX)))?;
    Some(format!("is unknown; did you mean {}{near}?", Key::PREFIX))
}

/// Whether Kubernetes injected the variable for a Service whose name starts with
/// `defender-gateway`.
///
/// The forms, for a Service `S`: `S_SERVICE_HOST`, `S_SERVICE_PORT`, `S_SERVICE_PORT_<PORT NAME>`,
/// `S_PORT=tcp://…`, `S_PORT_<N>_<PROTOCOL>` and the same with `_PROTO`, `_PORT` and `_ADDR`. `S`
/// itself may be longer (`defender-gateway-admin`, `defender-gateway-store`), so the forms are
/// looked for at the end of the name.
fn is_service_link(rest: &str, value: &str) -> bool {
    // One more separator in front, so that a Service with exactly our name has the same form as
    // others.
    let rest = format!("_{rest}");
    if rest.ends_with("_SERVICE_HOST") || rest.ends_with("_SERVICE_PORT") || rest.contains("_SERVICE_PORT_") {
        return true;
    }
    if rest.ends_with("_PORT") && value.contains("://") {
        return true;
    }
    rest.rsplit_once("_PORT_").is_some_and(|(_, tail)| {
        let mut parts = tail.split('_');
        parts.next().is_some_and(|port| port.parse::<u16>().is_ok())
            && parts
                .next()
                .is_some_and(|protocol| ["TCP", "UDP", "SCTP"].contains(&protocol))
            && parts
                .next()
                .is_none_or(|part| ["PROTO", "PORT", "ADDR"].contains(&part))
            && parts.next().is_none()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_links_are_told_from_settings() {
        for (rest, value) in [
            ("SERVICE_HOST", "10.0.0.1"),
            ("SERVICE_PORT", "8080"),
            ("SERVICE_PORT_HTTP", "8080"),
            ("PORT", "tcp://10.0.0.1:8080"),
            ("PORT_8080_TCP", "tcp://10.0.0.1:8080"),
            ("PORT_8080_TCP_PROTO", "tcp"),
            ("PORT_8080_TCP_PORT", "8080"),
            ("PORT_8080_TCP_ADDR", "10.0.0.1"),
            ("STORE_SERVICE_HOST", "10.0.0.1"),
            ("STORE_PORT", "tcp://10.0.0.1:6379"),
            ("ADMIN_PORT_9901_TCP_ADDR", "10.0.0.1"),
        ] {
            assert!(is_service_link(rest, value), "{rest}");
        }
        for (rest, value) in [
            ("SERVER_PORT", "8080"),
            ("PORT", "8080"),
            ("SERVER_LISTEN", "127.0.0.1:8080"),
            ("PORT_X_TCP", "1"),
            ("PORT_80_TCP_ANYTHING", "1"),
            ("PORT_80_TCP_PORT_80", "1"),
            ("STORE_PASSPORT", "tcp"),
        ] {
            assert!(!is_service_link(rest, value), "{rest}");
        }
    }

    #[test]
    fn no_key_looks_like_a_service_link() {
        for key in keys() {
            let variable = key.variable();
            assert!(
                !is_service_link(variable.trim_start_matches(Key::PREFIX), "tcp://"),
                "{variable}"
            );
        }
    }
}
