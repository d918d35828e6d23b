//! `[telemetry]`: logs and traces; and how traces are sent: OpenTelemetry's own variables, which
//! have no keys.
//!
//! Those are often injected for a whole namespace. As their specification requires, an invalid one
//! leads to a warning and is ignored, so that the gateway starts.

use http::{HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;
use tracing_subscriber::filter::{LevelFilter, Targets};
use url::Url;

use crate::config::config_error::{Origin, nearest};
use crate::config::env::variable;
use crate::config::key::Key;
use crate::config::reader::{Read, Reader};
use crate::config::value::address;
use crate::telemetry::log::Format;
use crate::telemetry::trace::{Collector, Sampler};

section! {
    #[derive(Clone, Debug)]
    pub struct Telemetry: "telemetry", "logs and traces";

    /// What is logged, as tracing filter directives.
    log: String = Key::text(
        "a level (off, error, warn, info, debug; trace is not in a release) or \
         directives such as \"info,defender_gateway::quota=debug\"",
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
    ("all", "debug"),
    ("everything", "debug"),
    ("none", "off"),
    ("quiet", "off"),
    ("silent", "off"),
];

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

fn collector(reader: &mut Reader<'_>, key: &'static Key) -> Read<Option<Collector>> {
    let endpoint = reader.optional(key, endpoint)?;
    let whole = matches!(reader.origin(key), Origin::Variable(name) if name == variable::OTLP_TRACES_ENDPOINT);
    Ok(endpoint.and_then(|endpoint| traces(reader, endpoint, whole)))
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
    // A lone word would be the name of a module that is logged at every level, and nothing beside
    // it.
    let mut lone = words().filter(|word| !word.contains('='));
    if let Some(word) = lone.find(|word| word.parse::<LevelFilter>().is_err()) {
        let meant = OTHER_WORDS.iter().find(|(other, _)| other.eq_ignore_ascii_case(word));
        let meant = meant.map(|(_, level)| *level).or_else(|| nearest(word, LEVELS));
        let remedy = match meant {
            Some(meant) => format!("did you mean {meant}?"),
            None => format!("a module is written with one, such as {word}=debug"),
        };
        return Err(format!("holds {word:?}, which is no level; {remedy}"));
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

/// `None`: traces are turned off. `whole`: the endpoint is complete.
fn traces(reader: &mut Reader<'_>, endpoint: Url, whole: bool) -> Option<Collector> {
    let off = said(reader, &[variable::OTEL_DISABLED]).is_some_and(|(_, value)| value.eq_ignore_ascii_case("true"));
    let exporter = said(reader, &[variable::TRACES_EXPORTER]);
    match exporter {
        Some((_, value)) if value == "none" => return None,
        Some((name, value)) if value != "otlp" => {
            reader.note(format!("{name}: {value:?} is not known here; traces are sent by OTLP"));
        }
        _ => {}
    }
    if off {
        return None;
    }
    let protocol = said(reader, &[variable::OTLP_TRACES_PROTOCOL, variable::OTLP_PROTOCOL]);
    match protocol {
        Some((name, value)) if value != "http/protobuf" => {
            reader.note(format!(
                "{name}: {value:?} is not spoken here; traces are sent as http/protobuf, commonly to port 4318"
            ));
        }
        None if endpoint.port() == Some(4317) => {
            reader.note("traces are sent over HTTP, but port 4317 is commonly OTLP over gRPC; HTTP's is 4318");
        }
        _ => {}
    }
    Some(Collector {
        url: if whole { endpoint } else { with_path(endpoint) },
        fields: fields(reader),
        sampler: sampler(reader),
        resource: resource(reader),
    })
}

/// The first of these variables that is set, and its value without white space around it.
fn said(reader: &Reader<'_>, names: &[&'static str]) -> Option<(&'static str, String)> {
    let (name, value) = reader.env.first(names)?;
    Some((name, value.expose().trim().to_owned()))
}

fn with_path(mut endpoint: Url) -> Url {
    const PATH: &str = "/v1/traces";
    let base = endpoint.path().trim_end_matches('/');
    if !base.ends_with(PATH) {
        let path = format!("{base}{PATH}");
        endpoint.set_path(&path);
    }
    endpoint
}

fn fields(reader: &mut Reader<'_>) -> Vec<(HeaderName, HeaderValue)> {
    let Some((variable, list)) = said(reader, &[variable::OTLP_TRACES_HEADERS, variable::OTLP_HEADERS]) else {
        return Vec::new();
    };
    let mut fields = Vec::new();
    for (name, value) in pairs(&list) {
        match (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            (Ok(name), Ok(mut value)) => {
                value.set_sensitive(true);
                fields.push((name, value));
            }
            // Neither is shown, because a misplaced value may be the key.
            _ => reader.note(format!("{variable}: an entry is no header field; it is left out")),
        }
    }
    fields
}

/// The specification's default is `parentbased_always_on`.
fn sampler(reader: &mut Reader<'_>) -> Sampler {
    let parent_based = |root| Sampler::ParentBased(Box::new(root));
    let Some((name, text)) = said(reader, &[variable::TRACES_SAMPLER]) else {
        return parent_based(Sampler::AlwaysOn);
    };
    let root = match text.strip_prefix("parentbased_").unwrap_or(&text) {
        "always_on" => Sampler::AlwaysOn,
        "always_off" => Sampler::AlwaysOff,
        "traceidratio" => Sampler::TraceIdRatioBased(ratio(reader)),
        _ => {
            reader.note(format!(
                "{name}: {text:?} is not known here; parentbased_always_on is used"
            ));
            return parent_based(Sampler::AlwaysOn);
        }
    };
    if text.starts_with("parentbased_") {
        parent_based(root)
    } else {
        root
    }
}

fn ratio(reader: &mut Reader<'_>) -> f64 {
    let Some((name, text)) = said(reader, &[variable::TRACES_SAMPLER_ARG]) else {
        return 1.0;
    };
    match text.parse() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => ratio,
        _ => {
            reader.note(format!("{name}: {text:?} is no number from 0 to 1; 1 is used"));
            1.0
        }
    }
}

fn resource(reader: &Reader<'_>) -> Vec<(String, String)> {
    let mut resource = Vec::new();
    if let Some((_, list)) = said(reader, &[variable::RESOURCE_ATTRIBUTES]) {
        resource.extend(pairs(&list));
    }
    if let Some((_, name)) = said(reader, &[variable::SERVICE_NAME]) {
        resource.push(("service.name".into(), name));
    }
    resource
}

/// `name=value,…`; entries without an equals sign or a name are left out.
fn pairs(list: &str) -> impl Iterator<Item = (String, String)> {
    let decoded = |text: &str| percent_decode_str(text.trim()).decode_utf8_lossy().into_owned();
    list.split(',')
        .filter_map(|entry| entry.split_once('='))
        .map(move |(name, value)| (decoded(name), decoded(value)))
        .filter(|(name, _)| !name.is_empty())
}
