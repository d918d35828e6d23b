//! `run`: serves until it is told to stop.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
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
    let document = match source.find() {
        Ok(document) => document,
        Err(mistakes) => return Voice::of(None, &env).told(Err(mistakes.into())),
    };
    let voice = Voice::of(Some(&document), &env);
    voice.told(run_from(source, document, (sealed, env.workers()), voice))
}

fn run_from(
    source: ConfigSource,
    document: Document,
    (sealed, workers): (io::Result<()>, Option<usize>),
    voice: Voice,
) -> Result<(), Error> {
    let loaded = source.resolve(&document)?;
    let log = start_log(&loaded)?;
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
    block_on(workers, serve(&loaded, (source, document), log, voice))
}

async fn serve(
    loaded: &Loaded,
    (source, document): (ConfigSource, Document),
    log: log::Handle,
    voice: Voice,
) -> Result<(), Error> {
    let signals = Tasks::new();
    let asked = Arc::new(Notify::new());
    // Before anything else: without a handler these signals end the process.
    watch_configuration_signals(&signals, Arc::clone(&asked), log.clone())?;
    // So do these, except that the first process of a container never gets them without a handler.
    let (stop, abort) = (CancellationToken::new(), CancellationToken::new());
    watch_signals(&signals, stop.clone(), abort.clone())?;
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
        voice.say(Level::INFO, &format!("listening on {address}"));
    }
    voice.say(Level::INFO, &format!("admin on {}", gateway.admin_address()));
    tokio::select! {
        ended = gateway.serve() => match ended.cut {
            // So that whoever watches the process starts it anew.
            _ if ended.failed => Err(Error::failed("a background task has ended by a panic", "it is a defect; the log names the task")),
            0 => Ok(()),
            cut => Err(Error::failed("the drain ended too early", format!("{cut} connections were cut with requests in flight"))),
        },
        () = abort.cancelled() => {
            voice.say(Level::INFO, "told to stop twice: leaving at once");
            Ok(())
        }
    }
}

/// How the few things are said that are no log lines: on stderr, whatever is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Voice {
    /// As they are. Where the format is left to be chosen, too: scripts wait for `listening on`.
    Text,
    /// Where `telemetry.format` is `json`: each line is an object, so that nothing else is among
    /// the log's lines.
    Json,
}

impl Voice {
    fn of(document: Option<&Document>, env: &Environment) -> Self {
        let nothing = Document::default();
        if document.unwrap_or(&nothing).asks_for_json(env) {
            Self::Json
        } else {
            Self::Text
        }
    }

    fn say(self, level: Level, text: &str) {
        match self {
            Self::Text => log::say(text),
            Self::Json => log::say(&log::json_line(level, text)),
        }
    }

    /// Says in JSON why `result` is none; in text, the program's end does.
    fn told(self, result: Result<(), Error>) -> Result<(), Error> {
        match (self, result) {
            (Self::Json, Err(error)) => {
                // It needs room behind what has been logged.
                log::flush();
                for line in error.explain().lines() {
                    self.say(Level::ERROR, line);
                }
                Err(Error::Told(Box::new(error)))
            }
            (_, result) => result,
        }
    }
}

/// Logs to stderr as the configuration says.
pub(super) fn start_log(loaded: &Loaded) -> Result<log::Handle, Error> {
    let telemetry = &loaded.resolved.telemetry;
    log::init(&telemetry.log, telemetry.format).map_err(|error| Error::failed("cannot start logging", error))
}
