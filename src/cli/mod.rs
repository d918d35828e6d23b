//! The command line: what can be typed, what is printed, and the exit status.
//!
//! Data goes to stdout, logs and mistakes to stderr. The exit status is 0 when done, 1 when the
//! user can mend it, 2 otherwise.

mod admin_client;
mod args;
mod check;
mod demo;
mod health;
mod probe;
mod process;
mod run;
mod simulate;
mod status;
#[cfg(test)]
mod testing;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use tracing::Level;

use crate::BoxError;
use crate::config::{self, Mistakes};
use crate::server::OPENAPI;
use crate::telemetry::log;
use admin_client::AdminAddress;
use args::{Args, Check, Command, Demo, Healthcheck, Probe, Simulate, Status, Wait};
use check::check;
use demo::demo;
use health::{healthcheck, wait};
use probe::probe;
use run::run;
use simulate::simulate;
use status::status;

/// Parses the command line, runs the command, and turns its result into an exit status.
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(asked) => return usage(&asked),
    };
    let result = dispatch(args.command);
    // The process takes with it what is not written yet, and what has no room.
    log::flush();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::say(Level::ERROR, &error.explain());
            log::flush();
            error.exit_code()
        }
    }
}

fn dispatch(command: Command) -> Result<(), Error> {
    match command {
        Command::Check(asked) => check(&asked),
        Command::Reference => print(&config::reference()),
        Command::Run(file) => run(file.config.as_deref()),
        Command::Probe(asked) => probe(&asked),
        Command::Demo(asked) => demo(&asked),
        Command::Simulate(asked) => simulate(&asked),
        Command::Status(asked) => status(&asked),
        Command::Wait(asked) => wait(&asked),
        Command::Healthcheck(asked) => healthcheck(&asked),
        Command::Openapi => print(OPENAPI),
    }
}

/// A command that did not do what was asked. `Display` is what the user reads, after `error: `.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The user can mend it: bad configuration or arguments, refused credentials, an address nobody
    /// answers at. Exit status 1.
    #[error("{0}")]
    User(String),
    /// Mistakes in the configuration. Exit status 1.
    #[error(transparent)]
    Mistakes(#[from] Mistakes),
    /// The user cannot mend it by changing what was typed. Exit status 2.
    #[error("{what}")]
    Failed {
        /// What did not work.
        what: String,
        /// Why.
        source: BoxError,
    },
}

impl Error {
    /// Something that the user can mend.
    pub fn user(what: impl Into<String>) -> Self {
        Self::User(what.into())
    }

    /// Something that the user cannot mend.
    pub fn failed(what: impl Into<String>, source: impl Into<BoxError>) -> Self {
        Self::Failed {
            what: what.into(),
            source: source.into(),
        }
    }

    /// 1 for what the user can mend, 2 otherwise.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::User(_) | Self::Mistakes(_) => ExitCode::from(1),
            Self::Failed { .. } => ExitCode::from(2),
        }
    }

    /// The error and its causes, each on its line, as printed to stderr.
    pub fn explain(&self) -> String {
        // Each mistake begins with its file and line, as editors and continuous integration like
        // it.
        if let Self::Mistakes(mistakes) = self {
            let count = mistakes.list().len();
            let noun = if count == 1 { "mistake" } else { "mistakes" };
            return format!("{mistakes}\n{count} {noun} in the configuration");
        }
        let mut text = format!("error: {self}");
        for cause in log::causes(self).skip(1) {
            text = format!("{text}\n  because: {cause}");
        }
        text
    }
}

/// Prints `text`. A reader who has seen enough (`| head`) is no error.
///
/// # Errors
/// When stdout cannot be written to for another reason, such as a full disk.
pub fn print(text: &str) -> Result<(), Error> {
    is_read(text).map(drop)
}

/// The same, and whether somebody reads it.
///
/// # Errors
/// As [`print()`].
pub fn is_read(text: &str) -> Result<bool, Error> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::failed("cannot write to stdout", error)),
    }
}

/// Answers what is no command: help and version go to stdout with status 0, mistakes to stderr with
/// status 1.
pub fn usage(asked: &clap::Error) -> ExitCode {
    // Help never fails, not even when nobody reads it.
    let _ = asked.print();
    if asked.use_stderr() {
        ExitCode::from(1)
    } else {
        ExitCode::SUCCESS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explanation_names_every_cause_once() {
        let inner = io::Error::other("disk on fire");
        let error = Error::failed("cannot listen", inner);
        assert_eq!(error.explain(), "error: cannot listen\n  because: disk on fire");
        assert_eq!(Error::user("no such file").explain(), "error: no such file");
    }
}
