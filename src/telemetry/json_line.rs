//! Writes one JSON object for each log line, in which no key occurs twice.
//!
//! `tracing-subscriber`'s own format writes an event's fields beside `message`, `level` and the
//! like, whatever they are called. Of two members with one name most parsers keep the last, and the
//! line would lose its message (RFC 8259 §4).

use std::fmt;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// Writes an event as one JSON object: time, level, the event's fields, its source, and the
/// request's span.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct JsonLine;

impl<S> FormatEvent<S, JsonFields> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let mut line = Line::default();
        line.push("timestamp", now().into());
        line.push("level", metadata.level().as_str().into());
        event.record(&mut line);
        let target = line.log_target.take();
        line.push("target", target.map_or_else(|| metadata.target().into(), Value::from));
        if let Some(span) = context.lookup_current() {
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<JsonFields>>();
            let fields = fields.and_then(|fields| serde_json::from_str::<Map<String, Value>>(fields).ok());
            let mut fields = fields.unwrap_or_default();
            fields.insert("name".into(), span.name().into());
            line.push("span", fields.into());
        }
        line.write(&mut writer)
    }
}

/// A line like those of the log, for messages that no filter may suppress.
pub(super) fn written(level: &str, message: &str) -> String {
    let mut line = Line::default();
    for (name, value) in [
        ("timestamp", now()),
        ("level", level.to_owned()),
        ("message", message.to_owned()),
        ("target", env!("CARGO_CRATE_NAME").to_owned()),
    ] {
        line.push(name, value.into());
    }
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = line.write(&mut Writer::new(&mut text));
    text.truncate(text.trim_end().len());
    text
}

/// The time as the lines of the log write it.
pub(super) fn now() -> String {
    let mut text = String::new();
    // Without a time, the line still contains the message.
    let _ = SystemTime.format_time(&mut Writer::new(&mut text));
    text
}

/// The members in order.
#[derive(Default)]
struct Line {
    members: Vec<(String, Value)>,
    /// The source of an event of the `log` crate: `tracing` has one target for all of them.
    log_target: Option<String>,
}

impl Line {
    /// A name that is already used gets a number: `message`, `message_2`.
    fn push(&mut self, name: &str, value: Value) {
        let name = name.strip_prefix("r#").unwrap_or(name);
        let is_taken = |candidate: &str| self.members.iter().any(|(taken, _)| taken == candidate);
        let numbered = (2_u32..).map(|number| format!("{name}_{number}"));
        let name = std::iter::once(name.to_owned())
            .chain(numbered)
            .find(|candidate| !is_taken(candidate));
        // There is always another number.
        self.members.extend(name.map(|name| (name, value)));
    }

    fn write(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let mut separator = '{';
        for (name, value) in &self.members {
            write!(writer, "{separator}{}:{value}", Value::from(name.as_str()))?;
            separator = ',';
        }
        writer.write_str("}\n")
    }
}

impl Visit for Line {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field.name(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field.name(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if !field.name().starts_with("log.") {
            self.push(field.name(), value.into());
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field.name(), value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "log.target" => self.log_target = Some(value.into()),
            name if name.starts_with("log.") => {}
            name => self.push(name, value.into()),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if !field.name().starts_with("log.") {
            self.push(field.name(), format!("{value:?}").into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_taken_gets_a_number() {
        let mut line = Line::default();
        for name in ["message", "message", "r#type", "message", "type", "message_2"] {
            line.push(name, name.len().into());
        }
        let mut text = String::new();
        line.write(&mut Writer::new(&mut text)).unwrap();
        assert_eq!(
            text,
            "{\"message\":7,\"message_2\":7,\"type\":6,\"message_3\":7,\"type_2\":4,\"message_2_2\":9}\n"
        );
    }
}
