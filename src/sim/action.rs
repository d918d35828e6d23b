//! The changes that a test or the schedule can make while the simulator runs.

use std::time::Duration;

use crate::secret::Secret;

use super::fault::{Fault, Plan, SignInFault};
use super::limit::{Limit, Shape};

/// A change while the simulator runs.
#[derive(Clone, Debug)]
pub enum Action {
    /// A region moves nearer or farther.
    Latency {
        region: String,
        /// The new round-trip time.
        latency: Duration,
        /// The new jitter.
        jitter: Duration,
    },
    /// A region's faults change.
    Faults {
        /// Which region; `None` for all.
        region: Option<String>,
        /// The faults from now on.
        plan: Plan<Fault>,
    },
    /// A region's host stops, connections included: connecting to it is refused.
    Shut { region: String },
    /// A region's host starts again, on the same port.
    Open { region: String },
    /// All connections are reset.
    CutConnections {
        /// Of which region; `None` for all regions and sign-in.
        region: Option<String>,
    },
    /// The limits change. Their counts start from zero.
    Limits {
        /// The new limits.
        limits: Vec<Limit>,
        /// How they are counted.
        shape: Shape,
    },
    /// The faults of sign-in change.
    SignIn(Plan<SignInFault>),
    /// Every token issued so far gets 401 from now on.
    RevokeTokens,
    /// The app's secret changes. Tokens stay valid.
    Secret(Secret),
    /// This many calls of another client with the same app registration arrive at once.
    OtherCalls(u32),
    /// Another client with the same app registration makes this many calls an hour from now on, at
    /// random moments, without retries when refused; zero for none.
    Neighbour(u32),
    /// Every definition is scanned once more: one newer row each.
    Scan,
}

impl Action {
    /// The one region that the change is about, if there is one.
    pub fn region(&self) -> Option<&str> {
        match self {
            Self::Latency { region, .. } | Self::Shut { region } | Self::Open { region } => Some(region),
            Self::Faults { region, .. } | Self::CutConnections { region } => region.as_deref(),
            _ => None,
        }
    }
}

/// A change at a set time.
#[derive(Clone, Debug)]
pub struct Event {
    /// When it happens, after the start.
    pub at: Duration,
    pub action: Action,
}
