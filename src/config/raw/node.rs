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
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(one), Self::Text(other)) | (Self::Number(one), Self::Number(other)) => one == other,
            (Self::Flag(one), Self::Flag(other)) => one == other,
            (Self::Date, Self::Date) => true,
            (Self::List(one), Self::List(other)) => {
                one.len() == other.len() && one.iter().zip(other).all(|(one, other)| one.has_same_value(other))
            }
            (Self::Table(one), Self::Table(other)) => {
                let is_in = |entry: &Entry| {
                    let mut same = other.iter().filter(|other| other.name == entry.name);
                    same.any(|other| entry.value.has_same_value(&other.value))
                };
                one.len() == other.len() && one.iter().all(is_in)
            }
            _ => false,
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
        self.raw.is_same(&other.raw)
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
