//! Writes an answer in the configured layout.

use serde::Serialize as _;
use serde_json::ser::{PrettyFormatter, Serializer};
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
    let text = members.into_iter().map(|(name, value)| {
        let value = written(&value, history.layout);
        match history.layout {
            Layout::Compact => format!("\"{name}\":{value}"),
            Layout::Spaced => format!("\"{name}\": {value}"),
            Layout::Pretty | Layout::Crlf => format!("\n  \"{name}\": {}", value.replace('\n', "\n  ")),
        }
    });
    let text: Vec<_> = text.collect();
    match history.layout {
        Layout::Compact => format!("{{{}}}", text.join(",")),
        Layout::Spaced => format!("{{{}}}", text.join(", ")),
        Layout::Pretty => format!("{{{}\n}}\n", text.join(",")),
        Layout::Crlf => format!("{{{}\n}}\n", text.join(",")).replace('\n', "\r\n"),
    }
}

fn written(value: &Value, layout: Layout) -> String {
    match (layout, value) {
        (Layout::Spaced, Value::Array(list)) => {
            let items: Vec<_> = list.iter().map(|item| written(item, layout)).collect();
            format!("[{}]", items.join(", "))
        }
        (Layout::Spaced, Value::Object(members)) => {
            let members = members
                .iter()
                .map(|(name, value)| format!("{}: {}", json!(name), written(value, layout)));
            format!("{{{}}}", members.collect::<Vec<_>>().join(", "))
        }
        (Layout::Compact | Layout::Spaced, _) => value.to_string(),
        (Layout::Pretty | Layout::Crlf, _) => {
            let mut text = Vec::new();
            let mut writer = Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(b"  "));
            // Writing a value to memory cannot fail.
            let _ = value.serialize(&mut writer);
            String::from_utf8_lossy(&text).into_owned()
        }
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
