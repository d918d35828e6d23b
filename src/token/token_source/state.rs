//! What the background task and the callers share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::token::{Bearer, Error, Roles, Warning};

/// After a renewal that Defender forced, another 401 says nothing new about the token for this long: it is the licence, the app, or
/// one host's own trouble, and renewing again would hammer sign-in.
pub(super) const QUIET: Duration = Duration::from_mins(1);

/// Whether a call that Defender answered with 401 is worth another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A newer token is there, or being asked for: ask the keeper again.
    TryAgain,
    /// A new token would meet the same answer, or cannot be had.
    Final,
}

/// How it stands with sign-in.
#[derive(Clone, Debug, Default)]
pub(super) struct RefreshStatus {
    /// A request is under way.
    pub(super) asking: bool,
    /// Why the latest request failed, and when the next one leaves.
    pub(super) failure: Option<Failure>,
    /// What the newest token says about its permissions.
    pub(super) roles: Roles,
    /// What deserves attention.
    pub(super) warnings: Vec<Warning>,
}

impl RefreshStatus {
    /// The latest failure, if nothing is being done about it at `now`.
    pub(super) fn failing(&self, now: Instant) -> Option<&Failure> {
        self.failure
            .as_ref()
            .filter(|failure| !self.asking && now < failure.until)
    }
}

/// A failure that is not worth repeating yet.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    /// When the next request leaves, if nobody waits for it.
    pub(super) until: Instant,
    /// When it leaves if somebody waits; not before `until` where waiting does not help.
    pub(super) earliest_retry: Instant,
}

impl Failure {
    /// The error, as told at `now`.
    pub(super) fn told(&self, now: Instant) -> Error {
        let wait = self.earliest_retry.saturating_duration_since(now);
        // A request may be under way: what it brings takes a moment.
        self.error.clone().retried_in(wait.max(Duration::from_secs(1)))
    }

    /// Whether it can be over by `patience`: waiting helps with what passes by itself.
    pub(super) fn can_recover_by(&self, patience: Instant) -> bool {
        matches!(self.error, Error::Unavailable { .. }) && self.earliest_retry <= patience
    }
}

/// What is being done about a new token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Renewal {
    /// A request is under way.
    pub(super) is_asking: bool,
    /// The latest one failed, and the next one is not due yet.
    pub(super) is_failing: bool,
}

/// The token, and what Defender said about it.
#[derive(Debug, Default)]
pub(super) struct State {
    newest: ArcSwapOption<Bearer>,
    /// Tokens up to this generation are not handed out while Defender's rejection is being answered with a new one; 0: none.
    withheld: AtomicU64,
    /// Until when a 401 forces no renewal.
    quiet_until: Mutex<Option<Instant>>,
    /// Somebody needs a token that is not there.
    pub(super) wanted: Notify,
}

impl State {
    /// The newest token, expired or not.
    pub(super) fn newest(&self) -> Option<Bearer> {
        self.newest.load().as_deref().cloned()
    }

    /// The token to send at `now`, if there is one. Takes no lock.
    pub(super) fn usable(&self, now: Instant) -> Option<Bearer> {
        // Read first: what is withheld is released only after its successor is there.
        let withheld = self.withheld.load(Ordering::Acquire);
        self.newest()
            .filter(|bearer| bearer.is_usable(now) && bearer.generation() > withheld)
    }

    /// Defender rejected `access_token`. Only the first of all callers with the same token makes it wanted anew.
    pub(super) fn reject(&self, bearer: &Bearer, renewal: Renewal, now: Instant) -> Verdict {
        // Held to the end, so that one renewal cannot end between the questions.
        let quiet_until = self.quiet_until.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = self.newest().map_or(0, |newest| newest.generation());
        let renewed = newest > bearer.generation();
        let being_renewed = self.withheld.load(Ordering::Acquire) >= bearer.generation();
        if renewed || being_renewed {
            return Verdict::TryAgain;
        }
        let is_quiet = quiet_until.is_some_and(|until| now < until);
        // A request that is under way anyway costs nothing to wait for.
        if renewal.is_failing || (is_quiet && !renewal.is_asking) {
            return Verdict::Final;
        }
        self.withheld.store(bearer.generation(), Ordering::Release);
        self.wanted.notify_one();
        Verdict::TryAgain
    }

    /// A request has ended; `renewed` is the token that it brought. Without one, a withheld token goes back into service: it has not
    /// expired, and one 401 is weak evidence.
    pub(super) fn settle(&self, renewed: Option<Bearer>, now: Instant) {
        let mut quiet_until = self.quiet_until.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bearer) = renewed {
            self.newest.store(Some(Arc::new(bearer)));
        }
        if self.withheld.swap(0, Ordering::AcqRel) != 0 {
            *quiet_until = Some(now + QUIET);
        }
    }

    #[cfg(test)]
    pub(super) fn end_quiet(&self) {
        *self.quiet_until.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
