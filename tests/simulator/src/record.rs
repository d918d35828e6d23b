//! The records of what the simulator received, kept up to a bound, and the log of calls.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use secrecy::SecretString;
use serde::{Serialize, Serializer};

use crate::operation::Operation;

/// A request that reached a region's host. In the log, members may be added, but never renamed.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CallRecord {
    /// When it arrived and was counted, after the start, exact to the microsecond.
    #[serde(rename = "at_us", serialize_with = "micros")]
    pub at: Duration,
    /// The region whose host it reached.
    pub region: String,
    /// The method.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The query as it came, if any.
    #[serde(skip)]
    pub query: Option<String>,
    /// 1.1 or 2, as `HTTP/1.1` and `HTTP/2.0`.
    #[serde(skip)]
    pub version: String,
    /// The operation, if it was for one: only such calls are limited.
    #[serde(serialize_with = "is_some")]
    pub operation: Option<Operation>,
    /// The requested ids, as they came; empty when the body was rejected, or for a list.
    pub ids: Vec<String>,
    /// `$top`, if it was valid.
    pub top: Option<u32>,
    /// `$skip`, if it was valid.
    pub skip: Option<u32>,
    /// The token's id (`uti`), when the token was valid.
    pub token_id: Option<String>,
    /// The caller's `x-request-id`.
    pub request_id: Option<String>,
    /// All fields but `Authorization`.
    #[serde(skip)]
    pub headers: HeaderMap,
    /// The status of the response; `None` while there is none, or when there never will be one.
    pub status: Option<u16>,
    /// The name of its fault.
    pub fault: Option<&'static str>,
    /// How long the answer took, from the first byte of the request.
    #[serde(rename = "latency_us", serialize_with = "optional_micros")]
    pub latency: Option<Duration>,
    /// Whether it was answered, cut or swallowed.
    #[serde(skip)]
    pub has_ended: bool,
    /// The order of arrival, from 0, over all regions.
    pub number: u64,
}

/// The kinds of credential that a client can present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Credential {
    None,
    Secret,
    /// An assertion signed with a certificate's key.
    Certificate,
    /// Another issuer's token.
    Federated,
    /// The virtual machine's form of managed identity.
    Imds,
    /// The App Service form of managed identity.
    AppService,
}

/// A request for a token.
#[derive(Clone, Debug)]
pub struct TokenRecord {
    /// When it arrived, after the start.
    pub at: Duration,
    /// The kind of credential.
    pub credential: Credential,
    /// The status of the response; `None` when there was none.
    pub status: Option<u16>,
    /// The AADSTS number of an error.
    pub code: Option<u32>,
    /// The id (`uti`) of the issued token.
    pub token_id: Option<String>,
    /// The token itself, for tests that look for it where it must not be.
    pub token: Option<SecretString>,
    /// The client's `User-Agent`.
    pub user_agent: Option<String>,
}

fn micros<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    u64::try_from(span.as_micros())
        .unwrap_or(u64::MAX)
        .serialize(serializer)
}

#[expect(clippy::ref_option, reason = "serde calls it with the field")]
fn optional_micros<S: Serializer>(span: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    span.map(|span| u64::try_from(span.as_micros()).unwrap_or(u64::MAX))
        .serialize(serializer)
}

#[expect(clippy::ref_option, reason = "serde calls it with the field")]
fn is_some<S: Serializer, T>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    value.is_some().serialize(serializer)
}

/// Something that a gateway must never do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// When it happened, after the start.
    pub at: Duration,
    /// A description.
    pub what: String,
}

#[derive(Debug)]
pub(super) struct Journal {
    pages: Mutex<Pages>,
    capacity: usize,
}

#[derive(Debug, Default)]
pub(super) struct Pages {
    /// How many calls have arrived, whether they are kept or not.
    arrived: u64,
    pub(super) calls: VecDeque<CallRecord>,
    pub(super) tokens: VecDeque<TokenRecord>,
    pub(super) violations: VecDeque<Violation>,
    log: Option<Log>,
}

impl Journal {
    pub(super) fn new(capacity: usize, log: Option<Log>) -> Self {
        let pages = Pages {
            log,
            ..Pages::default()
        };
        Self {
            pages: Mutex::new(pages),
            capacity: capacity.max(1),
        }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a call. Returns its number, which is also set in the record.
    pub(super) fn arrived(&self, mut call: CallRecord) -> u64 {
        let mut pages = self.pages();
        let number = pages.arrived;
        call.number = number;
        pages.arrived += 1;
        push(&mut pages.calls, call, self.capacity);
        number
    }

    /// Changes the record of a call, if it is still kept.
    pub(super) fn amend(&self, number: u64, change: impl FnOnce(&mut CallRecord)) {
        if let Some(call) = self.pages().find(number) {
            change(call);
        }
    }

    /// Changes the record of a call that has ended, and writes its log line, which is in the file
    /// when this returns.
    pub(super) fn settled(&self, number: u64, change: impl FnOnce(&mut CallRecord)) {
        let mut pages = self.pages();
        let log = pages.log.clone();
        if let Some(call) = pages.find(number) {
            change(call);
            call.has_ended = true;
            let written = log.as_ref().map_or(Ok(()), |log| log.write(call));
            if let Err(error) = written {
                tracing::error!(%error, "the call log cannot be written, and is given up");
                pages.log = None;
            }
        }
    }

    pub(super) fn signed_in(&self, record: TokenRecord) {
        push(&mut self.pages().tokens, record, self.capacity);
    }

    pub(super) fn violated(&self, violation: Violation) {
        tracing::error!(what = violation.what, "a client did what a gateway must never do");
        push(&mut self.pages().violations, violation, self.capacity);
    }

    /// What is kept of one kind, the oldest first.
    pub(super) fn kept<T: Clone>(&self, kind: impl FnOnce(&Pages) -> &VecDeque<T>) -> Vec<T> {
        kind(&self.pages()).iter().cloned().collect()
    }
}

impl Pages {
    fn find(&mut self, number: u64) -> Option<&mut CallRecord> {
        let first = self.calls.front()?.number;
        let at = usize::try_from(number.checked_sub(first)?).ok()?;
        self.calls.get_mut(at)
    }
}

pub(super) fn push<T>(queue: &mut VecDeque<T>, item: T, capacity: usize) {
    if queue.len() == capacity {
        queue.pop_front();
    }
    queue.push_back(item);
}

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
    fn write(&self, call: &CallRecord) -> io::Result<()> {
        let mut line = serde_json::to_vec(call)?;
        line.push(b'\n');
        let mut writer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One write, so that a reader of the growing file sees whole lines.
        writer.write_all(&line)?;
        writer.flush()
    }
}
