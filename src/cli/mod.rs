//! The command line: what can be typed, what is printed, and the exit status.
//!
//! Data goes to stdout, logs and mistakes to stderr. The exit status is 0 when done, 1 when the
//! user can mend it, 2 otherwise.

mod admin_client;
mod args;
mod check;
mod demo;

mod error;
mod hardening;
mod healthcheck;
mod output;
mod panic_hook;
mod probe;
mod run;
mod runtime;
mod simulate;
mod status;
#[cfg(test)]
mod testing;
mod wait;

pub use admin_client::AdminAddress;
pub use args::{Args, Check, Command, ConfigFile, Demo, Healthcheck, Probe, Simulate, Status, Wait};
pub use check::check;
pub use demo::demo;

pub use error::Error;
pub use healthcheck::healthcheck;
pub use output::{note, print, usage};
pub use probe::probe;
pub use run::run;
pub use simulate::simulate;
pub use status::status;
pub use wait::wait;
