//! The state of sign-in for people.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;

use super::claims::{REQUIRED_ROLE, Roles};
use super::config::Kind;

/// The state of sign-in at one moment, for `/status`, `/readyz?verbose` and `probe`.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The kind of credential.
    pub kind: Kind,
    /// How long the newest token is still valid; `None` without a token, or when it has expired.
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
