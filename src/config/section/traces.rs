//! How traces are sent: OpenTelemetry's own variables, which have no keys.
//!
//! They are often injected for a whole namespace. As their specification requires, an invalid one
//! leads to a warning and is ignored, so that the gateway starts.

use http::{HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;
use url::Url;

use crate::config::env::variable;
use crate::config::reader::Reader;
use crate::telemetry::trace::{Collector, Sampler};

/// `None`: traces are turned off. `whole`: the endpoint is complete.
pub(super) fn read(reader: &mut Reader<'_>, endpoint: Url, whole: bool) -> Option<Collector> {
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
