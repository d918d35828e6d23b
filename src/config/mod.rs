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
//! Each section's file declares its keys once (name, type, default, range, meaning) and has the
//! rules between them. The struct of the values, the names of variables, the suggestions for
//! misspelt keys, the [`reference()`] in `config/README.md` and the [`schema()`] are all derived
//! from the keys. They also say what a running gateway can apply ([`Reload`]).
//!
//! Not here: what the values are used for. Outside this module there is no text that still has to
//! be parsed.
//!
//! Invariant: a [`Resolved`] exists only when there are no errors.

mod cloud;
mod config_error;
mod deprecated;
mod env;
mod files;
mod key;
mod load;
mod raw;
mod reader;
mod reference;
mod schema;
mod secret_file;
mod section;
mod settings;
mod suggestion;
mod value;

pub use cloud::Cloud;
pub use config_error::{ConfigError, Mistakes, Origin};
pub use env::{Environment, variable};
pub use files::{Digest, Disk, Files, Found};
pub use key::{DefaultValue, Key, Kind, Reload, keys};
pub use load::{Document, Loaded, load, parse};
pub use reference::reference;
pub use schema::schema;
pub use section::{Credential, Credentials, Merging, Pin, Proxy, Resolved, Scope, TokenProxy, TrustedRoots};
pub use settings::Settings;
pub use value::{Limit, parse_duration, parse_size, show_duration, show_size};
