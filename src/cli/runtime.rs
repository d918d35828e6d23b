//! The tokio runtime of a command, and the signals that end it.

use std::future::Future;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Error;
use crate::resources::Machine;
use crate::task::Tasks;
use crate::telemetry::log;

/// A gateway is a neighbour of somebody's application: without a word from the operator it takes
/// two threads, not a thread per core of a large node.
const WORKERS: usize = 2;

/// Runs `work` to its end. `workers` overrides the number of threads.
///
/// # Errors
/// When the runtime cannot be made, and what `work` returns.
pub(super) fn block_on<T>(workers: Option<usize>, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let cores = Machine::detect().cores;
    let runtime = match workers.unwrap_or(cores.min(WORKERS)) {
        // On one thread nobody has to agree with anybody: a hit costs a tenth less.
        0 | 1 => tokio::runtime::Builder::new_current_thread().enable_all().build(),
        workers => tokio::runtime::Builder::new_multi_thread()
            .worker_threads(workers)
            .enable_all()
            .build(),
    };
    let runtime = runtime.map_err(|error| Error::failed("cannot start the runtime", error))?;
    let result = runtime.block_on(work);
    // What still runs has had its time; waiting for a blocked name look-up would delay the exit by
    // seconds.
    runtime.shutdown_background();
    result
}

/// Runs `work` to its end on this thread alone: for commands that send one request and end.
///
/// # Errors
/// When the runtime cannot be made, and what `work` returns.
pub(super) fn block_on_one<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    block_on(Some(1), work)
}

/// SIGHUP has the configuration read again; SIGUSR1 has one level more logged, up to everything,
/// and SIGUSR2 what is configured.
///
/// # Errors
/// When the handlers cannot be installed.
pub(super) fn watch_configuration_signals(tasks: &Tasks, asked: Arc<Notify>, log: log::Handle) -> Result<(), Error> {
    let make = |kind| signal(kind).map_err(|error| Error::failed("cannot handle signals", error));
    let mut hangup = make(SignalKind::hangup())?;
    let (mut louder, mut usual) = (make(SignalKind::user_defined1())?, make(SignalKind::user_defined2())?);
    tasks.spawn_upkeep("configuration signals", async move {
        loop {
            let told = tokio::select! {
                _ = hangup.recv() => {
                    asked.notify_one();
                    continue;
                }
                _ = louder.recv() => log.louder(),
                _ = usual.recv() => log.as_configured(),
            };
            match told {
                Ok(filter) => tracing::warn!(filter, "the log filter was changed by a signal"),
                Err(error) => tracing::warn!(%error, "the log filter could not be changed"),
            }
        }
    });
    Ok(())
}

/// Cancels `stop` at the first SIGTERM or SIGINT, and `abort` at the second.
///
/// # Errors
/// When the handlers cannot be installed.
pub(super) fn watch_signals(tasks: &Tasks, stop: CancellationToken, abort: CancellationToken) -> Result<(), Error> {
    let make = |kind| signal(kind).map_err(|error| Error::failed("cannot handle signals", error));
    let (mut terminate, mut interrupt) = (make(SignalKind::terminate())?, make(SignalKind::interrupt())?);
    tasks.spawn_upkeep("signals", async move {
        for token in [stop, abort] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            token.cancel();
        }
    });
    Ok(())
}
