//! The command line: what can be typed, what is printed, and the exit status.
//!
//! Data goes to stdout, logs and mistakes to stderr. The exit status is 0 when done, 1 when the user can mend it, 2 otherwise.

mod args;
mod check;
mod error;
mod output;

pub use args::{Args, Command, ConfigFile, Demo, Probe, Simulate, Status};
pub use check::check;
pub use error::Error;
pub use output::{print, usage};
