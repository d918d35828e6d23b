//! One configuration key: its name, type, range, default and meaning.

use std::fmt;
use std::time::Duration;

use super::section::SECTIONS;
use super::value::{either, show_duration, show_size};
use crate::telemetry::named_enum;

/// A TOML table of the configuration.
#[derive(Debug)]
pub(super) struct Section {
    /// Its name in brackets.
    pub(super) name: &'static str,
    /// What it is about, for the reference.
    pub(super) doc: &'static str,
    pub(super) keys: &'static [&'static Key],
}

/// A key of the configuration. Everything about keys (variables, suggestions, the reference) is
/// derived from it.
#[derive(Debug)]
pub struct Key {
    /// Its TOML table.
    pub section: &'static str,
    /// Its name there.
    pub name: &'static str,
    /// Its type and range.
    pub kind: Kind,
    /// Its default.
    pub fallback: DefaultValue,
    /// Its meaning, in a sentence or two, for the reference.
    pub doc: &'static str,
    /// Environment variables of other programs that are read where ours is absent or empty; the
    /// first one set is used.
    pub borrowed: &'static [&'static str],
    /// Whether it is read from the environment only: a secret, which must not be in files that are
    /// copied and committed.
    pub(super) is_secret: bool,
    /// Whether messages must not repeat the value: it may contain a secret, or is where one is
    /// often pasted by mistake.
    pub(super) is_hidden: bool,
    pub(super) reload: Reload,
}

named_enum! {
    /// What it takes for a changed value to be used, with the text in the reference.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Reload, as_str {
        /// Nothing: the running gateway applies it.
        Live = "live",
        /// Nothing for a gateway without a shared quota. With one, the value is agreed with the
        /// other replicas, and needs a restart.
        LiveAlone = "live; with a store restart",
        /// A restart.
        Restart = "restart",
    }
}

