//! Parses the command line, runs the command, and turns its result into an exit status.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use defender_gateway::cli::{self, Args, Command, Error};
use defender_gateway::config;

/// Long-lived answers lie among short-lived buffers here. This allocator keeps sizes apart, so that
/// the memory freed between them is used again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(asked) => return cli::usage(&asked),
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
        Command::Check(asked) => cli::check(&asked),
        Command::Reference => cli::print(&config::reference()),
        Command::Run(file) => cli::run(file.config.as_deref()),
        Command::Probe(asked) => cli::probe(&asked),
        Command::Demo(asked) => cli::demo(&asked),
        Command::Simulate(asked) => cli::simulate(&asked),
        Command::Status(asked) => cli::status(&asked),
        Command::Wait(asked) => cli::wait(&asked),
        Command::Healthcheck(asked) => cli::healthcheck(&asked),
        Command::Openapi => cli::print(defender_gateway::server::OPENAPI),
    }
}
