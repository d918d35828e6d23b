//! Reads keys as values. A value that cannot be read becomes an error at its position, and reading
//! goes on: the sections get `None` and report all errors in the rest.

use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::zeroize::Zeroizing;

use super::config_error::{ConfigError, Origin};
use super::env::Environment;
use super::files::{Files, Found, unreadable};
use super::key::{Echo, Key, Kind, keys};
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
        let secrets = keys().filter(|key| !key.in_file());
        let secrets = secrets.filter_map(|key| Some((key, self.secret(key)?.origin)));
        Settings::new(self.written.clone(), secrets.collect())
    }

    /// The errors and notes.
    pub(super) fn finish(self) -> (Vec<ConfigError>, Vec<String>) {
        (self.mistakes, self.notes)
    }

    /// Records something the operator should know although it is no error.
    pub(super) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
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
    pub(super) fn wrong(&mut self, key: &'static Key, problem: impl Into<String>) {
        let origin = self.origin(key);
        self.wrong_at(origin, key.path(), problem);
    }

    /// Records an error at another position.
    pub(super) fn wrong_at(&mut self, origin: Origin, key: impl Into<String>, problem: impl Into<String>) {
        self.mistakes.push(ConfigError {
            origin,
            key: Some(key.into()),
            problem: problem.into(),
        });
    }

    /// Records that `raw` has the wrong type.
    fn misfit(&mut self, key: &'static Key, origin: Origin, raw: &Raw) {
        let problem = match (raw, key.kind) {
            (Raw::Number(number), Kind::Duration(..) | Kind::Size(..)) => {
                let hint = match key.kind {
                    Kind::Size(..) => parse_size(number).err(),
                    _ => parse_duration(number).err(),
                };
                let hint = quoted(&hint.unwrap_or_default());
                format!("{number} {hint}; allowed is {}", key.kind)
            }
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
        self.wrong_at(origin, key.path(), problem);
    }

    pub(super) fn flag(&mut self, key: &'static Key) -> Option<bool> {
        let Node { raw, origin } = self.written.node(key);
        if let Raw::Flag(value) = raw {
            return Some(value);
        }
        self.misfit(key, origin, &raw);
        None
    }

    /// `true`, `false` or the key's word, each with its value.
    pub(super) fn flag_or<T: Copy>(&mut self, key: &'static Key, [on, off, other]: [T; 3]) -> Option<T> {
        if let (Raw::Text(_), Kind::FlagOr(word)) = (self.written.node(key).raw, key.kind) {
            return self.choice(key, &[(word, other)]);
        }
        self.flag(key).map(|flag| if flag { on } else { off })
    }

    pub(super) fn count(&mut self, key: &'static Key) -> Option<u64> {
        let Node { raw, origin } = self.written.node(key);
        let (Raw::Number(text), Kind::Count(least, most)) = (&raw, key.kind) else {
            self.misfit(key, origin, &raw);
            return None;
        };
        match text.parse() {
            Ok(value) if (least..=most).contains(&value) => Some(value),
            _ => {
                self.wrong_at(
                    origin,
                    key.path(),
                    format!("{text} is out of range; allowed is {}", key.kind),
                );
                None
            }
        }
    }

    pub(super) fn duration(&mut self, key: &'static Key) -> Option<Duration> {
        let Kind::Duration(least, most) = key.kind else {
            return None;
        };
        self.parsed(key, |text| match parse_duration(text) {
            Ok(value) if (least..=most).contains(&value) => Ok(value),
            Ok(_) => Err("is out of range".into()),
            Err(problem) => Err(problem),
        })
    }

    pub(super) fn size(&mut self, key: &'static Key) -> Option<u64> {
        let Kind::Size(least, most) = key.kind else {
            return None;
        };
        self.parsed(key, |text| match parse_size(text) {
            Ok(value) if (least..=most).contains(&value) => Ok(value),
            Ok(_) => Err("is out of range".into()),
            Err(problem) => Err(problem),
        })
    }

    /// One of a fixed set of words, each with its value.
    pub(super) fn choice<T: Copy>(&mut self, key: &'static Key, words: &[(&str, T)]) -> Option<T> {
        self.parsed(key, |text| {
            let found = words.iter().find(|(word, _)| *word == text);
            found.map(|(_, value)| *value).ok_or_else(|| "is unknown".into())
        })
    }

    /// A text that `parse` accepts; its error is a phrase that follows the value.
    pub(super) fn parsed<T>(&mut self, key: &'static Key, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let Node { raw, origin } = self.written.node(key);
        let Raw::Text(text) = &raw else {
            self.misfit(key, origin, &raw);
            return None;
        };
        self.understood(key, key.path(), origin, text, parse)
    }

    /// Like [`Reader::parsed`]; an empty text is `None`.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static Key,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Recorded> {
        let value = self.parsed(key, |text| {
            if text.is_empty() {
                Ok(None)
            } else {
                parse(text).map(Some)
            }
        });
        value.ok_or(Recorded)
    }

    /// A list of texts that `parse` accepts.
    pub(super) fn each<T>(
        &mut self,
        key: &'static Key,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<Sourced<T>>> {
        let Node { raw, origin } = self.written.node(key);
        let Raw::List(items) = raw else {
            self.misfit(key, origin, &raw);
            return None;
        };
        let mut values = Some(Vec::new());
        for (index, Node { raw, origin }) in items.into_iter().enumerate() {
            let path = format!("{}[{index}]", key.path());
            let value = if let Raw::Text(text) = &raw {
                self.understood(key, path, origin.clone(), text, &parse)
            } else {
                self.wrong_at(
                    origin.clone(),
                    path,
                    format!("is {}; write a text in quotes", raw.shape()),
                );
                None
            };
            // One invalid item makes the list invalid, but the others are still checked.
            values = values.zip(value).map(|(mut values, value)| {
                values.push(Sourced { value, origin });
                values
            });
        }
        values
    }

    /// The items of a list of tables, not yet parsed.
    pub(super) fn items(&mut self, key: &'static Key) -> Option<Vec<Node>> {
        let Node { raw, origin } = self.written.node(key);
        if let Raw::List(items) = raw {
            return Some(items);
        }
        self.misfit(key, origin, &raw);
        None
    }

    /// The entries of a table of names and numbers: each name once, each number in range.
    pub(super) fn shares(&mut self, key: &'static Key) -> Option<Vec<Sourced<(String, u64)>>> {
        let Node { raw, origin } = self.written.node(key);
        let (Raw::Table(entries), Kind::Shares(least, most)) = (&raw, key.kind) else {
            self.misfit(key, origin, &raw);
            return None;
        };
        let mut shares = Some(Vec::<Sourced<(String, u64)>>::new());
        for Entry { name, origin, value } in entries {
            let path = format!("{}.{}", key.path(), name.escape_debug());
            let number = match &value.raw {
                Raw::Number(text) => text.parse().ok().filter(|number| (least..=most).contains(number)),
                _ => None,
            };
            let twice = |said: &Sourced<(String, u64)>| said.value.0 == *name;
            let problem = match (&value.raw, number) {
                (_, Some(_)) if shares.as_ref().is_some_and(|shares| shares.iter().any(twice)) => {
                    Some("is listed twice".into())
                }
                (_, Some(_)) => None,
                (Raw::Number(text), None) => Some(format!("{text} is out of range; allowed is {least} to {most}")),
                (_, None) if matches!(origin, Origin::Variable(_)) => {
                    Some(format!("has no number; write NAME=NUMBER with {least} to {most}"))
                }
                (raw, None) => Some(format!("is {}; write {least} to {most}, without quotes", raw.shape())),
            };
            if let Some(problem) = problem {
                self.wrong_at(value.origin.clone(), path, problem);
            }
            // One invalid entry makes the table invalid, but the others are still checked.
            shares = shares.zip(number).map(|(mut shares, number)| {
                shares.push(Sourced {
                    value: (name.clone(), number),
                    origin: origin.clone(),
                });
                shares
            });
        }
        shares
    }

    pub(super) fn understood<T>(
        &mut self,
        key: &'static Key,
        path: String,
        origin: Origin,
        text: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        match parse(text) {
            Ok(value) => Some(value),
            Err(problem) => {
                let problem = format!("{} {problem}; allowed is {}", echo(key, text), key.kind);
                self.wrong_at(origin, path, problem);
                None
            }
        }
    }

    /// A secret, directly from the environment: our variable, or else a borrowed one. The origin is
    /// the variable.
    pub(super) fn secret(&self, key: &'static Key) -> Option<Sourced<Secret>> {
        let ours = key.variable();
        let names = std::iter::once(ours.as_str()).chain(key.borrowed.iter().copied());
        names
            .filter_map(|name| Some((name, self.env.value(name)?)))
            .map(|(name, value)| Sourced {
                value: value.clone(),
                origin: Origin::Variable(name.into()),
            })
            .next()
    }

    /// The path of a file that has to exist, be readable and not be empty.
    pub(super) fn file(&mut self, key: &'static Key) -> Result<Option<PathBuf>, Recorded> {
        let path = self.optional(key, |text| Ok(PathBuf::from(text)))?;
        if let Some(path) = &path
            && let Err(problem) = self.holds(path)
        {
            self.wrong(key, format!("{}: {problem}", path.display()));
            return Err(Recorded);
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
        const LIMIT: u64 = 1 << 20;
        let content = self.files.read(path, LIMIT).map(Zeroizing::new);
        content.map_err(|error| unreadable(&error))
    }

    /// Whether `path` is a directory.
    pub(super) fn is_directory(&self, path: &Path) -> bool {
        matches!(self.files.look(path), Ok(Found::Directory))
    }
}

/// How `value` is written in a configuration: as the first word that stands for it.
pub(super) fn word<T: Copy + PartialEq>(words: &[(&'static str, T)], value: T) -> &'static str {
    let found = words.iter().find(|(_, of)| *of == value);
    found.map_or("", |(word, _)| word)
}

/// The value as it may appear in a message.
fn echo(key: &Key, text: &str) -> String {
    const LONGEST: usize = 80;
    match key.echo {
        Echo::Hidden => "the value".into(),
        Echo::Plain if text.chars().count() > LONGEST => {
            let start: String = text.chars().take(LONGEST).collect();
            format!("\"{}…\"", start.escape_debug())
        }
        Echo::Plain => format!("\"{}\"", text.escape_debug()),
    }
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
