//! Reads keys as values. A value that cannot be read becomes an error at its position, and reading
//! goes on: the sections get [`Recorded`] and report all errors in the rest.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use secrecy::zeroize::Zeroizing;

use super::config_error::{ConfigError, Origin};
use super::env::Environment;
use super::files::{Digest, Files, Found, MAX_CONTENT_BYTES, unreadable};
use super::key::{Key, Kind, keys};
use super::raw::{Entry, Node, Raw, RawConfig};
use super::settings::Settings;
use super::value::{parse_duration, parse_size};
use crate::secret::Secret;

/// The state of resolving one configuration.
pub(super) struct Reader<'a> {
    written: RawConfig,
    pub(super) env: &'a Environment,
    files: &'a dyn Files,
    mistakes: Vec<ConfigError>,
    notes: Vec<String>,
}

/// There is no value, and the error has been recorded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recorded;

/// A value, unless an error about it has been recorded.
pub(super) type Read<T> = Result<T, Recorded>;

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(super) struct Sourced<T> {
    pub(super) value: T,
    pub(super) origin: Origin,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: Option<&str>, env: &'a Environment, files: &'a dyn Files) -> Self {
        let (mut mistakes, mut notes) = (Vec::new(), Vec::new());
        Self {
            written: RawConfig::read(text, env, &mut mistakes, &mut notes),
            env,
            files,
            mistakes,
            notes,
        }
    }

    /// Uses the `held` keys as they are in `running`, whatever is written now.
    pub(super) fn holding(mut self, held: &[&'static Key], running: &Settings) -> Self {
        for key in held {
            self.written.set(key, running.node(key));
        }
        self
    }

    /// What was written, key by key.
    pub(super) fn settings(&self) -> Settings {
        let mut written = self.written.clone();
        for key in keys().filter(|key| !key.in_file()) {
            // Secrets are not kept, only their origins.
            if let Some(secret) = self.secret(key) {
                written.set(key, Node::new(Raw::Text(String::new()), secret.origin));
            }
        }
        Settings::new(written)
    }

    /// The errors and notes.
    pub(super) fn finish(self) -> (Vec<ConfigError>, Vec<String>) {
        (self.mistakes, self.notes)
    }

    /// Records something the operator should know although it is no error.
    pub(super) fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        // Some keys are read again for the sake of others.
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }

    /// Reads one key by the function of its declaration.
    pub(super) fn field<T>(
        &mut self,
        key: &'static Key,
        read: impl FnOnce(&mut Self, &'static Key) -> Read<T>,
    ) -> Read<T> {
        read(self, key)
    }

    /// Where the value of `key` comes from.
    pub(super) fn origin(&self, key: &'static Key) -> Origin {
        self.written.node(key).origin
    }

    /// Whether `key` was written, with a value that is not empty.
    pub(super) fn is_set(&self, key: &'static Key) -> bool {
        let node = self.written.node(key);
        node.origin != Origin::Default && !node.is_empty()
    }

    /// Records an error about `key` where it is written.
    pub(super) fn wrong(&mut self, key: &'static Key, problem: impl Into<String>) -> Recorded {
        let origin = self.origin(key);
        self.wrong_at(origin, key.path(), problem)
    }

    /// Records an error at another position.
    pub(super) fn wrong_at(&mut self, origin: Origin, key: impl Into<String>, problem: impl Into<String>) -> Recorded {
        self.mistakes.push(ConfigError::new(origin, Some(key.into()), problem));
        Recorded
    }

    /// Records that `key` has a value of the wrong type.
    fn misfit(&mut self, key: &'static Key, Node { raw, origin, .. }: Node) -> Recorded {
        let problem = match (&raw, key.kind) {
            (Raw::Number(number), Kind::Duration(..)) => with_unit(number, parse_duration(number).err(), key),
            (Raw::Number(number), Kind::Size(..)) => with_unit(number, parse_size(number).err(), key),
            (Raw::Text(text), Kind::Flag | Kind::Count(..)) => {
                let is_in_file = matches!(origin, Origin::File { .. });
                let quotes = if is_in_file { ", without quotes" } else { "" };
                format!("{} is a text; write {}{quotes}", echo(key, text), key.kind)
            }
            (raw, Kind::List(_)) => format!("is {}; write a list in brackets: {}", raw.shape(), key.kind),
            (raw, Kind::Shares(..) | Kind::FlagOr(_)) => format!("is {}; write {}", raw.shape(), key.kind),
            (raw, Kind::Regions) => format!("is {}; write a list of tables with name and url", raw.shape()),
            (raw, _) => format!("is {}; write a text in quotes: {}", raw.shape(), key.kind),
        };
        self.wrong_at(origin, key.path(), problem)
    }

    pub(super) fn flag(&mut self, key: &'static Key) -> Read<bool> {
        match self.written.node(key) {
            Node {
                raw: Raw::Flag(value), ..
            } => Ok(value),
            node => Err(self.misfit(key, node)),
        }
    }

    /// `true`, `false` or the key's word, each with its value.
    pub(super) fn flag_or<T: Copy>(&mut self, key: &'static Key, [on, off, other]: [T; 3]) -> Read<T> {
        match self.written.node(key).raw {
            Raw::Text(_) => self.one_of(key, |word| {
                matches!(key.kind, Kind::FlagOr(own) if own == word).then_some(other)
            }),
            _ => self.flag(key).map(|flag| if flag { on } else { off }),
        }
    }

    pub(super) fn count<T: FromStr>(&mut self, key: &'static Key) -> Read<T> {
        let node = self.written.node(key);
        let (Raw::Number(text), Kind::Count(least, most)) = (&node.raw, key.kind) else {
            return Err(self.misfit(key, node));
        };
        let is_allowed = text.parse().is_ok_and(|value: u64| (least..=most).contains(&value));
        match text.parse() {
            Ok(value) if is_allowed => Ok(value),
            _ => Err(self.wrong(key, format!("{text} is out of range; allowed is {}", key.kind))),
        }
    }

    pub(super) fn duration(&mut self, key: &'static Key) -> Read<Duration> {
        let Kind::Duration(least, most) = key.kind else {
            return Err(Recorded);
        };
        self.parsed(key, |text| in_range(least..=most, parse_duration(text)?))
    }

    pub(super) fn size(&mut self, key: &'static Key) -> Read<u64> {
        let Kind::Size(least, most) = key.kind else {
            return Err(Recorded);
        };
        self.parsed(key, |text| in_range(least..=most, parse_size(text)?))
    }

    /// The value of a word, which stands where the word stands among the key's own.
    pub(super) fn choice<T: Copy>(&mut self, key: &'static Key, values: &[T]) -> Read<T> {
        let Kind::Choice(words) = key.kind else {
            return Err(Recorded);
        };
        self.one_of(key, |text| {
            let index = words.iter().position(|word| *word == text)?;
            values.get(index).copied()
        })
    }

    fn one_of<T>(&mut self, key: &'static Key, value: impl FnOnce(&str) -> Option<T>) -> Read<T> {
        self.parsed(key, |text| value(text).ok_or_else(|| "is unknown".into()))
    }

    /// A text that `parse` accepts; its error is a phrase that follows the value.
    pub(super) fn parsed<T>(&mut self, key: &'static Key, parse: impl FnOnce(&str) -> Result<T, String>) -> Read<T> {
        match self.written.node(key) {
            Node {
                raw: Raw::Text(text),
                origin,
                ..
            } => self.understood(key, key.path(), origin, &text, parse),
            node => Err(self.misfit(key, node)),
        }
    }

    /// Like [`Reader::parsed`]; an empty text is `None`.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static Key,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Read<Option<T>> {
        self.parsed(key, |text| (!text.is_empty()).then(|| parse(text)).transpose())
    }

    /// A list of texts that `parse` accepts. One invalid item makes the list invalid, but the
    /// others are still checked.
    pub(super) fn each<T>(
        &mut self,
        key: &'static Key,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Read<Vec<Sourced<T>>> {
        let mut values = Vec::new();
        for (index, Node { raw, origin, .. }) in self.items(key)?.into_iter().enumerate() {
            let path = format!("{}[{index}]", key.path());
            values.push(match &raw {
                Raw::Text(text) => self
                    .understood(key, path, origin.clone(), text, &parse)
                    .map(|value| Sourced { value, origin }),
                _ => Err(self.wrong_at(origin, path, format!("is {}; write a text in quotes", raw.shape()))),
            });
        }
        values.into_iter().collect()
    }

    /// The items of a list, not yet parsed.
    pub(super) fn items(&mut self, key: &'static Key) -> Read<Vec<Node>> {
        match self.written.node(key) {
            Node {
                raw: Raw::List(items), ..
            } => Ok(items),
            node => Err(self.misfit(key, node)),
        }
    }

    /// The entries of a table, not yet parsed.
    pub(super) fn entries(&mut self, key: &'static Key) -> Read<Vec<Entry>> {
        match self.written.node(key) {
            Node {
                raw: Raw::Table(entries),
                ..
            } => Ok(entries),
            node => Err(self.misfit(key, node)),
        }
    }

    fn understood<T>(
        &mut self,
        key: &'static Key,
        path: String,
        origin: Origin,
        text: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Read<T> {
        parse(text).map_err(|problem| {
            let problem = format!("{} {problem}; allowed is {}", echo(key, text), key.kind);
            self.wrong_at(origin, path, problem)
        })
    }

    /// A secret, directly from the environment: our variable, or else a borrowed one. The origin is
    /// the variable.
    pub(super) fn secret(&self, key: &'static Key) -> Option<Sourced<Secret>> {
        let ours = key.variable();
        let mut names = std::iter::once(ours.as_str()).chain(key.borrowed.iter().copied());
        names.find_map(|name| {
            Some(Sourced {
                value: self.env.value(name)?.clone(),
                origin: Origin::Variable(name.into()),
            })
        })
    }

    /// The path of a file that has to exist, be readable and not be empty.
    pub(super) fn file(&mut self, key: &'static Key) -> Read<Option<PathBuf>> {
        let path = self.optional(key, |text| Ok(PathBuf::from(text)))?;
        if let Some(path) = &path {
            // Where nothing is, and what is written does not look like a path, it is not repeated.
            if !is_plainly_a_path(path) && self.files.look(path).is_err() {
                let problem = "there is no such file; the value is not shown, because it may be the secret itself: \
                    write the path of a file, from / on";
                return Err(self.wrong(key, problem));
            }
            self.holds(path)
                .map_err(|problem| self.file_wrong(key, path, problem))?;
        }
        Ok(path)
    }

    /// Whether `path` is a readable file that is not empty.
    pub(super) fn holds(&self, path: &Path) -> Result<(), String> {
        match self.files.look(path) {
            Ok(Found::File { bytes: 1.. }) => Ok(()),
            Ok(Found::File { bytes: 0 }) => Err("the file is empty".into()),
            Ok(Found::Directory) => Err("is a directory, not a file".into()),
            Ok(Found::Other) => Err("is not a regular file".into()),
            Err(error) => Err(unreadable(&error)),
        }
    }

    /// The content of a file that may contain a secret; it is wiped when dropped.
    pub(super) fn content(&self, path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
        let content = self.files.read(path, MAX_CONTENT_BYTES).map(Zeroizing::new);
        content.map_err(|error| unreadable(&error))
    }

    /// Has the content of a file that is read once count as the value of `key`.
    pub(super) fn count_content(&mut self, key: &'static Key, content: &[u8]) {
        let content = Some(Digest::of(content));
        let node = self.written.node(key);
        self.written.set(key, Node { content, ..node });
    }

    /// Whether `path` is a directory.
    pub(super) fn is_directory(&self, path: &Path) -> bool {
        matches!(self.files.look(path), Ok(Found::Directory))
    }
}

