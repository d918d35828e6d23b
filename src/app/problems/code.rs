//! The kinds of problems.

use std::time::Duration;

/// A kind of problem. The order is the one in which people should look at them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::app) enum Code {
    /// No valid token, so no call can be made.
    NoToken,
    /// The token lacks a permission that calls need.
    RolesMissing,
    /// Defender answers 401.
    UpstreamUnauthorized,
    /// Defender answers 403.
    UpstreamForbidden,
    /// Defender answers 5xx, or not at all.
    UpstreamFailing,
    /// None of the upstream's hosts can be used.
    NoRegion,
    /// The shared store does not answer.
    StoreLost,
    /// Some of the upstream's hosts cannot be used.
    RegionLost,
    /// The token is valid, and cannot be renewed.
    SignInFailing,
    /// The shared store may remove the ledger when its memory is full.
    StoreEvicting,
    /// The upstream ordered a pause.
    Paused,
    /// Callers ask for more than a window allows.
    QuotaSpent,
    /// Callers ask for more than the pace allows that spreads the longest window.
    Paced,
    /// As many callers' connections are open as may be.
    ConnectionsFull,
    /// The configuration as it is written is wrong; the next start would refuse it.
    ConfigRefused,
    /// The configuration as it is written needs a restart.
    ConfigPending,
    /// Merging has been switched off for a while.
    MergeResting,
}

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::app) enum Severity {
    /// Callers get no answers, or soon will not.
    Critical,
    /// Less works than should.
    Warning,
    /// Worth knowing.
    Info,
}

impl Severity {
    /// The name in `/status`.
    pub(in crate::app) fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

impl Code {
    /// All of them, in their order.
    pub(in crate::app) const ALL: [Self; 17] = [
        Self::NoToken,
        Self::RolesMissing,
        Self::UpstreamUnauthorized,
        Self::UpstreamForbidden,
        Self::UpstreamFailing,
        Self::NoRegion,
        Self::StoreLost,
        Self::RegionLost,
        Self::SignInFailing,
        Self::StoreEvicting,
        Self::Paused,
        Self::QuotaSpent,
        Self::Paced,
        Self::ConnectionsFull,
        Self::ConfigRefused,
        Self::ConfigPending,
        Self::MergeResting,
    ];

    /// The name in `/status`, metrics and logs.
    pub(in crate::app) fn as_str(self) -> &'static str {
        match self {
            Self::NoToken => "no-token",
            Self::RolesMissing => "roles-missing",
            Self::UpstreamUnauthorized => "upstream-unauthorized",
            Self::UpstreamForbidden => "upstream-forbidden",
            Self::UpstreamFailing => "upstream-failing",
            Self::NoRegion => "no-region",
            Self::StoreLost => "store-lost",
            Self::RegionLost => "region-lost",
            Self::SignInFailing => "sign-in-failing",
            Self::StoreEvicting => "store-evicting",
            Self::Paused => "paused",
            Self::QuotaSpent => "quota-spent",
            Self::Paced => "paced",
            Self::ConnectionsFull => "connections-full",
            Self::ConfigRefused => "config-refused",
            Self::ConfigPending => "config-pending",
            Self::MergeResting => "merge-resting",
        }
    }

    /// How bad it is.
    pub(in crate::app) fn severity(self) -> Severity {
        match self {
            Self::NoToken
            | Self::RolesMissing
            | Self::UpstreamUnauthorized
            | Self::UpstreamForbidden
            | Self::UpstreamFailing
            | Self::NoRegion
            | Self::StoreLost => Severity::Critical,
            Self::RegionLost
            | Self::SignInFailing
            | Self::StoreEvicting
            | Self::Paused
            | Self::QuotaSpent
            | Self::Paced
            | Self::ConnectionsFull
            | Self::ConfigRefused => Severity::Warning,
            Self::ConfigPending | Self::MergeResting => Severity::Info,
        }
    }

    /// How long it stays in the list after it was last seen: what comes and goes with every request is one problem, not a hundred.
    pub(super) fn linger(self) -> Duration {
        match self {
            Self::QuotaSpent | Self::Paced | Self::ConnectionsFull => Duration::from_mins(1),
            _ => Duration::ZERO,
        }
    }
}
