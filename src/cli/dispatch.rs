//! From the command line to an exit status.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use super::args::{Args, Command};
use super::check::check;
use super::demo::demo;
use super::error::Error;
use super::healthcheck::healthcheck;
use super::output::{print, usage};
use super::probe::probe;
use super::run::run;
use super::simulate::simulate;
use super::status::status;
use super::wait::wait;
use crate::config;
use crate::server::OPENAPI;

/// Parses the command line, runs the command, and turns its result into an exit status.
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(asked) => return usage(&asked),
    };
    let Err(error) = dispatch(args.command) else {
        return ExitCode::SUCCESS;
    };
    let explained = error.explain();
    if !explained.is_empty() {
        // Nothing more can be done when stderr is closed.
        let _ = writeln!(std::io::stderr(), "{explained}");
    }
    error.exit_code()
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