/// The type of a key, with its range.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// `true` or `false`.
    Flag,
    /// `true`, `false` or this word.
    FlagOr(&'static str),
    /// A whole number, both ends allowed.
    Count(u64, u64),
    /// A duration with its unit, both ends allowed.
    Duration(Duration, Duration),
    /// A size in bytes with its unit, both ends allowed.
    Size(u64, u64),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A text, described in words.
    Text(&'static str),
    /// A list of texts, described in words. Commas separate them in the environment.
    List(&'static str),
    /// A list of tables with `name` and `url`; `NAME=URL,…` in the environment.
    Regions,
    /// A table of names and whole numbers, both ends allowed; `NAME=NUMBER,…` in the environment.
    Shares(u64, u64),
}

/// A built-in default.
#[derive(Clone, Copy, Debug)]
pub enum DefaultValue {
    /// For [`Kind::Flag`].
    Flag(bool),
    /// For [`Kind::Count`].
    Count(u64),
    /// For every type that is written as text.
    Text(&'static str),
    /// For lists.
    List(&'static [&'static str]),
    /// For tables: one without entries.
    EmptyTable,
}

impl Key {
    /// The prefix of all environment variables of this program.
    pub const PREFIX: &'static str = "DEFENDER_GATEWAY_";

    pub(super) const fn flag(fallback: bool) -> Self {
        Self::new(Kind::Flag, DefaultValue::Flag(fallback))
    }

    pub(super) const fn flag_or(word: &'static str, fallback: &'static str) -> Self {
        Self::new(Kind::FlagOr(word), DefaultValue::Text(fallback))
    }

    pub(super) const fn count(least: u64, most: u64, fallback: u64) -> Self {
        Self::new(Kind::Count(least, most), DefaultValue::Count(fallback))
    }

    pub(super) const fn duration(least: Duration, most: Duration, fallback: &'static str) -> Self {
        Self::new(Kind::Duration(least, most), DefaultValue::Text(fallback))
    }

    pub(super) const fn size(least: u64, most: u64, fallback: &'static str) -> Self {
        Self::new(Kind::Size(least, most), DefaultValue::Text(fallback))
    }

    pub(super) const fn choice(words: &'static [&'static str], fallback: &'static str) -> Self {
        Self::new(Kind::Choice(words), DefaultValue::Text(fallback))
    }

    pub(super) const fn text(allowed: &'static str, fallback: &'static str) -> Self {
        Self::new(Kind::Text(allowed), DefaultValue::Text(fallback))
    }

    pub(super) const fn list(allowed: &'static str, fallback: &'static [&'static str]) -> Self {
        Self::new(Kind::List(allowed), DefaultValue::List(fallback))
    }

    /// A key that is not hidden, and whose change needs a restart, unless it says otherwise.
    pub(super) const fn new(kind: Kind, fallback: DefaultValue) -> Self {
        Self {
            section: "",
            name: "",
            kind,
            fallback,
            doc: "",
            borrowed: &[],
            is_secret: false,
            is_hidden: false,
            reload: Reload::Restart,
        }
    }

    /// The key at its place. `doc` is a doc comment, whose lines begin with a space.
    pub(super) const fn named(mut self, section: &'static str, name: &'static str, doc: &'static str) -> Self {
        (self.section, self.name, self.doc) = (section, name, doc.trim_ascii_start());
        self
    }

    pub(super) const fn borrows(mut self, variables: &'static [&'static str]) -> Self {
        self.borrowed = variables;
        self
    }

    pub(super) const fn hidden(mut self) -> Self {
        self.is_hidden = true;
        self
    }

    pub(super) const fn environment_only(mut self) -> Self {
        self.is_secret = true;
        self
    }

    pub(super) const fn live(mut self) -> Self {
        self.reload = Reload::Live;
        self
    }

    pub(super) const fn live_alone(mut self) -> Self {
        self.reload = Reload::LiveAlone;
        self
    }

    /// What it takes for a changed value to be used.
    pub fn reload(&self) -> Reload {
        self.reload
    }

    /// `section.name`, as in messages.
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// The environment variable that takes precedence over the file.
    pub fn variable(&self) -> String {
        format!("{}{}_{}", Self::PREFIX, self.section, self.name).to_uppercase()
    }

    /// Whether the key is accepted in a file; secrets are not.
    pub fn in_file(&self) -> bool {
        !self.is_secret
    }
}

/// Every key, section by section, in the order of the reference.
pub fn keys() -> impl Iterator<Item = &'static Key> {
    SECTIONS.iter().flat_map(|section| section.keys.iter().copied())
}

/// The range in words: `30s to 1h`, `"auto", "json" or "text"`.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Flag => f.write_str("true or false"),
            Self::FlagOr(word) => write!(f, "true, false or \"{word}\""),
            Self::Count(least, most) => write!(f, "{least} to {most}"),
            Self::Duration(least, most) => write!(f, "{} to {}", show_duration(least), show_duration(most)),
            Self::Size(least, most) => write!(f, "{} to {}", show_size(least), show_size(most)),
            Self::Text(words) | Self::List(words) => f.write_str(words),
            Self::Regions => f.write_str("tables of name and url"),
            Self::Shares(least, most) => write!(f, "a table of names, each with {least} to {most}"),
            Self::Choice(words) => {
                let quoted: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
                f.write_str(&either(&quoted))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn keys_and_variables_are_unique_and_documented() {
        let (mut paths, mut variables) = (HashSet::new(), HashSet::new());
        for key in keys() {
            assert!(paths.insert(key.path()), "{}", key.path());
            assert!(variables.insert(key.variable()), "{}", key.variable());
            assert!(key.doc.ends_with('.') && key.doc.len() > 20, "{}", key.path());
            assert!(
                !key.doc.contains('|'),
                "{}: would break the reference's table",
                key.path()
            );
        }
        assert!(variables.contains("DEFENDER_GATEWAY_QUOTA_LIMITS"));
    }

    #[test]
    fn a_kind_describes_its_range() {
        assert_eq!(Kind::Choice(&["a", "b", "c"]).to_string(), "\"a\", \"b\" or \"c\"");
        assert_eq!(
            Kind::Duration(Duration::ZERO, Duration::from_hours(1)).to_string(),
            "0s to 1h"
        );
        assert_eq!(Kind::Size(1024, 1 << 30).to_string(), "1KiB to 1GiB");
    }
}
