//! A value of any type, with its position.

use crate::config::config_error::Origin;
use crate::config::key::DefaultValue;

/// A value with its position. It has no `Debug`, because it may contain a password.
#[derive(Clone)]
pub(in crate::config) struct Node {
    pub(in crate::config) raw: Raw,
    pub(in crate::config) origin: Origin,
}

/// The types of TOML.
#[derive(Clone)]
pub(in crate::config) enum Raw {
    Text(String),
    Number(String),
    Flag(bool),
    Date,
    List(Vec<Node>),
    Table(Vec<Entry>),
}

/// One `key = value` of a table.
#[derive(Clone)]
pub(in crate::config) struct Entry {
    pub(in crate::config) name: String,
    pub(in crate::config) origin: Origin,
    pub(in crate::config) value: Node,
}

impl Raw {
    /// As TOML, with each text as `shown` gives it.
    pub(in crate::config) fn to_toml(&self, shown: &dyn Fn(&str) -> String) -> toml::Value {
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
    pub(in crate::config) fn shape(&self) -> &'static str {
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
    pub(in crate::config) fn has_same_value(&self, other: &Self) -> bool {
        let value = |node: &Self| node.raw.to_toml(&str::to_owned);
        value(self) == value(other)
    }

    pub(super) fn new(raw: Raw, origin: Origin) -> Self {
        Self { raw, origin }
    }

    /// Whether it is empty: an empty text, list or table.
    pub(in crate::config) fn is_empty(&self) -> bool {
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
            DefaultValue::List(values) => Raw::List(
                values
                    .iter()
                    .map(|value| Self::new(Raw::Text((*value).into()), Origin::Default))
                    .collect(),
            ),
            DefaultValue::EmptyTable => Raw::Table(Vec::new()),
        };
        Self::new(raw, Origin::Default)
    }
}
