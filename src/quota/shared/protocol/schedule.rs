//! When a replica takes its next step.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use tokio::time::Instant;

use super::{Protocol, SHORTEST};
use crate::quota::shared::messages;

/// What has become of calls is collected for so long before it is said.
const COLLECT: Duration = Duration::from_millis(5);

/// How often one of many replicas looks while somebody waits there, and tells what waits, for each
/// of them.
const BEAT_OF_EACH: Duration = Duration::from_millis(4);
const TELL_OF_EACH: Duration = Duration::from_millis(1);

/// So many replicas may look at the same moment. More come one after another, within this time for
/// each further one: together they ask as much of the store as it can answer in time.
const MOST_AT_ONCE: u32 = 16;
const COME_OF_EACH: Duration = Duration::from_millis(1);

/// A first retry comes after this, each further one after twice the time, up to the heartbeat.
const FIRST_RETRY: Duration = Duration::from_millis(25);

impl Protocol {
    /// When the next step has to be taken.
    pub fn next_look(&self, now: Instant) -> Instant {
        if let Some((since, failures)) = self.lost {
            let pause = FIRST_RETRY * 2_u32.saturating_pow(failures.min(8));
            return since + pause.min(self.timing.heartbeat);
        }
        // While the store merges copies it grants nothing; it knows by then what we want.
        let untold = self.want > self.granted.len() && self.wants.declared() == 0 && !self.merging;
        if self.woken || untold {
            return now;
        }
        let beat = if self.want > 0 {
            self.busy_beat()
        } else {
            self.timing.idle
        };
        let mut next = self.last.map_or(now, |last| last + beat);
        let mut at_latest = |at: Option<Instant>| next = at.map_or(next, |at| next.min(at));
        at_latest(self.called);
        at_latest(self.collecting.map(|since| since + COLLECT));
        at_latest(self.granted.front().map(|(_, until)| *until));
        at_latest(self.due.filter(|_| self.want > 0 || self.merging));
        at_latest(
            self.unsettled
                .filter(|_| !self.merging)
                .map(|since| since + self.tell_within()),
        );
        next
    }

    fn members(&self) -> u32 {
        u32::try_from(self.copy.members.len()).unwrap_or(u32::MAX)
    }

    /// The longest time between two steps while somebody waits here: many replicas look often
    /// enough together.
    fn busy_beat(&self) -> Duration {
        let (least, most) = (self.timing.heartbeat, self.timing.idle.max(self.timing.heartbeat));
        (BEAT_OF_EACH * self.members()).clamp(least, most)
    }

    /// How soon the store hears that something else waits here than it was told: many replicas must
    /// not tell it more often than it can hear.
    fn tell_within(&self) -> Duration {
        (TELL_OF_EACH * self.members()).clamp(COLLECT, self.timing.heartbeat)
    }

    /// The store says when this replica's turn comes, or that it has to look at once.
    pub(in crate::quota::shared) fn wake(&mut self, in_micros: Option<f64>, now: Instant) {
        match in_micros {
            Some(micros) => self.due = Some(now + messages::span(micros).max(SHORTEST)),
            None => self.woken = true,
        }
    }

    /// How long the store may be busy with the others when all ask at once; nothing worth speaking
    /// of among few.
    pub(in crate::quota::shared) fn steps_of_others(&self) -> Duration {
        COME_OF_EACH * self.members().saturating_sub(MOST_AT_ONCE)
    }

    /// All replicas have to look: of many, each at its own moment, soon.
    pub(in crate::quota::shared) fn wake_all(&mut self, now: Instant) {
        let mut hasher = DefaultHasher::new();
        self.terms.me.hash(&mut hasher);
        let within = self.steps_of_others().min(self.timing.merge / 3);
        let at = now + within * u32::from(hasher.finish().to_le_bytes()[0]) / u32::from(u8::MAX);
        self.called = Some(self.called.map_or(at, |called| called.min(at)));
    }
}
