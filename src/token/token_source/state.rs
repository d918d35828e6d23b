//! The state that the background task and the callers share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::token::{Bearer, Error, Roles, Warning};

/// After a forced renewal, another 401 says nothing new about the token for this long: the reason
/// is the licence, the app, or a fault of one host, and renewing again would flood sign-in.
pub(super) const REJECTION_COOLDOWN: Duration = Duration::from_mins(1);

/// Whether a call that Defender answered with 401 is worth another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectionOutcome {
    /// There is a newer token, or one is being requested: ask the token source again.
    TryAgain,
    /// A new token would be rejected as well, or is not available.
    Final,
}

/// The status of sign-in.
#[derive(Clone, Debug, Default)]
pub(super) struct RefreshStatus {
    /// A request is under way.
    pub(super) asking: bool,
    /// Why the latest request failed, and when the next one leaves.
    pub(super) failure: Option<Failure>,
    /// What the newest token says about its permissions.
    pub(super) roles: Roles,
    /// What needs attention.
    pub(super) warnings: Vec<Warning>,
}

impl RefreshStatus {
    /// The latest failure, if no request is under way and the next one is not due at `now`.
    pub(super) fn failing(&self, now: Instant) -> Option<&Failure> {
        self.failure
            .as_ref()
            .filter(|failure| !self.asking && now < failure.until)
    }
}

/// A failed request that is not yet repeated.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    /// When the next request leaves if nothing waits for it.
    pub(super) until: Instant,
    /// When it leaves if a request waits; not before `until` where waiting does not help.
    pub(super) earliest_retry: Instant,
}

impl Failure {
    /// The error as returned at `now`.
    pub(super) fn as_of(&self, now: Instant) -> Error {
        let wait = self.earliest_retry.saturating_duration_since(now);
        // A request may be under way, which takes a moment.
        self.error.clone().retried_in(wait.max(Duration::from_secs(1)))
    }

    /// Whether it may be over by `patience`: waiting helps with temporary failures.
    pub(super) fn can_recover_by(&self, patience: Instant) -> bool {
        matches!(self.error, Error::Unavailable { .. }) && self.earliest_retry <= patience
    }
}

/// The token, and what Defender said about it.
#[derive(Debug, Default)]
pub(super) struct State {
    newest: ArcSwapOption<Bearer>,
    /// Tokens up to this generation are not used while a rejection by Defender leads to a renewal;
    /// 0 for none.
    withheld: AtomicU64,
    /// Until when a 401 forces no renewal.
    cooldown_until: Mutex<Option<Instant>>,
    /// Notified when a token is needed and there is none.
    pub(super) wanted: Notify,
}

impl State {
    /// The newest token, expired or not.
    pub(super) fn newest(&self) -> Option<Bearer> {
        self.newest.load().as_deref().cloned()
    }

    /// The token to send at `now`, if there is one. It takes no lock.
    pub(super) fn usable(&self, now: Instant) -> Option<Bearer> {
        // Read first: a withheld token is released only after its successor is stored.
        let withheld = self.withheld.load(Ordering::Acquire);
        self.newest()
            .filter(|bearer| bearer.is_usable(now) && bearer.generation() > withheld)
    }

    /// Records that Defender rejected the token. Only the first of all reports about the same token
    /// forces a renewal.
    pub(super) fn reject(&self, bearer: &Bearer, status: &RefreshStatus, now: Instant) -> RejectionOutcome {
        // Held to the end, so that a renewal cannot end between the checks.
        let cooldown_until = self.cooldown_until.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = self.newest().map_or(0, |newest| newest.generation());
        let renewed = newest > bearer.generation();
        let being_renewed = self.withheld.load(Ordering::Acquire) >= bearer.generation();
        if renewed || being_renewed {
            return RejectionOutcome::TryAgain;
        }
        let is_cooling_down = cooldown_until.is_some_and(|until| now < until);
        // Waiting for a request that is under way costs nothing.
        if status.failing(now).is_some() || (is_cooling_down && !status.asking) {
            return RejectionOutcome::Final;
        }
        self.withheld.store(bearer.generation(), Ordering::Release);
        self.wanted.notify_one();
        RejectionOutcome::TryAgain
    }

    /// Records the end of a request; `renewed` is the new token. Without one, a withheld token is
    /// used again: it has not expired, and one 401 is weak evidence.
    pub(super) fn settle(&self, renewed: Option<Bearer>, now: Instant) {
        let mut cooldown_until = self.cooldown_until.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bearer) = renewed {
            self.newest.store(Some(Arc::new(bearer)));
        }
        if self.withheld.swap(0, Ordering::AcqRel) != 0 {
            *cooldown_until = Some(now + REJECTION_COOLDOWN);
        }
    }

    #[cfg(test)]
    pub(super) fn end_cooldown(&self) {
        *self.cooldown_until.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
