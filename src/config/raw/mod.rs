//! The values as written, with their positions, before they are checked.
//!
//! There are three layers, of which the last takes precedence: the built-in defaults, the file, the
//! environment. Other programs' variables ([`super::Key::borrowed`]) are used only for keys that
//! are absent or empty in our own layers.

mod file;
mod variables;

use std::collections::BTreeMap;
use std::fmt;

use super::config_error::{ConfigError, Origin};
use super::env::Environment;
use super::files::Digest;
use super::key::{DefaultValue, Key};

/// The values that were written, each with the highest precedence. It has no `Debug`, because it may
/// contain a password.
#[derive(Clone, Default)]
pub(super) struct RawConfig {
    nodes: BTreeMap<(&'static str, &'static str), Node>,
}

impl RawConfig {
    /// Reads the file's text, if there is a file, and the environment. Unknown keys and syntax
    /// errors go to `mistakes`, deprecated keys to `notes`.
    pub(super) fn read(
        text: Option<&str>,
        env: &Environment,
        mistakes: &mut Vec<ConfigError>,
        notes: &mut Vec<String>,
    ) -> Self {
        let mut written = Self::default();
        if let Some(text) = text {
            file::read(text, &mut written, mistakes, notes);
        }
        variables::read(env, &mut written, mistakes, notes);
        variables::borrow(env, &mut written);
        written
    }

    pub(super) fn set(&mut self, key: &'static Key, node: Node) {
        self.nodes.insert((key.section, key.name), node);
    }

    /// The value of `key`, which is its default where none was written.
    pub(super) fn node(&self, key: &'static Key) -> Node {
        self.nodes
            .get(&(key.section, key.name))
            .cloned()
            .unwrap_or_else(|| Node::from(key.fallback))
    }
}

/// A value with its position. It has no `Debug`, because it may contain a password.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) raw: Raw,
    pub(super) origin: Origin,
    /// What is in the file that it names, if that is read once: it is part of the value then.
    pub(super) content: Option<Digest>,
}

/// The types of TOML.
#[derive(Clone)]
pub(super) enum Raw {
    Text(String),
    Number(String),
    Flag(bool),
    Date,
    List(Vec<Node>),
    Table(Vec<Entry>),
}

/// One `key = value` of a table.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) origin: Origin,
    pub(super) value: Node,
}

impl Raw {
    /// As TOML, with each text as `shown` gives it.
    pub(super) fn to_toml(&self, shown: &dyn Fn(&str) -> String) -> toml::Value {
        match self {
            Self::Text(text) => toml::Value::String(shown(text)),
            // A value that is no whole number has been rejected.
            Self::Number(text) => text
                .parse()
                .map_or_else(|_| toml::Value::String(text.clone()), toml::Value::Integer),
            Self::Flag(flag) => toml::Value::Boolean(*flag),
            // No key has this type.
            Self::Date => toml::Value::String(String::new()),
            Self::List(items) => toml::Value::Array(items.iter().map(|item| item.raw.to_toml(shown)).collect()),
            Self::Table(entries) => {
                let entries = entries.iter();
                let entries = entries.map(|entry| (entry.name.clone(), entry.value.raw.to_toml(shown)));
                toml::Value::Table(entries.collect())
            }
        }
    }

    /// The type, with its article, for messages.
    pub(super) fn shape(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Number(_) => "a number",
            Self::Flag(_) => "true or false",
            Self::Date => "a date",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }
}

impl Node {
    /// Whether both have the same value, at any position.
    pub(super) fn has_same_value(&self, other: &Self) -> bool {
        let value = |node: &Self| (node.raw.to_toml(&str::to_owned), node.content);
        value(self) == value(other)
    }

    pub(super) fn new(raw: Raw, origin: Origin) -> Self {
        let content = None;
        Self { raw, origin, content }
    }

    /// Whether it is empty: an empty text, list or table.
    pub(super) fn is_empty(&self) -> bool {
        match &self.raw {
            Raw::Text(text) => text.is_empty(),
            Raw::List(items) => items.is_empty(),
            Raw::Table(entries) => entries.is_empty(),
            _ => false,
        }
    }
}

impl From<DefaultValue> for Node {
    fn from(fallback: DefaultValue) -> Self {
        let raw = match fallback {
            DefaultValue::Flag(value) => Raw::Flag(value),
            DefaultValue::Count(value) => Raw::Number(value.to_string()),
            DefaultValue::Text(value) => Raw::Text(value.into()),
            DefaultValue::List(values) => {
                Raw::List(values.iter().map(|value| DefaultValue::Text(value).into()).collect())
            }
            DefaultValue::EmptyTable => Raw::Table(Vec::new()),
        };
        Self::new(raw, Origin::Default)
    }
}

/// As it would be written in TOML.
impl fmt::Display for DefaultValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Node::from(*self).raw.to_toml(&str::to_owned).fmt(f)
    }
}

/// The warning about a key of the previous version, by its path or its variable, which is not an
/// error for one version: an update should lead to a warning, not to a gateway that does not start.
/// `None` when there was no such key.
fn deprecated(what: &str) -> Option<String> {
    let now = match what {
        "defender.hedge" | "DEFENDER_GATEWAY_DEFENDER_HEDGE" => {
            "a call to a host that answers nothing is made at another one without being told to"
        }
        _ => return None,
    };
    Some(format!(
        "{what} is gone, means nothing any more and will be a mistake in the next version: {now}; remove it"
    ))
}
