//! The configuration, checked as a whole before anything starts.
//!
//! ```text
//! defaults (the key table) ─► file ─► other programs' variables ─► our variables      as written, with positions
//!                                                                        │
//!                                                every section reads and checks its keys
//!                                                                        ▼
//!                                         Resolved (plain values)   or   all errors at once
//! ```
//!
//! Each section declares its keys once (name, type, default, range, meaning) and has the rules
//! between them. The struct of the values, the names of variables, the suggestions for
//! misspelt keys, the [`reference()`] in `config/README.md` and the [`schema()`] are all derived
//! from the keys. They also say what a running gateway can apply ([`Reload`]).
//!
//! Not here: what the values are used for. Outside this module there is no text that still has to
//! be parsed.
//!
//! Invariant: a [`Resolved`] exists only when there are no errors.

mod cloud;
mod config_error;
mod env;
mod files;
mod key;
mod raw;
mod reader;
mod reference;
mod section;
mod settings;
mod value;

use std::path::{Path, PathBuf};
use std::{fmt, io};

use toml::de::DeTable;

use crate::plain_text;
use files::unreadable;
use reader::Reader;

pub use cloud::Cloud;
pub use config_error::{ConfigError, Mistakes, Origin};
pub use env::{Environment, variable};
pub use files::{Digest, Disk, Files, Found};
pub use key::{DefaultValue, Key, Kind, Reload, keys};
pub use reference::{reference, schema};
pub use section::{Credentials, Merging, Proxy, Resolved, Scope, TokenProxy, TrustedRoots};
pub use settings::Settings;
pub use value::{parse_duration, parse_size, show_duration, show_size};

/// The file that is read when neither `--config` nor the environment names one, and it exists.
const USUAL_PLACE: &str = "/etc/defender-gateway/gateway.toml";

/// No sensible configuration is larger, so a wrong path (a log, a disk image) is noticed early.
const MAX_FILE_BYTES: u64 = 256 << 10;

/// A configuration, with notes about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values.
    pub resolved: Resolved,
    /// What is no error, but probably not intended: one sentence each, in no particular order.
    pub notes: Vec<String>,
    /// The file that was read before the environment, if there was one.
    pub file: Option<PathBuf>,
}

/// The text of a configuration before it is parsed. Equal documents have equal values.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Document {
    path: Option<PathBuf>,
    text: Option<String>,
}

impl Document {
    /// Reads the file named by `--config` (`named`), or else by `DEFENDER_GATEWAY_CONFIG`, or else
    /// the usual one if it exists. Without a file, only the environment is used.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn find(named: Option<&Path>, env: &Environment, files: &dyn Files) -> Result<Self, Mistakes> {
        let by_variable = env.value(variable::CONFIG).map(|path| PathBuf::from(path.expose()));
        let (path, origin) = match (named, by_variable) {
            (Some(path), _) => (path.to_owned(), Origin::Default),
            (None, Some(path)) => (path, Origin::Variable(variable::CONFIG.into())),
            (None, None) => {
                let usual = Path::new(USUAL_PLACE);
                if matches!(files.look(usual), Err(error) if error.kind() == io::ErrorKind::NotFound) {
                    return Ok(Self { path: None, text: None });
                }
                (usual.to_owned(), Origin::Default)
            }
        };
        let content = files.read(&path, MAX_FILE_BYTES).map_err(|error| unreadable(&error));
        let text = content.and_then(|bytes| {
            // Its message says more about UTF-16; TOML itself accepts a byte order mark.
            plain_text::pem(&bytes).map_err(|malformed| malformed.to_string())?;
            String::from_utf8(bytes).map_err(|_| "is not UTF-8 text".into())
        });
        match text {
            Ok(text) => Ok(Self::new(&path, text)),
            Err(problem) => {
                let problem = format!("{}: {problem}", path.display());
                Err(Mistakes::new(None, vec![ConfigError::new(origin, None, problem)]))
            }
        }
    }

    /// What was read from `path`.
    pub fn new(path: &Path, text: String) -> Self {
        Self {
            path: Some(path.to_owned()),
            text: Some(text),
        }
    }

    /// The file that it was read from, if there was one.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Whether it asks for a log in JSON, as far as that is known before it is parsed, because its
    /// errors are logged in that format, too.
    pub fn asks_for_json(&self, env: &Environment) -> bool {
        let variable = format!("{}TELEMETRY_FORMAT", Key::PREFIX);
        let in_file = || {
            // What can be read of a file with a mistake in it.
            let (table, _) = DeTable::parse_recoverable(self.text.as_deref()?);
            let telemetry = table.get_ref().get("telemetry")?.get_ref();
            Some(telemetry.get("format")?.get_ref().as_str()? == "json")
        };
        match env.value(&variable) {
            Some(said) => said.expose() == "json",
            None => in_file().unwrap_or(false),
        }
    }

    /// Resolves it together with the environment.
    ///
    /// # Errors
    ///
    /// All errors, in reading order.
    pub fn resolve(&self, env: &Environment, files: &dyn Files) -> Result<Loaded, Mistakes> {
        self.read(Reader::new(self.text.as_deref(), env, files))
    }

    /// The same with the `held` keys as they are in `running`, for a running gateway, which cannot
    /// change them.
    ///
    /// # Errors
    ///
    /// All errors, in reading order; a new value may contradict a held one.
    pub fn resolve_holding(
        &self,
        held: &[&'static Key],
        running: &Settings,
        env: &Environment,
        files: &dyn Files,
    ) -> Result<Loaded, Mistakes> {
        self.read(Reader::new(self.text.as_deref(), env, files).holding(held, running))
    }

    fn read(&self, mut reader: Reader<'_>) -> Result<Loaded, Mistakes> {
        let resolved = Resolved::read(&mut reader);
        let (mut mistakes, notes) = reader.finish();
        // A file that is not TOML has no keys, so errors about missing keys would be misleading.
        if mistakes.iter().any(is_syntax) {
            mistakes.retain(|mistake| mistake.origin != Origin::Default);
        }
        match resolved {
            Ok(resolved) if mistakes.is_empty() => Ok(Loaded {
                resolved,
                notes,
                file: self.path.clone(),
            }),
            _ => Err(Mistakes::new(self.path.clone(), mistakes)),
        }
    }
}

/// Only the path is shown, because the text may contain a password.
impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Document")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// [`Document::find`] and [`Document::resolve`].
///
/// # Errors
///
/// All errors, in reading order.
pub fn load(named: Option<&Path>, env: &Environment, files: &dyn Files) -> Result<Loaded, Mistakes> {
    Document::find(named, env, files)?.resolve(env, files)
}

/// Resolves `text`, which was read from `path`, and the environment.
///
/// # Errors
///
/// All errors, in reading order.
pub fn parse(path: &Path, text: &str, env: &Environment, files: &dyn Files) -> Result<Loaded, Mistakes> {
    Document::new(path, text.into()).resolve(env, files)
}

fn is_syntax(mistake: &ConfigError) -> bool {
    mistake.key.is_none() && matches!(mistake.origin, Origin::File { .. })
}
