//! Keeps records up to a bound, and wakes tests that wait for more.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::{CallRecord, Log, TokenRecord, Violation};

/// The awaited records did not come in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("waited {within:?} for {wanted} {what}, saw {seen}")]
pub struct TimedOut {
    what: &'static str,
    wanted: u64,
    seen: u64,
    within: Duration,
}

/// The number of records of each kind since the start, whether kept or not.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::sim) struct Seen {
    pub(in crate::sim) calls: u64,
    pub(in crate::sim) answered: u64,
    pub(in crate::sim) token_requests: u64,
}

#[derive(Debug)]
pub(in crate::sim) struct Journal {
    pages: Mutex<Pages>,
    seen: watch::Sender<Seen>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Pages {
    calls: VecDeque<CallRecord>,
    tokens: VecDeque<TokenRecord>,
    violations: VecDeque<Violation>,
    log: Option<Log>,
}

impl Journal {
    pub(in crate::sim) fn new(capacity: usize, log: Option<Log>) -> Self {
        let pages = Pages {
            log,
            ..Pages::default()
        };
        Self {
            pages: Mutex::new(pages),
            seen: watch::Sender::new(Seen::default()),
            capacity: capacity.max(1),
        }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a call. Returns its number, which is also set in the record.
    pub(in crate::sim) fn arrived(&self, mut call: CallRecord) -> u64 {
        let mut pages = self.pages();
        let number = self.seen.borrow().calls;
        call.number = number;
        push(&mut pages.calls, call, self.capacity);
        self.seen.send_modify(|seen| seen.calls += 1);
        number
    }

    /// Changes the record of a call, if it is still kept.
    pub(in crate::sim) fn amend(&self, number: u64, change: impl FnOnce(&mut CallRecord)) {
        if let Some(call) = self.pages().find(number) {
            change(call);
        }
    }

    /// Changes the record of a call that has ended, and writes its log line, which is in the file
    /// when this returns.
    pub(in crate::sim) fn settled(&self, number: u64, change: impl FnOnce(&mut CallRecord)) {
        let mut pages = self.pages();
        let log = pages.log.clone();
        if let Some(call) = pages.find(number) {
            change(call);
            let written = log.as_ref().map_or(Ok(()), |log| log.write(call));
            if let Err(error) = written {
                tracing::error!(%error, "the call log cannot be written, and is given up");
                pages.log = None;
            }
        }
        self.seen.send_modify(|seen| seen.answered += 1);
    }

    pub(in crate::sim) fn signed_in(&self, record: TokenRecord) {
        push(&mut self.pages().tokens, record, self.capacity);
        self.seen.send_modify(|seen| seen.token_requests += 1);
    }

    pub(in crate::sim) fn violated(&self, violation: Violation) {
        tracing::error!(what = violation.what, "a client did what a gateway must never do");
        push(&mut self.pages().violations, violation, self.capacity);
    }

    pub(in crate::sim) fn calls(&self) -> Vec<CallRecord> {
        self.pages().calls.iter().cloned().collect()
    }

    pub(in crate::sim) fn token_requests(&self) -> Vec<TokenRecord> {
        self.pages().tokens.iter().cloned().collect()
    }

    pub(in crate::sim) fn violations(&self) -> Vec<Violation> {
        self.pages().violations.iter().cloned().collect()
    }

    /// Waits until the number of records is `wanted` or more.
    pub(in crate::sim) async fn wait(
        &self,
        what: &'static str,
        wanted: u64,
        within: Duration,
        count: impl Fn(&Seen) -> u64,
    ) -> Result<(), TimedOut> {
        let mut seen = self.seen.subscribe();
        let reached = tokio::time::timeout(within, seen.wait_for(|seen| count(seen) >= wanted)).await;
        match reached {
            Ok(Ok(_)) => Ok(()),
            _ => Err(TimedOut {
                what,
                wanted,
                seen: count(&self.seen.borrow()),
                within,
            }),
        }
    }
}

impl Pages {
    fn find(&mut self, number: u64) -> Option<&mut CallRecord> {
        let first = self.calls.front()?.number;
        let at = usize::try_from(number.checked_sub(first)?).ok()?;
        self.calls.get_mut(at)
    }
}

fn push<T>(queue: &mut VecDeque<T>, item: T, capacity: usize) {
    if queue.len() == capacity {
        queue.pop_front();
    }
    queue.push_back(item);
}
