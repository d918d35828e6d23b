//! Refreshes stale entries in the background, from spare quota, and when one may be tried again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::BoxError;
use crate::attempt::{Delivery, Failure};
use crate::cache::entry::Entry;
use crate::cache::freshness::StaleReason;
use crate::cache::layer::{Below, HasSpareQuota, is_answer};
use crate::cache::lifetime::rejects_gateway;
use crate::cache::memory_store::Cache;
use crate::cache::partial_hit::PartialHit;
use crate::cache::refresh_queue::RefreshQueue;
use crate::caller::{CacheDirectives, Caller, Urgency};
use crate::scan::{Call, Request, ServedResponse};
use crate::task::Tasks;
use crate::telemetry::log;

/// How long a background refresh from spare quota may wait for its slot. It should not have to wait
/// at all.
const REFRESH_WAIT: Duration = Duration::from_secs(1);

/// The pause after the first background refresh that failed; it doubles with each failure up to
/// [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// Refreshes entries that were served stale.
pub(super) struct Refresher {
    tasks: Tasks,
    has_spare_quota: HasSpareQuota,
    queue: RefreshQueue,
}

impl Refresher {
    pub(super) fn new(tasks: Tasks, has_spare_quota: HasSpareQuota) -> Self {
        Self {
            tasks,
            has_spare_quota,
            queue: RefreshQueue::default(),
        }
    }

    /// If there is spare quota, fetches a new answer in the background: for this request, or for
    /// one whose answer has been stale for longer. Without it, after a failure, the request's own
    /// call finds out whether there are answers again; nobody waits for it.
    pub(super) fn refresh(
        &self,
        cache: &Cache,
        inner: &Below,
        call: &Call,
        (entry, reason): (&Arc<Entry>, StaleReason),
        now: Instant,
    ) {
        if entry.refresh_state.due(now).is_some() {
            self.queue.push(call, entry.fresh_until(), now);
        }
        let payer = call.request.payer();
        if !(self.has_spare_quota)(payer) {
            if reason == StaleReason::IfError
                && let Some(guard) = RefreshGuard::begin(entry, now)
            {
                self.refresh_in_background(inner, call, Caller::clone(&call.caller), guard);
            }
            return;
        }
        while let Some(call) = self.queue.pop_stalest(payer) {
            // The entry may have been refreshed or removed since it was queued, or the rows of its
            // ids may have come with another call.
            let stale = |entry: &Arc<Entry>| entry.age(now).remaining().is_none();
            if let Some(entry) = cache.find(call.request.key(), now).filter(stale)
                && !PartialHit::find(cache, &call.request, &CacheDirectives::default(), now)
                    .is_some_and(|partial_hit| partial_hit.is_whole())
                && let Some(guard) = RefreshGuard::begin(&entry, now)
            {
                let caller = Caller {
                    urgency: Urgency::LAST,
                    deadline: now + REFRESH_WAIT,
                    wait: None,
                    ..Caller::clone(&call.caller)
                };
                self.refresh_in_background(inner, &call, caller, guard);
                return;
            }
        }
    }

    fn refresh_in_background(&self, inner: &Below, call: &Call, caller: Caller, guard: RefreshGuard) {
        let call = Call {
            request: Arc::clone(&call.request),
            caller: Arc::new(Caller {
                cache_directives: CacheDirectives::default(),
                has_fallback: true,
                ..caller
            }),
        };
        let request = Arc::clone(&call.request);
        let asked = inner.call(call);
        self.tasks.spawn("cache renewal", async move {
            let result = asked.await;
            if let Err(error) = &result {
                tracing::debug!(%error, "a stale entry could not be renewed");
            }
            match RefreshOutcome::of(&request, &result) {
                RefreshOutcome::NotTried => guard.pause(Instant::now()),
                outcome => guard.finish(outcome, Instant::now()),
            }
        });
    }
}

/// Whether an entry may be refreshed: one refresh at a time, and after a failure not before a
/// pause.
#[derive(Debug)]
pub(super) struct RefreshState {
    origin: Instant,
    /// Milliseconds after `origin` before which no refresh starts; `u64::MAX` while one is under
    /// way.
    not_before_ms: AtomicU64,
    failures: AtomicU32,
}

impl RefreshState {
    const UNDER_WAY: u64 = u64::MAX;

    pub(super) fn new(now: Instant) -> Self {
        Self {
            origin: now,
            not_before_ms: AtomicU64::new(0),
            failures: AtomicU32::new(0),
        }
    }

    /// Whether the last refresh failed. Then a stale answer is the best there is, and no request
    /// has to wait for the next refresh.
    pub(super) fn is_failing(&self) -> bool {
        self.failures.load(Ordering::Relaxed) > 0
    }

