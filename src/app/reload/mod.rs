//! A new configuration for the running gateway: all of it or nothing.
//!
//! ```text
//! file changed, SIGHUP ─► read ─► resolve as a whole ─► make what is new ─► exchange: the next request meets it
//!                            │             │                   │
//!                            └─ mistakes ──┴── no token, … ────┴─► logged; the running configuration stays
//! ```
//!
//! A key that only a restart can change ([`crate::config::Key::reload`]) keeps the value it started
//! with, and that is said.
//!
//! Invariant: what runs is always one configuration that was right as a whole, and each request is
//! answered by one.

mod config_source;
mod reload_status;
mod reloader;
mod watch;

pub use config_source::ConfigSource;
pub(super) use reload_status::Configuration;
pub(super) use reloader::Next;
pub use reloader::{Applied, ReloadError, Reloader};
