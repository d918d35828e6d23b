//! The command line: what can be typed, what is printed, and the exit status.
//!
//! Data goes to stdout, logs and mistakes to stderr. The exit status is 0 when done, 1 when the
//! user can mend it, 2 otherwise.

mod admin_client;
mod args;
mod check;
mod demo;
mod dispatch;
mod error;
mod hardening;
mod healthcheck;
mod output;
mod probe;
mod run;
mod runtime;
mod simulate;
mod status;
#[cfg(test)]
mod testing;
mod wait;

pub use dispatch::main;

use admin_client::AdminAddress;
use args::{Check, Demo, Healthcheck, Probe, Simulate, Status, Wait};
use error::Error;
use output::{note, print};
