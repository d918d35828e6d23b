//! Writes an answer in the configured layout.

use std::io::{self, Write};

use serde::Serializer as _;
use serde_json::ser::{Formatter, Serializer};
use serde_json::{Value, json};

use super::request_parts::Options;
use crate::sim::history::{EntityForm, Envelope, History, Layout, NextLink};

/// The base address that the real service puts into answers, whatever region they come from.
fn context(what: &str) -> Value {
    json!(format!("https://api.securitycenter.microsoft.com/api/{what}"))
}

/// The body of an answer with one entity.
pub(super) fn entity(history: &History, what: &str, entity: &Value) -> String {
    if history.entity == EntityForm::Wrapped {
        return write(history, what, std::slice::from_ref(entity), None);
    }
    let context = ("@odata.context", context(what));
    let members = entity.as_object().into_iter().flatten();
    let members = members.map(|(name, value)| (&**name, value.clone()));
    object(history, [context].into_iter().chain(members))
}

/// The body of an answer with these rows, and a link to the next ones.
pub(super) fn write(history: &History, what: &str, rows: &[Value], next: Option<(&str, String)>) -> String {
    let (context, list) = (("@odata.context", context(what)), ("value", Value::from(rows.to_vec())));
    let mut members = match history.envelope {
        Envelope::Documented => vec![context, list],
        Envelope::Reversed => vec![list, context],
        Envelope::Extended => vec![
            (
                "@odata.type",
                json!("#Collection(microsoft.windowsDefenderATP.api.scan)"),
            ),
            list,
            context,
            ("diagnostics", json!({"cached": false, "notes": [null, "-"]})),
        ],
    };
    members.extend(next.map(|(name, link)| (name, json!(link))));
    object(history, members)
}

fn object<'a>(history: &History, members: impl IntoIterator<Item = (&'a str, Value)>) -> String {
    let mut text = Vec::new();
    // Writing values to memory cannot fail.
    let _ = match history.layout {
        Layout::Compact => Serializer::new(&mut text).collect_map(members),
        Layout::Spaced => Serializer::with_formatter(&mut text, Spaced).collect_map(members),
        Layout::Pretty | Layout::Crlf => Serializer::pretty(&mut text).collect_map(members),
    };
    let text = String::from_utf8_lossy(&text).into_owned();
    match history.layout {
        Layout::Compact | Layout::Spaced => text,
        Layout::Pretty => text + "\n",
        Layout::Crlf => (text + "\n").replace('\n', "\r\n"),
    }
}

/// On one line, with a space after each comma and colon.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.begin_array_value(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

/// The link to the rows after the first `skip`, with its configured name. `size` is the option that
/// limits the number of rows, and its value.
pub(super) fn link(
    history: &History,
    (scheme, host, path): (&str, &str, &str),
    size: Option<(&str, usize)>,
    skip: usize,
) -> (&'static str, String) {
    let top = size.map_or(String::new(), |(name, size)| format!("{name}={size}&"));
    match history.next_link {
        NextLink::Present | NextLink::Absent => {
            ("@odata.nextLink", format!("{scheme}://{host}{path}?{top}$skip={skip}"))
        }
        NextLink::SkipToken => {
            let link = format!(
                "https://api.securitycenter.microsoft.com{path}?{top}$skiptoken={}",
                Options::token(skip)
            );
            ("@odata.nextLink", link)
        }
        NextLink::Custom => {
            let link = format!("https://api.securitycenter.windows.com{path}?=&=10000&{top}position={skip}");
            ("@odata.nextlink", link)
        }
    }
}