    /// What `not_before_ms` is, if a refresh may start: none is under way, and the pause after the
    /// last one is over.
    fn due(&self, now: Instant) -> Option<u64> {
        let at = self.not_before_ms.load(Ordering::Relaxed);
        (at != Self::UNDER_WAY && at <= self.millis(now)).then_some(at)
    }

    /// Starts a refresh; `false` when one is under way, or the pause is not over.
    pub(super) fn begin(&self, now: Instant) -> bool {
        let order = Ordering::Relaxed;
        self.due(now).is_some_and(|at| {
            let begun = self.not_before_ms.compare_exchange(at, Self::UNDER_WAY, order, order);
            begun.is_ok()
        })
    }

    /// Records that a refresh brought an answer.
    fn succeed(&self) {
        self.failures.store(0, Ordering::Relaxed);
    }

    /// Ends a refresh; the next one may start at `next`.
    fn cancel(&self, next: Instant) {
        self.not_before_ms.store(self.millis(next), Ordering::Relaxed);
    }

    /// Records that a refresh failed. `spread`, from 0 to 1, lengthens the pause, so that entries
    /// that failed together are not all tried again together.
    fn fail(&self, now: Instant, spread: f64) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).min(16);
        let pause = FIRST_PAUSE.saturating_mul(1 << failures).min(LONGEST_PAUSE);
        self.cancel(now + pause.mul_f64(1.0 + spread));
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.origin).as_millis()).unwrap_or(Self::UNDER_WAY - 1)
    }
}

/// What became of a refresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RefreshOutcome {
    /// There is an answer.
    Answered,
    /// It was called for, and there is none.
    Failed,
    /// No call was made: the request could not wait for its slot, for example. Another one may.
    NotTried,
}

impl RefreshOutcome {
    pub(super) fn of(request: &Request, result: &Result<ServedResponse, BoxError>) -> Self {
        match result {
            Ok(served) if rejects_gateway(request, &served.answer) => Self::Failed,
            Ok(served) if is_answer(request.endpoint(), served) => Self::Answered,
            Ok(_) => Self::Failed,
            Err(error) => match log::causes(error.as_ref()).find_map(|cause| cause.downcast_ref::<Failure>()) {
                Some(failure) if failure.delivery != Delivery::NoSlot => Self::Failed,
                _ => Self::NotTried,
            },
        }
    }
}

/// A refresh under way. Dropping it without a result allows the next one.
pub(super) struct RefreshGuard {
    entry: Arc<Entry>,
    finished: bool,
}

impl RefreshGuard {
    pub(super) fn begin(entry: &Arc<Entry>, now: Instant) -> Option<Self> {
        entry.refresh_state.begin(now).then(|| Self {
            entry: Arc::clone(entry),
            finished: false,
        })
    }

    pub(super) fn finish(mut self, outcome: RefreshOutcome, now: Instant) {
        match outcome {
            RefreshOutcome::Failed => {
                self.entry.refresh_state.fail(now, rand::random());
                self.finished = true;
            }
            // It has mostly replaced the entry. If it was not stored, or only by its rows, the next
            // refresh may start at once.
            RefreshOutcome::Answered => self.entry.refresh_state.succeed(),
            RefreshOutcome::NotTried => {}
        }
    }
}

impl RefreshGuard {
    /// Ends a background refresh that found no slot. The next request that wants a slot asks the
    /// queue itself; but if the refresh began again with each hit, the queue would refuse each.
    fn pause(mut self, now: Instant) {
        let pause = FIRST_PAUSE.mul_f64(1.0 + rand::random::<f64>());
        self.entry.refresh_state.cancel(now + pause);
        self.finished = true;
    }
}

impl Drop for RefreshGuard {
    fn drop(&mut self) {
        if !self.finished {
            self.entry.refresh_state.cancel(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_refresh_at_a_time_and_pauses_that_grow() {
        let refresh_state = RefreshState::new(Instant::now());
        assert!(refresh_state.begin(Instant::now()));
        assert!(!refresh_state.begin(Instant::now()));
        for pause in [5, 10, 20, 40, 60, 60] {
            refresh_state.fail(Instant::now(), 0.0);
            assert!(refresh_state.is_failing());
            tokio::time::advance(Duration::from_millis(pause * 1000 - 1)).await;
            assert!(!refresh_state.begin(Instant::now()));
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(refresh_state.begin(Instant::now()));
        }
        refresh_state.cancel(Instant::now());
        assert!(refresh_state.begin(Instant::now()));
        assert!(refresh_state.is_failing());
        // An answer that did not replace the entry ends the failure all the same.
        refresh_state.succeed();
        assert!(!refresh_state.is_failing());
    }
}
