//! A new epoch begins when the store has forgotten what it knew, or its clock has jumped.

use tokio::time::Instant;

use super::{Change, Protocol};
use crate::quota::shared::clock_guard::ClockGuard;
use crate::quota::shared::messages::{self, SyncReply};

/// So many replicas bring their whole copies without being asked.
const FEW: usize = 16;

/// What of our copy has yet to be brought into this epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resync {
    /// All that is wanted is there.
    Nothing,
    /// The charges of our own calls.
    Own,
    /// The whole copy.
    All,
}

impl Protocol {
    pub(super) fn is_clock_right(&mut self, reply: &SyncReply, asked: Instant, now: Instant) -> bool {
        let theirs = reply.now.parse().ok();
        theirs.is_none_or(|theirs| self.clock.is_right(theirs, asked, now))
    }

    /// The store knows less than we do: our copy goes back to it.
    pub(super) fn begin_epoch(&mut self, reply: &SyncReply, asked: Instant, now: Instant) -> Change {
        let epoch = !self.epoch.is_empty();
        self.epoch.clone_from(&reply.epoch);
        self.epochs = messages::number(reply.epochs);
        (self.heard, self.seq, self.r#gen) = (0, 0, 0);
        // Of few, each brings all at once; of many, those who are asked.
        self.resync = match self.copy.asked {
            None => Resync::Nothing,
            Some(_) if self.copy.members.len() <= FEW => Resync::All,
            Some(_) => Resync::Own,
        };
        self.wants.forget_declared();
        // Another server has another clock, and one that has jumped goes on from there.
        if reply.doubted || reply.server.is_none() || reply.server != self.server {
            self.clock = ClockGuard::default();
        }
        self.server.clone_from(&reply.server);
        // What others brought before it jumped would be forgotten too early.
        let is_right = self.is_clock_right(reply, asked, now);
        self.doubted = (!is_right).then(|| reply.epoch.clone());
        self.due = None;
        self.merging = true;
        self.woken = true;
        Change {
            slots: true,
            forecast: true,
            epoch,
            foreign: 0,
        }
    }
}
