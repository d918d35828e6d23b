//! A stored answer.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use crate::cache::entry_size::{ALLOCATION_BYTES, BUFFER_BYTES, slot_bytes};
use crate::memory::Reservation;
use crate::scan::{self, Answer, Key};

/// The first pause before the next background fetch after one that failed; it doubles with each failure up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// A stored answer and what is known about renewing it.
#[derive(Debug)]
pub(super) struct Entry {
    answer: Answer,
    /// When the call left.
    asked: Instant,
    /// When the answer was given.
    stored: Instant,
    ttl: Duration,
    weight: u32,
    /// Found out once, not for every hit.
    may_link: bool,
    renewal: Renewal,
}

impl Entry {
    /// An answer that was given at `stored`, by the host or by a cache in front of it, and whose body has a buffer of its own: a slice of a
    /// read buffer would keep the whole buffer alive, unseen by the memory bound.
    pub(super) fn at(key: &Key, answer: &Answer, (asked, stored): (Instant, Instant), ttl: Duration) -> Self {
        let answer = answer.without_passing_fields();
        let may_link = scan::next_links(&answer.body).next().is_some();
        // The entry itself, its fields with their texts, and its body.
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
            renewal: Renewal::new(stored),
        }
    }

    /// With what was reserved for its body, until nobody holds that any more.
    pub(super) fn with_memory(self, reservation: Reservation) -> Self {
        let Answer { status, headers, body } = self.answer;
        let body = reservation.hold(body);
        Self {
            answer: Answer { status, headers, body },
            ..self
        }
    }

    pub(super) fn answer(&self) -> &Answer {
        &self.answer
    }

    /// Whether the body may hold a link to a further page.
    pub(super) fn may_link(&self) -> bool {
        self.may_link
    }

    pub(super) fn asked(&self) -> Instant {
        self.asked
    }

    pub(super) fn weight(&self) -> u32 {
        self.weight
    }

    pub(super) fn renewal(&self) -> &Renewal {
        &self.renewal
    }

    /// Whether the answer was a refusal of the question, which is never served stale.
    pub(super) fn is_negative(&self) -> bool {
        self.answer.status != StatusCode::OK
    }

    /// When it becomes stale.
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

/// How old an entry is, against how long it is fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Age {
    pub(super) age: Duration,
    pub(super) ttl: Duration,
}

impl Age {
    /// How much longer it is fresh; `None` once it is stale.
    pub(super) fn remaining(self) -> Option<Duration> {
        self.ttl.checked_sub(self.age).filter(|left| !left.is_zero())
    }

    /// For how long it has been stale.
    pub(super) fn staleness(self) -> Duration {
        self.age.saturating_sub(self.ttl)
    }

    /// The `ttl` of `Cache-Status`: whole seconds, rounded down, so that a stale entry never shows 0.
    pub(super) fn ttl_seconds(self) -> i64 {
        let whole = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        match self.remaining() {
            Some(left) => whole(left),
            None => -whole(self.staleness()).saturating_add(1),
        }
    }
}

/// Who may try to renew an entry, and when: one at a time, and after failures not before a pause.
#[derive(Debug)]
pub(super) struct Renewal {
    origin: Instant,
    /// Milliseconds after `origin` before which no attempt is made; `u64::MAX` while one is under way.
    not_before_ms: AtomicU64,
    failures: AtomicU32,
}

impl Renewal {
    const UNDER_WAY: u64 = u64::MAX;

    fn new(now: Instant) -> Self {
        Self {
            origin: now,
            not_before_ms: AtomicU64::new(0),
            failures: AtomicU32::new(0),
        }
    }

    /// Whether the last attempt failed: then a stale answer is as good as it gets, and nobody has to wait for the next attempt.
    pub(super) fn is_failing(&self) -> bool {
        self.failures.load(Ordering::Relaxed) > 0
    }

    /// Whether an attempt may be made: nobody makes one, and the pause after the last is over.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let at = self.not_before_ms.load(Ordering::Relaxed);
        at != Self::UNDER_WAY && at <= self.millis(now)
    }

    /// Takes the right to try; `false` when somebody else has it, or the pause is not over.
    pub(super) fn begin(&self, now: Instant) -> bool {
        let at = self.not_before_ms.load(Ordering::Relaxed);
        at != Self::UNDER_WAY
            && at <= self.millis(now)
            && self
                .not_before_ms
                .compare_exchange(at, Self::UNDER_WAY, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// Gives the right back unused.
    pub(super) fn cancel(&self, now: Instant) {
        self.not_before_ms.store(self.millis(now), Ordering::Relaxed);
    }

    /// Notes that no new answer could be had. `spread`, 0 to 1, stretches the pause, so that entries that failed together do not all come
    /// back together.
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
    async fn one_renewal_at_a_time_and_pauses_that_grow() {
        let renewal = Renewal::new(Instant::now());
        assert!(renewal.begin(Instant::now()));
        assert!(!renewal.begin(Instant::now()));
        for pause in [5, 10, 20, 40, 60, 60] {
            renewal.fail(Instant::now(), 0.0);
            assert!(renewal.is_failing());
            tokio::time::advance(Duration::from_millis(pause * 1000 - 1)).await;
            assert!(!renewal.begin(Instant::now()));
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(renewal.begin(Instant::now()));
        }
        renewal.cancel(Instant::now());
        assert!(renewal.begin(Instant::now()));
    }
}
