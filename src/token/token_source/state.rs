//! The state that the background task and the callers share, and how it is shown to people.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::secret::Secret;
use crate::token::access_token::{REQUIRED_ROLE, Roles};
use crate::token::config::Kind;
use crate::token::{Bearer, Error};

/// After a forced renewal, another 401 says nothing new about the token for this long: the reason
/// is the licence, the app, or a fault of one host, and renewing again would flood sign-in.
const REJECTION_COOLDOWN: Duration = Duration::from_mins(1);

/// The same when the renewal brought the rejected token again, as the caches of managed identities
/// do: each try costs a call with a token that is known to be rejected.
const SAME_TOKEN_COOLDOWN: Duration = Duration::from_mins(10);

/// So many rejections in a row of a token as invalid are no chance: while sign-in fails it is left
/// alone for [`REJECTION_COOLDOWN`] at a time, after which one call tries it, as each is paid for.
const ENOUGH: u32 = 2;

/// What is shared.
#[derive(Debug, Default)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// Notified when a token is needed and there is none.
    pub(super) wanted: Notify,
}

impl Shared {
    /// Every change is complete before anything can panic.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The token, what Defender said about it, and how signing in goes.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    /// The newest token, expired or not.
    pub(super) newest: Option<Bearer>,
    /// It is not used while a rejection by Defender leads to a renewal.
    is_withheld: bool,
    /// How often Defender has said that it is invalid, since it was last accepted.
    rejections: u32,
    /// When the last of them was reported.
    rejected_at: Option<Instant>,
    /// Until when it is not used because of [`ENOUGH`] of them, unless sign-in brings a token.
    withheld_until: Option<Instant>,
    /// Until when a 401 forces no renewal.
    cooldown_until: Option<Instant>,
    /// A request is under way.
    pub(super) asking: bool,
    /// Why the latest request failed, and when the next one leaves.
    pub(super) failure: Option<Failure>,
    /// What the newest token says about its permissions.
    pub(super) roles: Roles,
    /// What needs attention.
    pub(super) warnings: Vec<Warning>,
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

impl State {
    /// The token to send at `now`, if there is one.
    pub(super) fn usable(&self, now: Instant) -> Option<Bearer> {
        let newest = self.newest.as_ref().filter(|_| !self.is_withheld(now));
        newest.filter(|bearer| bearer.is_usable(now)).cloned()
    }

    /// The same, for a call that is sent with it. One that is withheld for a minute at a time goes to
    /// one call at its end, which finds out for the others: until when it is withheld from them.
    pub(super) fn take(&mut self, now: Instant) -> Option<(Bearer, Option<Instant>)> {
        let bearer = self.usable(now)?;
        let trial = self.withheld_until.map(|_| now + REJECTION_COOLDOWN);
        self.withheld_until = trial;
        Some((bearer, trial))
    }

    /// Lets another call find out at `now`, if the token is still withheld because of the one that
    /// took it `until` then.
    pub(super) fn give_back(&mut self, until: Instant, now: Instant) {
        if self.withheld_until == Some(until) {
            self.withheld_until = Some(now);
        }
    }

    fn is_withheld(&self, now: Instant) -> bool {
        self.is_withheld || self.withheld_until.is_some_and(|until| now < until)
    }

    /// The newest token, expired or not, unless Defender takes it for invalid and sign-in brings no
    /// other.
    pub(super) fn at_hand(&self) -> Option<&Bearer> {
        let is_invalid = self.failure.is_some() && self.rejections >= ENOUGH;
        self.newest.as_ref().filter(|_| !is_invalid)
    }

    /// The latest failure, if no request is under way and the next one is not due at `now`.
    pub(super) fn failing(&self, now: Instant) -> Option<&Failure> {
        self.failure
            .as_ref()
            .filter(|failure| !self.asking && now < failure.until)
    }

    /// Records that Defender rejected the token, and, if it called it invalid, when the call was
    /// sent: calls that were under way together are one rejection. Only the first of all reports
    /// about the same token forces a renewal. Returns whether another attempt is worth its call.
    pub(super) fn reject(&mut self, bearer: &Bearer, invalid: Option<Instant>, now: Instant) -> bool {
        if !self.is_newest(bearer) || self.is_withheld(now) {
            return true;
        }
        if invalid.is_some_and(|sent| self.rejected_at.is_none_or(|at| at <= sent)) {
            self.rejections = self.rejections.saturating_add(1);
            self.rejected_at = Some(now);
        }
        if self.at_hand().is_none() {
            self.withheld_until = Some(now + REJECTION_COOLDOWN);
            return true;
        }
        let is_cooling_down = self.cooldown_until.is_some_and(|until| now < until);
        // Waiting for a request that is under way costs nothing.
        if self.failing(now).is_some() || (is_cooling_down && !self.asking) {
            return false;
        }
        self.is_withheld = true;
        true
    }

