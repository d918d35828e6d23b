//! `[telemetry]`: logs and traces.

use tracing_subscriber::filter::Targets;
use url::Url;

use super::declare::{keys, section};
use super::traces;
use crate::config::config_error::Origin;
use crate::config::env::variable;
use crate::config::key::Key;
use crate::config::reader::{Read, Reader};
use crate::config::suggestion::nearest;
use crate::config::value::address;
use crate::telemetry::log::Format;
use crate::telemetry::trace::Collector;

section! {
    #[derive(Clone, Debug)]
    pub struct Telemetry: "telemetry", "logs and traces";

    /// What is logged, as tracing filter directives.
    log: String = Key::text(
        "a level (off, error, warn, info, debug, trace) or directives such as \"info,defender_gateway::quota=debug\"",
        "info",
    ).live() => |reader, key| reader.parsed(key, directives);

    /// How log lines look: `auto` is text on a terminal and JSON elsewhere. With `json`, everything
    /// that `run` says is JSON, what it says at the start and why it did not start included, unless
    /// the file that asks for it cannot be read.
    format: Format = Key::choice(&Format::NAMES, "auto") => |reader, key| reader.choice(key, &Format::ALL);

    /// The collector that traces go to (OTLP over HTTP, protobuf), without `/v1/traces`; empty:
    /// nowhere.
    otlp_endpoint: Option<Collector> = Key::text(
        "an http:// or https:// address without user and password, or \"\" for none",
        "",
    ).borrows(&[variable::OTLP_TRACES_ENDPOINT, variable::OTLP_ENDPOINT]).hidden() => collector;

    /// Whether every request gets a line of its own, besides those for refusals and failures: who
    /// asked what, and how it ended, with the target `defender_gateway::access` at the level info.
    access_log: bool = Key::flag(false).live() => Reader::flag;
}

/// Levels as other programs call them.
const OTHER_WORDS: [(&str, &str); 15] = [
    ("warning", "warn"),
    ("warnings", "warn"),
    ("err", "error"),
    ("errors", "error"),
    ("critical", "error"),
    ("fatal", "error"),
    ("information", "info"),
    ("notice", "info"),
    ("normal", "info"),
    ("verbose", "debug"),
    ("all", "trace"),
    ("everything", "trace"),
    ("none", "off"),
    ("quiet", "off"),
    ("silent", "off"),
];

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

fn collector(reader: &mut Reader<'_>, key: &'static Key) -> Read<Option<Collector>> {
    let endpoint = reader.optional(key, endpoint)?;
    let whole = matches!(reader.origin(key), Origin::Variable(name) if name == variable::OTLP_TRACES_ENDPOINT);
    Ok(endpoint.and_then(|endpoint| traces::read(reader, endpoint, whole)))
}

fn directives(text: &str) -> Result<String, String> {
    let words = || text.split(',').map(str::trim).filter(|word| !word.is_empty());
    let text = words().collect::<Vec<_>>().join(",");
    if text.is_empty() {
        return Err("is empty; write \"off\" to log nothing".into());
    }
    // Spans and fields in brackets are no part of a target.
    let is_plain = |word: &str| word.bytes().all(|b| b.is_ascii_alphanumeric() || b"_:-=.".contains(&b));
    if let Some(word) = words().find(|word| !is_plain(word)) {
        return Err(format!("cannot be read as directives ({word:?} is not `target=level`)"));
    }
    text.parse::<Targets>()
        .map_err(|error| format!("cannot be read as directives ({error})"))?;
    // A lone word is the name of a module, logged at every level: hardly what "infoo" was meant to
    // say.
    for word in words() {
        let lone = word.bytes().all(|b| b.is_ascii_alphabetic());
        let level = LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
        let meant = OTHER_WORDS.iter().find(|(other, _)| other.eq_ignore_ascii_case(word));
        let meant = meant.map(|(_, level)| *level).or_else(|| nearest(word, LEVELS));
        if lone
            && !level
            && let Some(meant) = meant
        {
            return Err(format!("holds {word:?}, which is no level; did you mean {meant}?"));
        }
    }
    Ok(text)
}

/// Collectors in a cluster commonly speak plain HTTP, and traces hold no secret.
fn endpoint(text: &str) -> Result<Url, String> {
    let url = address::plain(text)?;
    if http::Uri::try_from(url.as_str()).is_err() {
        return Err("is no address that a request can be sent to".into());
    }
    match url.scheme() {
        "http" | "https" => Ok(url),
        _ => Err("starts with an unknown scheme".into()),
    }
}
