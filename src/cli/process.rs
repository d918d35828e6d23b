//! The process of a command: its tokio runtime, the signals that end it, and what it keeps to
//! itself: its memory, set before anything secret is read; and in what is said of a panic, what it
//! was working on.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::future::Future;
use std::io;
use std::panic::{self, PanicHookInfo};
use std::sync::Arc;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::set_no_new_privs;
use tokio::signal::unix::{Signal, SignalKind, signal};
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

/// SIGHUP has the configuration read again; SIGUSR1 has one level more logged, up to trace, which a
/// release does not have, and SIGUSR2 what is configured.
///
/// # Errors
/// When the handlers cannot be installed.
pub(super) fn watch_configuration_signals(tasks: &Tasks, asked: Arc<Notify>, log: log::Handle) -> Result<(), Error> {
    let mut hangup = signals(SignalKind::hangup())?;
    let mut louder = signals(SignalKind::user_defined1())?;
    let mut usual = signals(SignalKind::user_defined2())?;
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

/// Two tokens: the first SIGTERM or SIGINT cancels the one, the second the other.
///
/// # Errors
/// When the handlers cannot be installed.
pub(super) fn watch_signals() -> Result<[CancellationToken; 2], Error> {
    let mut terminate = signals(SignalKind::terminate())?;
    let mut interrupt = signals(SignalKind::interrupt())?;
    let tokens = [CancellationToken::new(), CancellationToken::new()];
    let cancelled = tokens.clone();
    Tasks::new().spawn_upkeep("signals", async move {
        for token in cancelled {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            token.cancel();
        }
    });
    Ok(tokens)
}

fn signals(kind: SignalKind) -> Result<Signal, Error> {
    signal(kind).map_err(|error| Error::failed("cannot handle signals", error))
}

/// Keeps memory where it is.
///
/// No core is written, neither to a file nor to a program that collects them, and other processes
/// of the same user can neither attach to this one nor read its environment (`prctl(2)`,
/// `PR_SET_DUMPABLE`); whoever has `CAP_SYS_PTRACE` still can. Nothing that this process might
/// start gains rights.
///
/// # Errors
/// When the system does not do one of them, which old kernels and strict sandboxes may. The others
/// are done.
pub(super) fn seal() -> io::Result<()> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let done = [
        setrlimit(Resource::Core, none),
        set_dumpable_behavior(DumpableBehavior::NotDumpable),
        set_no_new_privs(true),
    ];
    done.into_iter().try_for_each(|done| done).map_err(io::Error::from)
}

/// Has panics logged, in the log's own format, in place of the standard library's words. Those
/// repeat what could not be cut, parsed or unwrapped, which may be a token, an answer or a request.
pub(super) fn keep_panics_short() {
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        let backtrace = Backtrace::capture();
        let message = message(info);
        // Only when asked for (`RUST_BACKTRACE`).
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
        tracing::error!(
            place,
            thread = thread.name(),
            reason = message,
            backtrace,
            "the program panicked"
        );
        // A further panic on the way would end the process at once.
        log::flush();
    }));
}

fn message(info: &PanicHookInfo<'_>) -> String {
    without_quotations(info.payload_as_str().unwrap_or("not a text"))
}

/// `text` with `…` for all that stands between quotation marks or backticks of one kind, up to the
/// last of that kind: what is quoted may hold the mark itself.
fn without_quotations(text: &str) -> String {
    let Some(first) = text.find(['"', '`', '\'']) else {
        return text.to_owned();
    };
    let last = text.rfind(['"', '`', '\'']).filter(|last| *last > first);
    let rest = last.map_or("", |last| &text[last..]);
    format!("{}…{rest}", &text[..=first])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the standard library really says.
    fn said(fail: impl FnOnce() + panic::UnwindSafe) -> String {
        let payload = panic::catch_unwind(fail).unwrap_err();
        let text = payload.downcast_ref::<String>().map(String::as_str);
        without_quotations(text.or(payload.downcast_ref::<&str>().copied()).unwrap())
    }

    fn refuse(what: &str) -> Result<(), &str> {
        Err(what)
    }

    #[test]
    fn what_the_program_was_working_on_is_not_repeated() {
        let secret = "hunter2ü\"'`x";
        let cut = said(|| drop(secret[..8].to_owned()));
        let parsed = said(|| refuse(secret).unwrap());
        let expected = said(|| refuse(secret).expect("a number"));
        let compared = said(|| assert_eq!(secret, "x", "they differ"));
        for text in [&cut, &parsed, &expected, &compared] {
            assert!(!text.contains("hunter2") && text.contains('…'), "{text}");
        }
        assert!(cut.contains("byte index 8"), "{cut}");
        assert!(expected.starts_with("a number"), "{expected}");
    }

    #[test]
    fn numbers_and_plain_words_are() {
        let list: Vec<u8> = Vec::new();
        let index = said(move || assert_eq!(list[usize::from(b'a')], 0));
        assert_eq!(index, "index out of bounds: the len is 0 but the index is 97");
        assert_eq!(without_quotations("one \" only"), "one \"…");
    }
}
