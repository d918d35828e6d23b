//! What can be changed while the simulator runs, by a test or by the clock.

use std::time::Duration;

use crate::secret::Secret;

use super::fault::{Fault, Plan, SignInFault};
use super::limit::{Limit, Shape};

/// A change while the simulator runs.
#[derive(Clone, Debug)]
pub enum Action {
    /// A region moves nearer or farther.
    Latency {
        /// Which region.
        region: String,
        /// The new round-trip time.
        latency: Duration,
        /// The new jitter.
        jitter: Duration,
    },
    /// Other things go wrong at a region.
    Faults {
        /// Which region; `None` for all.
        region: Option<String>,
        /// What goes wrong from now on.
        plan: Plan<Fault>,
    },
    /// A region's host goes away, connections included: connecting to it is refused.
    Shut {
        /// Which region.
        region: String,
    },
    /// A region's host comes back, on the same port.
    Open {
        /// Which region.
        region: String,
    },
    /// All connections are reset.
    CutConnections {
        /// Of which region; `None` for all regions and sign-in.
        region: Option<String>,
    },
    /// Other limits. What was counted is forgotten.
    Limits {
        /// The new limits.
        limits: Vec<Limit>,
        /// How they are counted.
        shape: Shape,
    },
    /// Other things go wrong at sign-in.
    SignIn(Plan<SignInFault>),
    /// Every token issued so far gets 401 from now on.
    RevokeTokens,
    /// The app's secret is another from now on. Tokens stay good.
    Secret(Secret),
    /// So many calls of somebody else who uses the same app registration arrive at once.
    OtherCalls(u32),
    /// Somebody else who uses the same app registration makes so many calls an hour from now on, at random moments, and does not come again
    /// when refused; zero for nobody.
    Neighbour(u32),
    /// Every definition is scanned once more: one newer row each.
    Scan,
}

impl Action {
    /// The one region that it is about, if it is about one.
    #[must_use]
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
    /// When, after the start.
    pub at: Duration,
    /// What.
    pub action: Action,
}
