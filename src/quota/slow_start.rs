//! The first calls after refusals: few, and more with each that is accepted (slow start, RFC 5681 §3.1).
//!
//! When a window turns out to be full again, all calls in flight are refused. So no more of them are in flight than were accepted before, and
//! never more than a tenth of the burst, however many requests wait and however full the bucket is. Every second lets another call go as
//! well: answers that take long, or never come, must not stop the rest.

use std::time::Duration;

use tokio::time::Instant;

/// The time that stands in for an accepted call.
const EACH: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct SlowStart {
    since: Instant,
    burst: usize,
    issued: usize,
    accepted: usize,
}

impl SlowStart {
    /// After a probe that was accepted.
    pub(super) fn new(burst: usize, now: Instant) -> Self {
        Self {
            since: now,
            burst,
            issued: 0,
            accepted: 1,
        }
    }

    /// When the next call may go, if none is accepted before.
    pub(super) fn opens_at(&self) -> Instant {
        let in_flight = self.accepted.min((self.burst / 10).max(1));
        let early = self.issued.saturating_sub(self.accepted + in_flight);
        self.since + EACH * u32::try_from(early).unwrap_or(u32::MAX)
    }

    /// A call goes.
    pub(super) fn issue(&mut self) {
        self.issued += 1;
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
        let mut start = SlowStart::new(100, now);
        let mut issue = |start: &mut SlowStart| {
            let before = start.issued;
            while start.opens_at() <= now {
                start.issue();
            }
            start.issued - before
        };
        assert_eq!(issue(&mut start), 3, "the probe was accepted");
        assert_eq!(start.opens_at(), now + EACH, "time goes on");
        for accepted in 2..100 {
            assert!(!start.accept());
            assert_eq!(issue(&mut start), if accepted <= 10 { 2 } else { 1 }, "{accepted}");
        }
        assert!(start.accept(), "as many as the burst");
    }
}
