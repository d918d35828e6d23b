//! Tells a full window from refusals at random.
//!
//! A refusal that names no window may be the long window's, or come from an upstream that is short
//! of something else and refuses a share of all calls. Believing the latter would lower the pace
//! step by step although nobody else uses the quota. So after a refusal that was believed without
//! proof, calls are let go one after the other as if there were no others. In a full window the
//! first few of them are refused again; when as many are accepted as the pace keeps its distance,
//! the window had room, and the estimate was wrong.
//!
//! Trials that find the window full become rarer, twice each time, since each costs a refusal; one
//! that finds room starts anew.

use std::time::Duration;

use tokio::time::Instant;

/// After each trial that found the window full, twice as many refusals are believed until the next
/// one, up to this power of two.
const MOST_CONFIRMED: u32 = 3;
/// After so many trials that found the window full, a refusal is taken at its word.
const SURE: u32 = 2;
/// Refusals that are asked for in addition, at most.
const MOST_REFUTED: usize = 3;
/// What room the pause has made in a full window is used up by so few calls.
const SOON: usize = 4;

/// What a trial has found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It took too long.
    TooLate,
    /// Another call is needed.
    NotYet,
    /// The window has room.
    Room,
}

/// The trials and what came of them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Trials {
    present: Option<Trial>,
    /// Trials that found the window full, less those that did not say.
    confirmed: u32,
    /// Refusals that were believed without proof since the latest trial.
    unproved: u32,
    /// Trials that found room since the latest one that did not.
    refuted: usize,
}

#[derive(Clone, Copy, Debug)]
struct Trial {
    /// Our own calls that were in the window when a call was refused.
    from: usize,
    /// When it began; `None` while the refusal lasts.
    since: Option<Instant>,
    /// Calls that were accepted since.
    accepted: usize,
}

impl Trials {
    /// Whether calls are let go as if there were no others.
    pub(super) fn is_under_way(&self) -> bool {
        self.present.is_some_and(|trial| trial.since.is_some())
    }

    /// Whether refusals that name no window have lately been found to be the long window's.
    pub(super) fn are_sure(&self) -> bool {
        self.confirmed >= SURE
    }

    /// How many refusals more it takes to believe one: so many trials found room.
    pub(super) fn refuted(&self) -> usize {
        self.refuted
    }

    /// A call was refused, which ends a trial; `believed` says whether the long window is taken to
    /// be full.
    pub(super) fn refused(&mut self, believed: bool) {
        let Some(trial) = self.present.take().filter(|trial| trial.since.is_some()) else {
            return;
        };
        if believed && trial.accepted <= SOON {
            self.confirmed = (self.confirmed + 1).min(MOST_CONFIRMED);
            (self.unproved, self.refuted) = (0, 0);
        } else {
            self.confirmed = self.confirmed.saturating_sub(1);
        }
    }

    /// A refusal was believed without proof, with `own` of our calls in the window.
    pub(super) fn believed(&mut self, own: usize) {
        self.unproved += 1;
        if self.unproved >= 1 << self.confirmed {
            self.present = Some(Trial {
                from: own,
                since: None,
                accepted: 0,
            });
        }
    }

    /// The refusal is over.
    pub(super) fn begin(&mut self, now: Instant) {
        if let Some(trial) = &mut self.present {
            trial.since = Some(now);
        }
    }

    /// What the window holds has changed too much for a trial to tell.
    pub(super) fn give_up(&mut self) {
        self.present = None;
    }

    /// A call was accepted. `answered` of our calls are in the window, `is_all` says whether there
    /// is room for another one by our own count; `climb` more than before the refusal are proof,
    /// within so much time. `None` when no trial is under way.
    pub(super) fn accepted(
        &mut self,
        answered: usize,
        is_all: bool,
        climb: f64,
        within: Duration,
        now: Instant,
    ) -> Option<Found> {
        let trial = self.present.as_mut()?;
        let since = trial.since?;
        trial.accepted += 1;
        let climbed = answered as f64 - trial.from as f64;
        if climbed >= climb || (is_all && climbed > 0.0) {
            *self = Self {
                refuted: (self.refuted + 1).min(MOST_REFUTED),
                ..Self::default()
            };
            return Some(Found::Room);
        }
        if now.saturating_duration_since(since) < within {
            return Some(Found::NotYet);
        }
        self.give_up();
        Some(Found::TooLate)
    }

    /// Nothing is left of an estimate that trials confirmed.
    pub(super) fn forget(&mut self) {
        *self = Self {
            refuted: self.refuted,
            ..Self::default()
        };
    }
}
