//! A stored answer, and the memory it takes.
//!
//! Sizes include the overhead of the allocator and of moka, so that the cache's bound limits the
//! growth of the process. The numbers follow from the structs and the allocator's rounding, and
//! `tests/bench/run --only memory` compares them with the growth of a gateway's resident memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use crate::memory::Reservation;
use crate::scan::{self, Key, UpstreamResponse};

/// What the allocator adds to an allocation on average: its header and rounding.
pub(super) const ALLOCATION_BYTES: usize = 16;

/// What a shared buffer takes besides its bytes: one allocation for the bytes and one for the
/// reference count.
pub(super) const BUFFER_BYTES: usize = 2 * ALLOCATION_BYTES + 24;

/// What moka takes for an entry: the slots of its table, of which a third is in use on average, its
/// bucket, the shared key and value, the entry's dates and weight, its nodes in two queues, and its
/// part of the frequency sketch.
const MOKA_BYTES: usize = 416;

/// What an entry takes without its content: its place in moka, and its key.
pub(super) fn slot_bytes(key: &Key) -> usize {
    MOKA_BYTES + ALLOCATION_BYTES + key.len()
}

/// The pause after the first background refresh that failed; it doubles with each failure up to
/// [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// A stored answer and the state of its refreshes.
#[derive(Debug)]
pub(super) struct Entry {
    answer: UpstreamResponse,
    /// When the call left.
    asked: Instant,
    /// When the answer was given.
    stored: Instant,
    ttl: Duration,
    weight: u32,
    /// Computed once instead of for every hit.
    may_link: bool,
    refresh_state: RefreshState,
}

impl Entry {
    /// An answer that was made at `stored`, by the host or by a cache in front of it. Its body is kept
    /// as it is, with the buffer that it is a part of.
    pub(super) fn at(key: &Key, answer: &UpstreamResponse, (asked, stored): (Instant, Instant), ttl: Duration) -> Self {
        let answer = answer.without_passing_fields();
        let may_link = scan::next_links(&answer.body).next().is_some();
        // The entry itself, its header fields with their texts, and its body.
        let rounding = 2 * ALLOCATION_BYTES + 2 * BUFFER_BYTES;
        let own = size_of::<Self>() + answer.headers.bytes() + answer.body.len();
        let weight = slot_bytes(key) + own + rounding;
        Self {
            may_link,
            answer,
            asked,
            stored,
            ttl,
            weight: u32::try_from(weight).unwrap_or(u32::MAX),
            refresh_state: RefreshState::new(stored),
        }
    }

    /// Attaches the memory reservation of the body, which lasts until the last reader drops the
    /// body.
    pub(super) fn with_memory(self, reservation: Reservation) -> Self {
        let UpstreamResponse { status, headers, body } = self.answer;
        let body = reservation.hold(body);
        Self {
            answer: UpstreamResponse { status, headers, body },
            ..self
        }
    }

    pub(super) fn answer(&self) -> &UpstreamResponse {
        &self.answer
    }

    /// Whether the body may contain a link to a next page.
    pub(super) fn may_link(&self) -> bool {
        self.may_link
    }

    pub(super) fn asked(&self) -> Instant {
        self.asked
    }

    pub(super) fn weight(&self) -> u32 {
        self.weight
    }

    pub(super) fn refresh_state(&self) -> &RefreshState {
        &self.refresh_state
    }

    /// Whether the answer is an error about the request, which is never served stale.
    pub(super) fn is_negative(&self) -> bool {
        self.answer.status != StatusCode::OK
    }

    /// When the entry becomes stale.
    pub(super) fn fresh_until(&self) -> Instant {
        self.stored + self.ttl
    }

    pub(super) fn age(&self, now: Instant) -> Age {
        Age {
            age: now.saturating_duration_since(self.stored),
            ttl: self.ttl,
        }
    }
}

/// How old an entry is, and how long it is fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Age {
    pub(super) age: Duration,
    pub(super) ttl: Duration,
}

impl Age {
    /// How much longer the entry is fresh; `None` once it is stale.
    pub(super) fn remaining(self) -> Option<Duration> {
        self.ttl.checked_sub(self.age).filter(|left| !left.is_zero())
    }

    /// How long the entry has been stale.
    pub(super) fn staleness(self) -> Duration {
        self.age.saturating_sub(self.ttl)
    }

    /// The `ttl` of `Cache-Status`: whole seconds, rounded down, so that a stale entry never shows
    /// 0.
    pub(super) fn ttl_seconds(self) -> i64 {
        let whole = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        match self.remaining() {
            Some(left) => whole(left),
            None => -whole(self.staleness()).saturating_add(1),
        }
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

    fn new(now: Instant) -> Self {
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

    /// Whether a refresh may start: none is under way, and the pause after the last one is over.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let at = self.not_before_ms.load(Ordering::Relaxed);
        at != Self::UNDER_WAY && at <= self.millis(now)
    }

    /// Starts a refresh; `false` when one is under way, or the pause is not over.
    pub(super) fn begin(&self, now: Instant) -> bool {
        let at = self.not_before_ms.load(Ordering::Relaxed);
        at != Self::UNDER_WAY
            && at <= self.millis(now)
            && self
                .not_before_ms
                .compare_exchange(at, Self::UNDER_WAY, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// Records that a refresh brought an answer.
    pub(super) fn succeed(&self) {
        self.failures.store(0, Ordering::Relaxed);
    }

    /// Ends a refresh; the next one may start at once.
    pub(super) fn cancel(&self, now: Instant) {
        self.not_before_ms.store(self.millis(now), Ordering::Relaxed);
    }

    /// Records that a refresh failed. `spread`, from 0 to 1, lengthens the pause, so that entries
    /// that failed together are not all tried again together.
    pub(super) fn fail(&self, now: Instant, spread: f64) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).min(16);
        let pause = FIRST_PAUSE.saturating_mul(1 << failures).min(LONGEST_PAUSE);
        self.not_before_ms
            .store(self.millis(now + pause.mul_f64(1.0 + spread)), Ordering::Relaxed);
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

/// A refresh under way. Dropping it without a result allows the next one.
pub(super) struct RefreshGuard {
    entry: Arc<Entry>,
    finished: bool,
}

impl RefreshGuard {
    pub(super) fn begin(entry: &Arc<Entry>, now: Instant) -> Option<Self> {
        entry.refresh_state().begin(now).then(|| Self {
            entry: Arc::clone(entry),
            finished: false,
        })
    }

    pub(super) fn finish(mut self, outcome: RefreshOutcome, now: Instant) {
        match outcome {
            RefreshOutcome::Failed => {
                self.entry.refresh_state().fail(now, rand::random());
                self.finished = true;
            }
            // It has mostly replaced the entry. If it was not stored, or only by its rows, the next
            // refresh may start at once.
            RefreshOutcome::Answered => self.entry.refresh_state().succeed(),
            RefreshOutcome::NotTried => {}
        }
    }
}

impl Drop for RefreshGuard {
    fn drop(&mut self) {
        if !self.finished {
            self.entry.refresh_state().cancel(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ttl_shown_is_never_zero_for_a_stale_entry() {
        let age = |age_ms, ttl_ms| {
            Age {
                age: Duration::from_millis(age_ms),
                ttl: Duration::from_millis(ttl_ms),
            }
            .ttl_seconds()
        };
        assert_eq!(age(0, 30_000), 30);
        assert_eq!(age(8_200, 29_900), 21);
        assert_eq!(age(29_999, 30_000), 0);
        assert_eq!(age(30_000, 30_000), -1);
        assert_eq!(age(37_500, 30_000), -8);
    }

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
