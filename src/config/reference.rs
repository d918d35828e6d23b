//! What is generated from the key table: the reference of all keys for `config/README.md`, and the
//! JSON Schema of a configuration file for editors and generators.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::env::variable;
use super::key::{Key, Kind};
use super::raw::Node;
use super::section::SECTIONS;

/// A Markdown table for each section: key, default, range, meaning, and what a change requires; and
/// the other variables that are read.
///
/// The page contains it between `<!-- config:begin -->` and `<!-- config:end -->`; a test compares
/// the two.
pub fn reference() -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut out);
    out
}

fn write(out: &mut String) -> std::fmt::Result {
    writeln!(
        out,
        "Every key can also be set by an environment variable, which wins over the file: `DEFENDER_GATEWAY_<SECTION>_<KEY>` in capitals, \
         lists separated by commas. Durations are a whole number with `ms`, `s`, `m`, `h` or `d`; sizes with `B`, `KiB`, `MiB`, `GiB`, \
         `KB`, `MB` or `GB`. `{}` names the file when `--config` does not. A changed file is taken over by the running gateway where the last \
         column says *live*; for the rest it asks for a restart.",
        variable::CONFIG
    )?;
    for section in SECTIONS {
        writeln!(out, "\n**`[{}]`**: {}\n", section.name, section.doc)?;
        writeln!(
            out,
            "| key | default | allowed | meaning | change |\n|---|---|---|---|---|"
        )?;
        for key in section.keys {
            let default = if key.in_file() {
                format!("`{}`", key.fallback)
            } else {
                "none".into()
            };
            let also = match key.borrowed {
                [] => String::new(),
                names => format!(" Else `{}` is read.", names.join("`, `")),
            };
            let name = if key.in_file() {
                key.name.to_owned()
            } else {
                key.variable()
            };
            let change = key.reload().as_str();
            writeln!(
                out,
                "| `{name}` | {default} | {} | {}{also} | {change} |",
                key.kind, key.doc
            )?;
        }
    }
    Ok(())
}

/// Durations and sizes, as the reader splits them.
const DURATION: &str = "^[0-9]+(ms|s|m|h|d)$";
const SIZE: &str = "^[0-9]+(B|KiB|MiB|GiB|KB|MB|GB)$";

/// JSON Schema 2020-12 of the file, with a line break at the end. Rules that it cannot express
/// (between keys, about files) are checked by `check`.
///
/// `config/gateway.schema.json` contains it; a test compares the two.
pub fn schema() -> String {
    let sections = SECTIONS.iter().map(|section| {
        let keys = section.keys.iter().filter(|key| key.in_file());
        let properties: Map<_, _> = keys.map(|key| (key.name.to_owned(), property(key))).collect();
        let schema = json!({
            "type": "object",
            "description": section.doc,
            "additionalProperties": false,
            "properties": properties,
        });
        (section.name.to_owned(), schema)
    });
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "defender-gateway",
        "description": "The configuration file of defender-gateway.",
        "type": "object",
        "additionalProperties": false,
        "properties": sections.collect::<Map<_, _>>(),
    });
    format!("{schema:#}\n")
}

fn property(key: &Key) -> Value {
    let mut schema = kind(key.kind);
    if let Value::Object(members) = &mut schema {
        members.insert(
            "description".into(),
            format!("{} Allowed: {}.", key.doc, key.kind).into(),
        );
        members.insert(
            "default".into(),
            json!(Node::from(key.fallback).raw.to_toml(&str::to_owned)),
        );
        members.insert("x-environment".into(), key.variable().into());
        members.insert("x-reload".into(), key.reload().as_str().into());
    }
    schema
}

fn kind(kind: Kind) -> Value {
    match kind {
        Kind::Flag => json!({"type": "boolean"}),
        Kind::FlagOr(word) => json!({"enum": [true, false, word]}),
        Kind::Count(least, most) => json!({"type": "integer", "minimum": least, "maximum": most}),
        Kind::Duration(..) => json!({"type": "string", "pattern": DURATION}),
        Kind::Size(..) => json!({"type": "string", "pattern": SIZE}),
        Kind::Choice(words) => json!({"type": "string", "enum": words}),
        Kind::Text(_) => json!({"type": "string"}),
        Kind::List(_) => json!({"type": "array", "items": {"type": "string"}}),
        Kind::Regions => json!({
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": false,
                "required": ["name", "url"],
                "properties": {"name": {"type": "string"}, "url": {"type": "string"}},
            },
        }),
        Kind::Shares(least, most) => json!({
            "type": "object",
            "additionalProperties": {"type": "integer", "minimum": least, "maximum": most},
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{keys, parse_duration, parse_size};

    #[test]
    fn every_key_has_a_row_of_five_cells() {
        let text = reference();
        for key in keys() {
            let name = if key.in_file() {
                key.name.to_owned()
            } else {
                key.variable()
            };
            let row = text
                .lines()
                .find(|line| line.starts_with(&format!("| `{name}` |")))
                .unwrap();
            assert_eq!(row.matches('|').count(), 6, "{row}");
        }
    }

    #[test]
    fn every_key_of_the_file_is_described_and_no_secret() {
        let schema: Value = serde_json::from_str(&schema()).unwrap();
        for key in keys() {
            let property = &schema["properties"][key.section]["properties"][key.name];
            assert_eq!(property.is_object(), key.in_file(), "{}", key.path());
        }
    }

    /// The patterns spell out the units.
    #[test]
    fn the_patterns_know_every_unit() {
        let units = |pattern: &str| {
            let inside = pattern.split_once('(').unwrap().1.trim_end_matches(")$").to_owned();
            inside.split('|').map(str::to_owned).collect::<Vec<_>>()
        };
        for unit in [
            "ms", "s", "m", "h", "d", "B", "KiB", "MiB", "GiB", "KB", "MB", "GB", "w", "TiB", "k",
        ] {
            let text = format!("1{unit}");
            assert_eq!(
                parse_duration(&text).is_ok(),
                units(DURATION).iter().any(|known| known == unit),
                "{unit}"
            );
            assert_eq!(
                parse_size(&text).is_ok(),
                units(SIZE).iter().any(|known| known == unit),
                "{unit}"
            );
        }
    }
}
