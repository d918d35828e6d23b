//! What the operator said, checked as a whole before anything starts.
//!
//! ```text
//! defaults (the key table) ─► file ─► other people's variables ─► our variables      as written, with positions
//!                                                                      │
//!                                              every section reads and checks its keys
//!                                                                      ▼
//!                                       Resolved (plain values)   or   every mistake at once
//! ```
//!
//! Each section's file holds all there is to know about it: its keys (name, default, range, meaning), the resolved values, and
//! the rules between keys. The keys are the one source of the environment's names, of suggestions for misspelt ones and of the
//! [`reference()`] in `config/README.md` and of the [`schema()`]. They also say what a running gateway can take over ([`Reload`]).
//!
//! Not here: what the values are used for. Past this module nobody sees a string that still has to be understood.
//!
//! Invariant: a [`Resolved`] exists only when there is no mistake at all.

mod cloud;
mod deprecated;
mod env;
mod files;
mod key;
mod load;
mod mistake;
mod reader;
mod reference;
mod schema;
mod secret_file;
mod section;
mod settings;
mod suggestion;
mod value;
mod written;

pub use cloud::Cloud;
pub use env::{Environment, variable};
pub use files::{Disk, Files, Found};
pub use key::{DefaultValue, Key, Kind, Reload, keys};
pub use load::{Document, Loaded, Resolved, Source, load, parse};
pub use mistake::{ConfigError, Mistakes, Origin};
pub use reference::reference;
pub use schema::schema;
pub use section::{
    Admin, Cache, Callers, Credential, Credentials, Defender, Definitions, Format, ManagedEndpoint, Merge,
    OnUnknownPast, Pacing, Pin, Proxy, Queue, Quota, Region, Sampling, Scope, SecretSource, Server, Store, Telemetry,
    TokenProxy, Traces, TrustedRoots,
};
pub use settings::{Setting, Settings};
pub use value::{Limit, Listen, duration, size};
