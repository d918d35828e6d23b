//! Whether a merged answer holds, for each request, exactly what the request is answered alone.
//!
//! That is found out by comparison. Ordinary requests are asked alone, again and again. Between two
//! equal answers to one request, a comparison call asks for the ids of many such requests in the
//! way a merged call does; the part of each request must be, byte for byte, the answer to it alone.
//! Where the two answers differ, the rows have changed meanwhile, which shows nothing. Only the
//! comparison call costs anything, and nobody is answered from it.
//!
//! One contradiction ends merging and forgets what was confirmed. After a pause, which doubles each
//! time, it is found out anew, as long as comparison calls are left; there are ten in all.

mod record;
mod seen_answers;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

pub use record::{MergeFinding, MergeRecord};

use record::Allowed;
use seen_answers::{ComparisonCall, Observed, SeenAnswers};

use crate::scan::{Endpoint, Request, Rows, SplitError};

/// When requests share upstream calls, and when a call also asks for ids that are wanted often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Merging {
    /// Once it has been found out that it changes no answer.
    Auto,
    /// From the start.
    On,
    /// Never.
    #[default]
    Off,
}

/// The evidence by endpoint.
#[derive(Debug)]
pub struct MergeEvidence {
    endpoints: Mutex<[Evidence; Endpoint::COUNT]>,
    /// What each endpoint's record allows, as an [`Allowed`], to be read without the lock.
    allowed: [AtomicU8; Endpoint::COUNT],
    changed: Notify,
}

#[derive(Debug, Default)]
struct Evidence {
    record: MergeRecord,
    seen_answers: SeenAnswers,
    /// No comparison call begins before; `None` until the first answer was seen.
    not_before: Option<Instant>,
    /// Since when there have been enough requests for a comparison call.
    ready_since: Option<Instant>,
    /// No comparison call begins after, if that is limited.
    leased_until: Option<Instant>,
    /// The number of the comparison call that confirmed an answer last.
    confirmed_by: u32,
    /// The latest comparison call was refused. A second one in a row is a contradiction.
    is_refused: bool,
}

/// A comparison call to be made.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// What it asks.
    pub request: Arc<Request>,
    begun: Instant,
}

/// Comparison calls begin so long after the first answer was seen.
const WARM_UP: Duration = Duration::from_mins(2);

/// How long a comparison call waits for further requests that are asked again and again: the more
/// it compares, the more it shows.
const GATHER: Duration = Duration::from_mins(2);

/// The pause between two comparison calls, in which requests are asked alone again.
const INTERVAL: Duration = Duration::from_mins(1);

/// The pause while a comparison call is under way, in case its end is never heard of.
const UNDER_WAY: Duration = Duration::from_mins(5);

/// The pause after the first contradiction.
const FIRST_PAUSE: Duration = Duration::from_hours(1);

impl MergeEvidence {
    pub(super) fn new() -> Self {
        Self {
            endpoints: Mutex::default(),
            allowed: [const { AtomicU8::new(Allowed::None as u8) }; Endpoint::COUNT],
            changed: Notify::new(),
        }
    }

    /// Whether requests for one id may be merged.
    pub fn is_proven(&self, endpoint: Endpoint) -> bool {
        self.allowed[endpoint.index()].load(Ordering::Relaxed) >= Allowed::OneId as u8
    }

    /// Whether requests for several ids may be merged: that their rows come in one order has been
    /// seen.
    pub fn is_proven_for_several(&self, endpoint: Endpoint) -> bool {
        self.allowed[endpoint.index()].load(Ordering::Relaxed) >= Allowed::All as u8
    }

    /// Whether rows may be taken out of an answer to more ids, or joined to one: not while it is
    /// known that the same ids are answered otherwise together than alone.
    pub fn allows_parts(&self, endpoint: Endpoint) -> bool {
        self.allowed[endpoint.index()].load(Ordering::Relaxed) > Allowed::NoParts as u8
    }

    /// Resolves when a record has changed from now on.
    pub fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// What has been found out about each endpoint that is used.
    pub fn findings(&self) -> Vec<MergeFinding> {
        let (endpoints, now) = (self.lock(), Instant::now());
        Endpoint::all()
            .zip(endpoints.iter())
            .filter(|(_, evidence)| evidence.record.revision > 0 || !evidence.seen_answers.is_empty())
            .map(|(endpoint, evidence)| MergeFinding {
                endpoint,
                record: evidence.record,
                pause: evidence.pause(now),
            })
            .collect()
    }

