//! The changes that a test or the schedule can make while the simulator runs, and their effect.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use crate::config::{Config, Region};
use crate::fault::{Fault, Plan, SignInFault};
use crate::limit::{Limit, Shape};
use crate::sim_state::{Neighbour, SimState, limiters, unknown_region};
use crate::simulator::Simulator;
use crate::span;
use crate::wire::Host;

/// A change while the simulator runs.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Action {
    /// A region moves nearer or farther.
    Latency {
        region: String,
        /// The new round-trip time.
        #[serde(deserialize_with = "span::deserialize")]
        latency: Duration,
        /// The new jitter.
        #[serde(default, deserialize_with = "span::deserialize")]
        jitter: Duration,
    },
    /// A region's faults change.
    Faults {
        /// Which region; `None` for all.
        region: Option<String>,
        /// The faults from now on.
        faults: Plan<Fault>,
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
    SignIn { faults: Plan<SignInFault> },
    /// Every token issued so far gets 401 from now on.
    RevokeTokens,
    /// This many calls of another client with the same app registration arrive at once.
    OtherCalls { calls: u32 },
    /// Another client with the same app registration makes this many calls an hour from now on, at
    /// random moments, without retries when refused; zero for none.
    Neighbour { per_hour: u32 },
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

/// Sign-in's host, and the regions' hosts by name.
#[derive(Debug)]
pub(super) struct Hosts {
    pub(super) sign_in: Arc<Host>,
    pub(super) regions: BTreeMap<String, Arc<Host>>,
}

impl Hosts {
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Host>> {
        self.regions.values().chain([&self.sign_in])
    }

    pub(super) fn region(&self, name: &str) -> io::Result<&Arc<Host>> {
        self.regions.get(name).ok_or_else(|| unknown_region(name))
    }

    pub(super) fn abandon(&self) {
        self.all().for_each(|host| host.abandon());
    }

    pub(super) async fn apply(&self, sim_state: &SimState, action: Action) -> io::Result<()> {
        match action {
            Action::Latency {
                region,
                latency,
                jitter,
            } => sim_state.state().change_regions(Some(&region), |region| {
                (region.latency, region.jitter) = (latency, jitter);
            })?,
            Action::Faults { region, faults } => {
                let set = |region: &mut Region| region.faults.clone_from(&faults);
                sim_state.state().change_regions(region.as_deref(), set)?;
            }
            Action::Shut { region } => self.region(&region)?.shut().await?,
            Action::Open { region } => self.region(&region)?.reopen().await?,
            Action::CutConnections { region: Some(region) } => self.region(&region)?.cut_connections(),
            Action::CutConnections { region: None } => self.all().for_each(|host| host.cut_connections()),
            Action::Limits { limits, shape } => {
                let mut state = sim_state.state();
                (state.config.limits, state.config.shape) = (limits, shape);
                state.limiters = limiters(&state.config);
            }
            Action::SignIn { faults } => sim_state.state().config.sign_in.faults = faults,
            Action::RevokeTokens => sim_state.state().token_service.mint.revoke_all(),
            Action::OtherCalls { calls } => {
                sim_state.other_calls(calls);
            }
            Action::Neighbour { per_hour } => {
                let now = sim_state.elapsed();
                let mut state = sim_state.state();
                state.neighbour = Neighbour::new(per_hour, state.config.seed, now);
            }
            Action::Scan => sim_state.state().scans += 1,
        }
        Ok(())
    }
}

impl Simulator {
    /// Applies a change now.
    ///
    /// # Errors
    ///
    /// No region has that name, or its port is not available any more.
    pub async fn apply(&self, action: Action) -> io::Result<()> {
        self.hosts.apply(&self.sim_state, action).await
    }

    /// Changes settings that are read with every request: all but the addresses, the names of the
    /// regions, and the limits.
    pub fn change<T>(&self, change: impl FnOnce(&mut Config) -> T) -> T {
        change(&mut self.sim_state.state().config)
    }

    /// Stops sign-in: connecting to it is refused.
    ///
    /// # Errors
    ///
    /// The port could not be held.
    pub async fn shut_sign_in(&self) -> io::Result<()> {
        self.hosts.sign_in.shut().await
    }

    /// Starts sign-in again, on the same port.
    ///
    /// # Errors
    ///
    /// Listening failed.
    pub async fn open_sign_in(&self) -> io::Result<()> {
        self.hosts.sign_in.reopen().await
    }

    /// Another client with the same app registration makes `n` calls at once. Returns how many of
    /// them were admitted.
    pub fn other_calls(&self, n: u32) -> u32 {
        self.sim_state.other_calls(n)
    }
}