    /// Records that Defender accepted the token.
    pub(super) fn accept(&mut self, bearer: &Bearer) {
        if self.is_newest(bearer) {
            (self.rejections, self.withheld_until) = (0, None);
        }
    }

    /// Whether `bearer` is the token that is known already.
    pub(super) fn is_newest(&self, bearer: &Bearer) -> bool {
        let newest = self.newest.as_ref().map(Bearer::generation);
        newest == Some(bearer.generation())
    }

    /// The generation of a token with this text: a new one, unless it is the newest token's.
    pub(super) fn generation_of(&self, token: &Secret) -> u64 {
        match &self.newest {
            Some(newest) if newest.secret().expose() == token.expose() => newest.generation(),
            newest => 1 + newest.as_ref().map_or(0, Bearer::generation),
        }
    }

    /// Records the end of a request. Without a new token, one that was withheld for it is used
    /// again: it has not expired, and one 401 is weak evidence.
    pub(super) fn settle(&mut self, result: Result<Bearer, Failure>, now: Instant) {
        self.asking = false;
        if std::mem::take(&mut self.is_withheld) {
            let is_same = result.as_ref().is_ok_and(|bearer| self.is_newest(bearer));
            let cooldown = if is_same {
                SAME_TOKEN_COOLDOWN
            } else {
                REJECTION_COOLDOWN
            };
            self.cooldown_until = Some(now + cooldown);
        }
        match result {
            Ok(bearer) => {
                (self.rejections, self.withheld_until) = (0, None);
                (self.newest, self.failure) = (Some(bearer), None);
            }
            Err(failure) => self.failure = Some(failure),
        }
    }

    #[cfg(test)]
    pub(super) fn end_cooldown(&mut self) {
        self.cooldown_until = None;
    }
}

/// The state of sign-in at one moment, for `/status`, `/readyz?verbose` and `probe`.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The kind of credential.
    pub kind: Kind,
    /// How long the newest token is still valid; `None` without a token, when it has expired, or
    /// when Defender takes it for invalid and sign-in brings no other.
    pub expires_in: Option<Duration>,
    /// Whether a token request is under way.
    pub refreshing: bool,
    /// Why the latest token request failed; `None` when it succeeded.
    pub last_error: Option<LastError>,
    /// What the newest token says about its permissions.
    pub roles: Roles,
    /// What works today but needs attention.
    pub warnings: Vec<Warning>,
}

/// A failed token request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastError {
    /// A short name: `AADSTS7000215`, `HTTP 503`, `Unreachable`.
    pub code: String,
    /// Sign-in's message, or what went wrong here; it may contain file names, so it is for
    /// operators.
    pub message: String,
    /// What to do, in one sentence.
    pub advice: &'static str,
    /// How long until the next attempt.
    pub retry_in: Duration,
}

/// Something that works today but needs attention.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// The token lacks the permission that the scan history needs; Defender will answer 403.
    RoleMissing,
    /// Users other than the owner and group can read a file with a secret.
    FileTooOpen { path: PathBuf },
    /// The sign-in certificate expires soon, or has expired.
    CertificateExpiry {
        /// When it expires.
        at: Timestamp,
    },
    /// This machine's clock is off by this many seconds (positive: behind) from the sign-in
    /// service's.
    ClockSkew {
        /// In seconds.
        seconds: i64,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RoleMissing => write!(
                f,
                "the token lacks the permission {REQUIRED_ROLE}: add it to the app as an application permission and grant admin \
                 consent, or every call will be answered 403"
            ),
            Self::FileTooOpen { path } => write!(
                f,
                "{} can be read by every user of this machine: restrict its permissions",
                path.display()
            ),
            Self::CertificateExpiry { at } => write!(
                f,
                "the sign-in certificate expires at {at:.0}: register a new one on the app and replace the file"
            ),
            Self::ClockSkew { seconds } => write!(
                f,
                "this machine's clock is {} s {} the sign-in service's: check its time synchronization",
                seconds.unsigned_abs(),
                if *seconds > 0 { "behind" } else { "ahead of" }
            ),
        }
    }
}
