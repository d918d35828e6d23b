//! `run`: serves until it is told to stop.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::Notify;
use tracing::Level;

use super::Error;
use super::process::{block_on, keep_panics_short, seal, watch_configuration_signals, watch_signals};
use crate::app::{ConfigSource, Gateway};
use crate::config::{Document, Environment, Loaded};
use crate::resources::Machine;
use crate::task::Tasks;
use crate::telemetry::log;

/// Serves. Prints a line per listener to stderr once it accepts.
///
/// # Errors
/// Mistakes in the configuration, an address that is taken, requests that were cut off at the end
/// of the drain.
pub fn run(file: Option<&Path>) -> Result<(), Error> {
    // Before any secret is read.
    let sealed = seal();
    let env = Environment::real();
    let source = ConfigSource::new(file.map(Path::to_owned), env.clone());
    let found = source.find();
    // Where the format is left to be chosen, text: scripts wait for `listening on`.
    if found.as_ref().unwrap_or(&Document::default()).asks_for_json(&env) {
        log::say_in_json();
    }
    let document = found?;
    let loaded = source.resolve(&document)?;
    let telemetry = &loaded.resolved.telemetry;
    let log =
        log::init(&telemetry.log, telemetry.format).map_err(|error| Error::failed("cannot start logging", error))?;
    keep_panics_short();
    if let Err(error) = sealed {
        tracing::warn!(%error, "the system does not let this process keep its memory to itself");
    }
    for note in &loaded.notes {
        tracing::warn!("{note}");
    }
    if let Err(error) = Machine::raise_open_files() {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
    block_on(env.workers(), serve(&loaded, (source, document), log))
}

async fn serve(loaded: &Loaded, (source, document): (ConfigSource, Document), log: log::Handle) -> Result<(), Error> {
    let signals = Tasks::new();
    let asked = Arc::new(Notify::new());
    // Before anything else: without a handler these signals end the process.
    watch_configuration_signals(&signals, Arc::clone(&asked), log.clone())?;
    // So do these, except that the first process of a container never gets them without a handler.
    let [stop, abort] = watch_signals()?;
    let gateway = Gateway::start(&loaded.resolved).await.map_err(|error| {
        // The configuration was right; what the machine refuses, such as a taken port, the user can
        // mend.
        Error::user(log::chain(&error))
    })?;
    gateway.reloader().set_log(log);
    gateway.follow(source, document, asked);
    let told = gateway.stop_token();
    signals.spawn_upkeep("stop", async move {
        stop.cancelled().await;
        told.cancel();
    });
    for address in gateway.addresses() {
        log::say(Level::INFO, &format!("listening on {address}"));
    }
    log::say(Level::INFO, &format!("admin on {}", gateway.admin_address()));
    tokio::select! {
        ended = gateway.serve() => match ended.cut {
            // So that whoever watches the process starts it anew.
            _ if ended.failed => Err(Error::failed("a background task has ended by a panic", "it is a defect; the log names the task")),
            0 => Ok(()),
            cut => Err(Error::failed("the drain ended too early", format!("{cut} connections were cut with requests in flight"))),
        },
        () = abort.cancelled() => {
            log::say(Level::INFO, "told to stop twice: leaving at once");
            Ok(())
        }
    }
}