    /// Takes over the record of an earlier process or of another replica, if it is later. A
    /// contradiction is later than whatever it had not contradicted.
    pub(super) fn adopt(&self, endpoint: Endpoint, record: MergeRecord) {
        let later = |record: &MergeRecord| (record.contradictions, record.revision);
        let mut endpoints = self.lock();
        let evidence = &mut endpoints[endpoint.index()];
        if later(&record) > later(&evidence.record) {
            let calls = record.calls.max(evidence.record.calls);
            evidence.record = MergeRecord { calls, ..record };
            if record.contradiction.is_some() {
                evidence.rest(Instant::now());
            }
            self.publish(endpoint, evidence);
        }
    }

    /// Allows comparison calls until then. As long as this is never called they are always allowed.
    pub fn lease_until(&self, until: Instant) {
        for evidence in self.lock().iter_mut() {
            evidence.leased_until = Some(until);
        }
    }

    /// Learns from the answer to a request that was asked alone, at `asked`.
    pub fn observe(&self, request: &Arc<Request>, rows: &Rows, body: &[u8], asked: Instant) {
        let (endpoint, now) = (request.endpoint(), Instant::now());
        if request.asks_for_all() || rows.is_empty() || self.is_known(request) {
            return;
        }
        let mut endpoints = self.lock();
        let evidence = &mut endpoints[endpoint.index()];
        evidence.not_before.get_or_insert(now + WARM_UP);
        match evidence.seen_answers.observe(request, body, asked, now) {
            Observed::Nothing => {}
            Observed::Confirmed(call) => {
                evidence.confirm(rows, call);
                self.publish(endpoint, evidence);
            }
            Observed::Contradicted => {
                evidence.contradict(endpoint, SplitError::Different, now);
                self.publish(endpoint, evidence);
            }
        }
    }

    /// Whether a comparison call may begin now, as far as that is told without looking for what it
    /// would compare.
    pub fn may_compare(&self, endpoint: Endpoint) -> bool {
        !self.is_proven_for_several(endpoint) && may_compare(&self.lock(), endpoint, Instant::now())
    }

    /// The next comparison call, for at most `most` ids, if one is due.
    pub fn begin_comparison(&self, endpoint: Endpoint, most: usize) -> Option<Comparison> {
        if self.is_proven_for_several(endpoint) {
            return None;
        }
        let now = Instant::now();
        let mut endpoints = self.lock();
        if !may_compare(&endpoints, endpoint, now) {
            return None;
        }
        let evidence = &mut endpoints[endpoint.index()];
        let request = evidence
            .seen_answers
            .comparison(most, now, |request| !self.is_known(request))?;
        if now < *evidence.ready_since.get_or_insert(now) + GATHER {
            return None;
        }
        evidence.ready_since = None;
        evidence.not_before = Some(now + UNDER_WAY);
        Some(Comparison {
            request: Arc::new(request),
            begun: now,
        })
    }

    /// Counts a comparison call that leaves.
    pub fn record_call(&self, comparison: &Comparison) {
        let endpoint = comparison.request.endpoint();
        let mut endpoints = self.lock();
        let evidence = &mut endpoints[endpoint.index()];
        evidence.record.calls += 1;
        evidence.record.revision += 1;
        if evidence.record.calls == MergeRecord::LAST_CALL + 1 {
            tracing::warn!(
                operation = endpoint.name(),
                version = endpoint.version.as_str(),
                calls = evidence.record.calls,
                "the last comparison call: without its confirmation requests are not merged"
            );
        }
        self.publish(endpoint, evidence);
    }

    /// Learns from the answer to a comparison call. `fits` says whether a request with so many rows
    /// would be answered with all of them alone.
    pub fn end_comparison(
        &self,
        comparison: &Comparison,
        answer: Result<&Rows, SplitError>,
        fits: impl Fn(&Request, usize) -> bool,
    ) {
        let now = Instant::now();
        let endpoint = comparison.request.endpoint();
        let mut endpoints = self.lock();
        let evidence = &mut endpoints[endpoint.index()];
        // A contradiction since it began pauses for longer.
        if evidence.not_before == Some(comparison.begun + UNDER_WAY) {
            evidence.not_before = Some(now + INTERVAL);
        }
        let was_refused = std::mem::replace(&mut evidence.is_refused, matches!(answer, Err(SplitError::Refused)));
        match answer {
            Ok(rows) => {
                let call = ComparisonCall {
                    number: evidence.record.calls,
                    ids: comparison.request.ids().len(),
                    rows: rows.len(),
                    answered: now,
                };
                let asked = (&*comparison.request, comparison.begun);
                evidence.seen_answers.take_parts(asked, rows, call, fits);
            }
            // That says nothing about merging.
            Err(SplitError::Failed) => {}
            // One of the ids may have become unknown; those that have not are seen again.
            Err(SplitError::Refused) if !was_refused => evidence.seen_answers.clear(),
            Err(split_error) => {
                evidence.contradict(endpoint, split_error, now);
                self.publish(endpoint, evidence);
            }
        }
    }

