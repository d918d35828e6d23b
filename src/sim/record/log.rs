//! A log with one JSON line for each call.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::CallRecord;

/// The destination of log lines. Clones write to the same one.
#[derive(Clone)]
pub struct Log(Arc<Mutex<dyn Write + Send>>);

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Log")
    }
}

impl Log {
    /// Writes to a file, whose earlier content is lost.
    pub fn to_file(path: &Path) -> io::Result<Self> {
        Ok(Self::to_writer(File::create(path)?))
    }

    /// Writes to `writer`, whole lines, each followed by a flush.
    pub fn to_writer(writer: impl Write + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(writer)))
    }

    /// Writes the line of `call`. It is in the file when this returns.
    pub(super) fn write(&self, call: &CallRecord) -> io::Result<()> {
        let mut line = serde_json::to_vec(call)?;
        line.push(b'\n');
        let mut writer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One write, so that a reader of the growing file sees whole lines.
        writer.write_all(&line)?;
        writer.flush()
    }
}
