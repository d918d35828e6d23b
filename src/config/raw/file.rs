//! The file: TOML with positions. The parser checks the syntax, the key table checks the keys.

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::{Entry, Node, Raw, RawConfig, deprecated};
use crate::config::config_error::{ConfigError, Origin, nearest};
use crate::config::key::{Key, keys};
use crate::config::section::SECTIONS;

/// Adds the content of `text` to `raw`.
pub(super) fn read(text: &str, written: &mut RawConfig, mistakes: &mut Vec<ConfigError>, notes: &mut Vec<String>) {
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        syntax(text, &errors, mistakes);
        // What the parser recovers after an error may be anything, so no more errors are reported.
        return;
    }
    for (name, value) in document.get_ref() {
        let origin = position(text, name.span().start);
        let name: &str = name.get_ref();
        let Some(section) = SECTIONS.iter().find(|section| section.name == name) else {
            mistakes.push(unknown_section(origin, name));
            continue;
        };
        let DeValue::Table(table) = value.get_ref() else {
            let problem = format!("is a section, not a value; write [{name}] on a line of its own");
            mistakes.push(ConfigError::new(origin, Some(name.into()), problem));
            continue;
        };
        for (name, value) in table {
            let path = format!("{}.{}", section.name, name.get_ref());
            if let Some(note) = deprecated(&path) {
                notes.push(note);
                continue;
            }
            match known(section.name, section.keys, name.get_ref()) {
                Ok(key) => written.set(key, node(text, value)),
                Err(problem) => {
                    let origin = position(text, name.span().start);
                    mistakes.push(ConfigError::new(origin, Some(path), problem));
                }
            }
        }
    }
}

/// One error for each line, because further ones on a broken line usually follow from the first.
fn syntax(text: &str, errors: &[toml::de::Error], mistakes: &mut Vec<ConfigError>) {
    let mut broken = None;
    for error in errors {
        let origin = position(text, error.span().map_or(text.len(), |span| span.start));
        let Origin::File { line, .. } = origin else { continue };
        if broken.replace(line) != Some(line) {
            // Only the parser's message, because the line itself may contain a secret.
            let problem = format!("is not TOML: {}", error.message());
            mistakes.push(ConfigError::new(origin, None, problem));
        }
    }
}

fn known(section: &str, keys_here: &'static [&'static Key], name: &str) -> Result<&'static Key, String> {
    if let Some(key) = keys_here.iter().find(|key| key.name == name) {
        return if key.in_file() {
            Ok(key)
        } else {
            Err(secret_in_file(key))
        };
    }
    if let Some(near) = nearest(name, keys_here.iter().map(|key| key.name)) {
        return Err(format!("is unknown; did you mean {near}?"));
    }
    if let Some(elsewhere) = keys().find(|key| key.name == name) {
        return Err(format!("is unknown; it belongs into [{}]", elsewhere.section));
    }
    let names: Vec<_> = keys_here
        .iter()
        .filter(|key| key.in_file())
        .map(|key| key.name)
        .collect();
    Err(format!("is unknown; [{section}] has {}", names.join(", ")))
}

fn secret_in_file(key: &Key) -> String {
    format!(
        "is a secret, and files get copied and committed; set {} or {}, or name a file that holds only the secret in {}.{}_file",
        key.variable(),
        key.borrowed.join(", "),
        key.section,
        key.name,
    )
}

fn unknown_section(origin: Origin, name: &str) -> ConfigError {
    let homes: Vec<_> = keys()
        .filter(|key| key.name == name)
        .map(|key| format!("[{}]", key.section))
        .collect();
    let problem = if !homes.is_empty() {
        format!("stands outside of a section; it belongs into {}", homes.join(" or "))
    } else if let Some(near) = nearest(name, SECTIONS.iter().map(|section| section.name)) {
        format!("is unknown; did you mean [{near}]?")
    } else {
        let names: Vec<_> = SECTIONS.iter().map(|section| section.name).collect();
        format!("is unknown; the sections are {}", names.join(", "))
    };
    ConfigError::new(origin, Some(name.into()), problem)
}

fn node(text: &str, value: &Spanned<DeValue<'_>>) -> Node {
    let raw = match value.get_ref() {
        DeValue::String(string) => Raw::Text(string.clone().into_owned()),
        DeValue::Integer(number) => Raw::Number(decimal(number)),
        DeValue::Float(number) => Raw::Number(number.to_string()),
        DeValue::Boolean(flag) => Raw::Flag(*flag),
        DeValue::Datetime(_) => Raw::Date,
        DeValue::Array(items) => Raw::List(items.iter().map(|item| node(text, item)).collect()),
        DeValue::Table(table) => Raw::Table(
            table
                .iter()
                .map(|(name, value)| Entry {
                    name: name.get_ref().clone().into_owned(),
                    origin: position(text, name.span().start),
                    value: node(text, value),
                })
                .collect(),
        ),
    };
    Node::new(raw, position(text, value.span().start))
}

/// TOML also has `0x10`. A number that does not fit is out of every range, and shown as it was
/// written.
fn decimal(number: &DeInteger<'_>) -> String {
    i64::from_str_radix(number.as_str(), number.radix()).map_or_else(|_| number.to_string(), |value| value.to_string())
}

/// Line and column of a byte offset, both from 1; the column counts characters.
fn position(text: &str, offset: usize) -> Origin {
    let before = text.get(..offset).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Origin::File {
        line: before.matches('\n').count() + 1,
        column: before.get(start..).map_or(0, |line| line.chars().count()) + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters_from_one() {
        let text = "a\né=1\n";
        assert_eq!(position(text, 0), Origin::File { line: 1, column: 1 });
        assert_eq!(position(text, 4), Origin::File { line: 2, column: 2 });
        assert_eq!(position(text, 999), Origin::File { line: 3, column: 1 });
    }
}
