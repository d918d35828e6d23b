//! A log with one JSON line for each call.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

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
        let mut line = serde_json::to_vec(&Line::from(call))?;
        line.push(b'\n');
        let mut writer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One write, so that a reader of the growing file sees whole lines.
        writer.write_all(&line)?;
        writer.flush()
    }
}

/// The format on disk. Members may be added, but never renamed.
#[derive(Serialize)]
struct Line<'a> {
    at_us: u64,
    region: &'a str,
    /// `null` when there was no response.
    status: Option<u16>,
    ids: &'a [String],
    top: Option<u32>,
    skip: Option<u32>,
    request_id: Option<&'a str>,
    latency_us: Option<u64>,
    method: &'a str,
    path: &'a str,
    /// Whether the call was for one of the operations, and so counts.
    operation: bool,
    token_id: Option<&'a str>,
    fault: Option<&'a str>,
    number: u64,
}

impl<'a> From<&'a CallRecord> for Line<'a> {
    fn from(call: &'a CallRecord) -> Self {
        let micros = |span: std::time::Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        Self {
            at_us: micros(call.at),
            region: &call.region,
            status: call.status,
            ids: &call.ids,
            top: call.top,
            skip: call.skip,
            request_id: call.request_id.as_deref(),
            latency_us: call.latency.map(micros),
            method: &call.method,
            path: &call.path,
            operation: call.operation.is_some(),
            token_id: call.token_id.as_deref(),
            fault: call.fault,
            number: call.number,
        }
    }
}
