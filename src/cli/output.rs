//! Printing data to stdout.

use std::io::{self, Write as _};

use std::process::ExitCode;

use super::Error;

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

/// Tells the user something on stderr. Nobody is left to be told when stderr is closed.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
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