    /// Takes back what was proven, because the answers to merged calls contradict it.
    pub fn contradict(&self, endpoint: Endpoint, split_error: SplitError) {
        let mut endpoints = self.lock();
        let evidence = &mut endpoints[endpoint.index()];
        if evidence.record.is_proven() {
            evidence.contradict(endpoint, split_error, Instant::now());
            self.publish(endpoint, evidence);
        }
    }

    /// Whether nothing is left to be found out about such requests.
    fn is_known(&self, request: &Request) -> bool {
        let endpoint = request.endpoint();
        self.is_proven_for_several(endpoint) || self.is_proven(endpoint) && request.ids().len() == 1
    }

    /// Makes a changed record known, and says in the log what it changes.
    fn publish(&self, endpoint: Endpoint, evidence: &Evidence) {
        let record = evidence.record;
        let allowed = record.allowed() as u8;
        let before = self.allowed[endpoint.index()].swap(allowed, Ordering::Relaxed);
        let (operation, version) = (endpoint.name(), endpoint.version.as_str());
        let MergeRecord {
            calls,
            answers,
            ids,
            rows,
            ..
        } = record;
        if before < Allowed::OneId as u8 && record.is_proven() {
            tracing::info!(
                operation,
                version,
                calls,
                answers,
                ids,
                rows,
                "requests are merged from now on: together they were answered exactly as alone"
            );
        }
        self.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, [Evidence; Endpoint::COUNT]> {
        // No code that holds the lock panics halfway through a change.
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a comparison call may begin, if there is something to compare.
fn may_compare(endpoints: &[Evidence; Endpoint::COUNT], endpoint: Endpoint, now: Instant) -> bool {
    let evidence = &endpoints[endpoint.index()];
    if evidence.not_before.is_none_or(|at| at > now) || evidence.leased_until.is_some_and(|at| at <= now) {
        return false;
    }
    let same_operation = Endpoint::all().zip(endpoints);
    let calls = same_operation.filter(|(other, _)| other.operation == endpoint.operation);
    calls.map(|(_, evidence)| evidence.record.calls).sum::<u32>() <= MergeRecord::LAST_CALL
}

impl Evidence {
    /// After a contradiction: how much longer nothing is compared.
    fn pause(&self, now: Instant) -> Option<Duration> {
        let is_contradicted = self.record.contradiction.is_some() && !self.record.is_proven();
        let until = self
            .not_before
            .filter(|_| is_contradicted && !self.record.is_exhausted())?;
        Some(until.saturating_duration_since(now))
    }

    fn confirm(&mut self, rows: &Rows, call: ComparisonCall) {
        let record = &mut self.record;
        let ids: Vec<usize> = rows.iter().map(|(id, ..)| id).collect();
        let pairs = ids.windows(2);
        let mixed = pairs.clone().filter(|pair| pair[0] != pair[1]);
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        record.revision += 1;
        record.answers += 1;
        record.pairs = record.pairs.saturating_add(count(pairs.len()));
        record.mixed_pairs = record.mixed_pairs.saturating_add(count(mixed.count()));
        record.ids = record.ids.max(call.ids);
        record.rows = record.rows.max(call.rows);
        if std::mem::replace(&mut self.confirmed_by, call.number) != call.number {
            record.confirmed_calls += 1;
        }
    }

    fn contradict(&mut self, endpoint: Endpoint, split_error: SplitError, now: Instant) {
        self.record.contradict(split_error);
        self.seen_answers.clear();
        self.rest(now);
        let looks_again = self.pause(now);
        tracing::warn!(
            operation = endpoint.name(),
            version = endpoint.version.as_str(),
            calls = self.record.calls,
            reason = split_error.as_str(),
            ?looks_again,
            "requests are not merged: {split_error}"
        );
    }

    /// Pauses, for longer after each contradiction.
    fn rest(&mut self, now: Instant) {
        let doublings = self
            .record
            .contradictions
            .saturating_sub(1)
            .min(MergeRecord::MOST_CALLS);
        self.not_before = Some(now + FIRST_PAUSE * (1 << doublings));
    }
}