/// `value`, if it is in `range`. The error is a phrase that follows the value in a message.
pub(super) fn in_range<T: PartialOrd>(range: RangeInclusive<T>, value: T) -> Result<T, String> {
    if range.contains(&value) {
        Ok(value)
    } else {
        Err("is out of range".into())
    }
}

/// Whether it begins as a path does, and secrets do not.
fn is_plainly_a_path(path: &Path) -> bool {
    path.is_absolute() || path.starts_with(".") || path.starts_with("..")
}

/// The value as it may appear in a message.
fn echo(key: &Key, text: &str) -> String {
    const LONGEST: usize = 80;
    if key.is_hidden {
        return "the value".into();
    }
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("\"{}…\"", text[..end].escape_debug()),
        None => format!("\"{}\"", text.escape_debug()),
    }
}

/// What is wrong with a number that has no unit.
fn with_unit(number: &str, hint: Option<String>, key: &Key) -> String {
    format!(
        "{number} {}; allowed is {}",
        quoted(&hint.unwrap_or_default()),
        key.kind
    )
}

/// Values in a file need quotes around them: `write 30s` becomes `write "30s"`.
fn quoted(hint: &str) -> String {
    hint.split(' ')
        .map(|word| match word.trim_end_matches(',') {
            bare if bare.starts_with(|c: char| c.is_ascii_digit()) => word.replacen(bare, &format!("\"{bare}\""), 1),
            _ => word.to_owned(),
        })
        .collect::<Vec<_>>()
        .join(" ")
}
