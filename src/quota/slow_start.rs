//! The first calls after refusals: few, and more with each that is accepted (slow start, RFC 5681
//! §3.1).
//!
//! When a window turns out to be full again, all calls in flight are refused. So no more of them
//! are in flight than were accepted before, and never more than a tenth of the burst, however many
//! requests wait and however full the bucket is. A second after each call another may go all the
//! same: answers that take long, or never come, must not stop the rest. It ends when no call has
//! left for as long as the shortest window, and for five minutes: beside others one a minute may be
//! all that goes.

use std::time::Duration;

use tokio::time::Instant;

/// So long without a call ends it, or the shortest window if that is longer.
const IDLE: Duration = Duration::from_mins(5);

/// So long after a call another one goes, although none was accepted.
const EACH: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct SlowStart {
    since: Instant,
    latest: Instant,
    burst: usize,
    /// So long without a call ends it.
    idle: Duration,
    issued: usize,
    accepted: usize,
}

impl SlowStart {
    /// After a probe that was accepted.
    pub(super) fn new(burst: usize, short: Duration, now: Instant) -> Self {
        Self {
            since: now,
            latest: now,
            burst,
            idle: short.max(IDLE),
            issued: 0,
            accepted: 1,
        }
    }

    /// When the next call may go, if none is accepted before.
    pub(super) fn opens_at(&self) -> Instant {
        let in_flight = self.accepted.min((self.burst / 10).max(1));
        if self.issued < self.accepted + in_flight {
            return self.latest;
        }
        self.latest + EACH
    }

    /// Whether it waits for the answer to a call that was issued then.
    pub(super) fn waits_for(&self, issued: Instant) -> bool {
        issued >= self.since
    }

    /// A call goes.
    pub(super) fn issue(&mut self, now: Instant) {
        self.issued += 1;
        self.latest = now;
    }

    /// Whether no call was made for so long that it is over.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.latest) >= self.idle
    }

    /// A call that was issued then was not made after all, or nobody will learn what became of it.
    pub(super) fn end(&mut self, issued: Instant) {
        self.issued = self.issued.saturating_sub(usize::from(self.waits_for(issued)));
    }

    /// A call was accepted; says whether as many were as the bucket holds at most, which ends it.
    pub(super) fn accept(&mut self) -> bool {
        self.accepted += 1;
        self.accepted >= self.burst
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_in_flight_as_were_accepted_up_to_a_tenth_of_the_burst() {
        let now = Instant::now();
        let mut start = SlowStart::new(100, EACH * 60, now);
        let issue = |start: &mut SlowStart| {
            let before = start.issued;
            while start.opens_at() <= now {
                start.issue(now);
            }
            start.issued - before
        };
        assert_eq!(issue(&mut start), 2, "the probe was accepted");
        assert_eq!(start.opens_at(), now + EACH);
        start.issue(now + EACH * 60);
        assert_eq!(start.opens_at(), now + EACH * 61, "seconds are not saved up");
        start.issued -= 1;
        start.latest = now;
        for accepted in 2..100 {
            assert!(!start.accept());
            assert_eq!(issue(&mut start), if accepted <= 10 { 2 } else { 1 }, "{accepted}");
        }
        assert!(start.accept(), "as many as the burst");
    }
}
