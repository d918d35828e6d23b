//! `run`: serves until it is told to stop.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::runtime::{block_on, watch_configuration_signals, watch_signals};
use super::{Error, note, panic, process};
use crate::app::{Gateway, Place};
use crate::config::{Document, Environment, Format, Loaded};
use crate::machine::Machine;
use crate::task::Tasks;
use crate::telemetry::log;

/// Serves. Prints a line per listener to stderr once it accepts.
///
/// # Errors
/// Mistakes in the configuration, an address that is taken, requests that were cut off at the end of the drain.
pub fn run(file: Option<&Path>) -> Result<(), Error> {
    let sealed = process::seal();
    let env = Environment::real();
    let workers = env.workers();
    let place = Place::new(file.map(Path::to_owned), env);
    let document = place.find()?;
    let loaded = place.resolve(&document)?;
    let log = start_log(&loaded)?;
    panic::say_little();
    if let Err(error) = sealed {
        tracing::warn!(%error, "the system does not let this process keep its memory to itself");
    }
    for note in &loaded.notes {
        tracing::warn!("{note}");
    }
    if let Err(error) = Machine::raise_open_files() {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
    block_on(workers, serve(&loaded, place, document, log))
}

async fn serve(loaded: &Loaded, place: Place, document: Document, log: log::Handle) -> Result<(), Error> {
    let signals = Tasks::new();
    let asked = Arc::new(Notify::new());
    // Before anything else: without a handler these signals end the process.
    watch_configuration_signals(&signals, Arc::clone(&asked), log.clone())?;
    let gateway = Gateway::start(&loaded.resolved).await.map_err(|error| {
        // The configuration was right; what the machine refuses, such as a taken port, the user can mend.
        Error::user(log::chain(&error))
    })?;
    let abort = CancellationToken::new();
    gateway.reloader().set_log(log);
    gateway.follow(place, document, asked);
    watch_signals(&signals, gateway.stop_token(), abort.clone())?;
    for address in gateway.addresses() {
        note(&format!("listening on {address}"));
    }
    note(&format!("admin on {}", gateway.admin_address()));
    tokio::select! {
        ended = gateway.serve() => match ended.cut {
            0 => Ok(()),
            cut => Err(Error::failed("the drain ended too early", format!("{cut} connections were cut with requests in flight"))),
        },
        () = abort.cancelled() => {
            note("told to stop twice: leaving at once");
            Ok(())
        }
    }
}

/// Logs to stderr as the configuration says.
pub(super) fn start_log(loaded: &Loaded) -> Result<log::Handle, Error> {
    let telemetry = &loaded.resolved.telemetry;
    let format = match telemetry.format {
        Format::Auto => log::Format::Auto,
        Format::Json => log::Format::Json,
        Format::Text => log::Format::Text,
    };
    log::init(&telemetry.log, format).map_err(|error| Error::failed("cannot start logging", error))
}
