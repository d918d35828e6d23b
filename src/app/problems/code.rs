//! The kinds of problems.

use crate::telemetry::named_enum;
use std::time::Duration;

named_enum! {
    /// A kind of problem. The order is the one in which people should look at them: the worst
    /// first.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub(in crate::app) enum Code, as_str {
        /// No valid token, so no call can be made.
        NoToken = "no-token",
        /// The token lacks a permission that calls need.
        RolesMissing = "roles-missing",
        /// Defender answers 401.
        UpstreamUnauthorized = "upstream-unauthorized",
        /// Defender answers 403.
        UpstreamForbidden = "upstream-forbidden",
        /// Defender answers 5xx, or not at all.
        UpstreamFailing = "upstream-failing",
        /// None of the upstream's hosts can be used.
        NoRegion = "no-region",
        /// The shared store does not answer.
        StoreLost = "store-lost",
        /// Some of the upstream's hosts cannot be used.
        RegionLost = "region-lost",
        /// The token is valid, and cannot be renewed.
        SignInFailing = "sign-in-failing",
        /// The shared store may remove the ledger when its memory is full.
        StoreEvicting = "store-evicting",
        /// The upstream ordered a pause.
        Paused = "paused",
        /// Callers ask for more than a window allows.
        QuotaSpent = "quota-spent",
        /// Callers ask for more than the pace allows that spreads the longest window.
        Paced = "paced",
        /// As many callers' connections are open as may be.
        ConnectionsFull = "connections-full",
        /// The configuration as it is written is wrong, or its credentials bring no token.
        ConfigRefused = "config-refused",
        /// The configuration as it is written needs a restart.
        ConfigPending = "config-pending",
        /// Merging has been switched off for a while.
        MergeResting = "merge-resting",
    }
}

named_enum! {
    /// How bad a problem is.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub(in crate::app) enum Severity, as_str {
        /// Callers get no answers, or soon will not.
        Critical = "critical",
        /// Less works than should.
        Warning = "warning",
        /// Worth knowing.
        Info = "info",
    }
}

impl Code {
    /// How bad it is.
    pub(in crate::app) fn severity(self) -> Severity {
        if self <= Self::StoreLost {
            Severity::Critical
        } else if self <= Self::ConfigRefused {
            Severity::Warning
        } else {
            Severity::Info
        }
    }

    /// How long it stays in the list after it was last seen: what comes and goes with every request
    /// is one problem, not a hundred.
    pub(super) fn linger(self) -> Duration {
        match self {
            Self::QuotaSpent | Self::Paced | Self::ConnectionsFull => Duration::from_mins(1),
            _ => Duration::ZERO,
        }
    }
}
