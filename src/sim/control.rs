//! The changes that a test or the schedule can make while the simulator runs, and their effect.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use crate::secret::Secret;
use crate::sim::config::{Assertions, Region};
use crate::sim::entra::Certificate;
use crate::sim::fault::{Fault, Plan, SignInFault};
use crate::sim::limit::{Limit, Shape};
use crate::sim::sim_state::Neighbour;
use crate::sim::sim_state::{SimState, limiters, unknown_region};
use crate::sim::simulator::Simulator;
use crate::sim::wire::Host;
use crate::sim::{scenario, span};

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
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Written")]
pub struct Event {
    /// When it happens, after the start.
    pub at: Duration,
    pub action: Action,
}

/// An event in a scenario file. Which other keys there are depends on its action.
#[derive(Debug, Deserialize)]
struct Written {
    #[serde(deserialize_with = "span::deserialize")]
    at: Duration,
    action: String,
    #[serde(flatten)]
    keys: toml::Table,
}

impl TryFrom<Written> for Event {
    type Error = String;

    fn try_from(event: Written) -> Result<Self, String> {
        let at = event.at;
        let action = scenario::variant(event.action, event.keys);
        let action = action.map_err(|error| format!("the event at {}, {error}", span::display(at)))?;
        Ok(Self { at, action })
    }
}

/// Sign-in's host, and the regions' hosts by name.
pub(super) struct Hosts {
    pub(super) sign_in: Arc<Host>,
    pub(super) regions: BTreeMap<String, Arc<Host>>,
}

impl std::fmt::Debug for Hosts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.regions.keys()).finish()
    }
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
    /// Applies a change now. The named methods below are shorthands.
    ///
    /// # Errors
    ///
    /// No region has that name, or its port is not available any more.
    pub async fn apply(&self, action: Action) -> io::Result<()> {
        self.hosts.apply(&self.sim_state, action).await
    }

    /// Moves a region nearer or farther; its jitter goes.
    ///
    /// # Errors
    /// No region has that name.
    pub fn set_latency(&self, region: &str, latency: Duration) -> io::Result<()> {
        self.sim_state.state().change_regions(Some(region), |region| {
            (region.latency, region.jitter) = (latency, Duration::ZERO);
        })
    }

    /// Sets a region's faults; [`Plan::none`] removes them.
    ///
    /// # Errors
    ///
    /// No region has that name.
    pub fn set_faults(&self, region: &str, plan: &Plan<Fault>) -> io::Result<()> {
        let set = |region: &mut Region| region.faults.clone_from(plan);
        self.sim_state.state().change_regions(Some(region), set)
    }

    /// Sets the faults of every region, each with its own counts.
    pub fn set_faults_everywhere(&self, plan: &Plan<Fault>) {
        // There is always a region, so this cannot fail.
        let _ = self
            .sim_state
            .state()
            .change_regions(None, |region| region.faults.clone_from(plan));
    }

    /// Sets the faults of sign-in.
    pub fn set_sign_in_faults(&self, plan: Plan<SignInFault>) {
        self.sim_state.state().config.sign_in.faults = plan;
    }

    /// Sets the roles of tokens issued from now on. Without [`super::ROLE`], Defender answers 403.
    pub fn set_roles(&self, roles: &[&str]) {
        self.sim_state.state().config.sign_in.roles = roles.iter().map(ToString::to_string).collect();
    }

    /// Sets another audience for tokens issued from now on, for which Defender answers 403. `None`
    /// restores the right one.
    pub fn set_audience(&self, audience: Option<&str>) {
        self.sim_state.state().config.sign_in.audience = audience.map(Into::into);
    }

    /// Tokens issued from now on live this long, and should be renewed after `refresh_in`.
    pub fn set_token_lifetime(&self, lifetime: Duration, refresh_in: Option<Duration>) {
        let mut state = self.sim_state.state();
        state.config.token_lifetime = lifetime;
        state.config.sign_in.refresh_in = refresh_in;
    }

    /// Replaces the app's secret; the old one is rejected as expired. Tokens stay valid.
    pub fn set_secret(&self, secret: Secret) {
        self.sim_state.state().change_secret(secret);
    }

    /// How often a signed assertion may be used from now on.
    pub fn set_assertions(&self, uses: Assertions) {
        self.sim_state.state().config.sign_in.assertions = uses;
    }

    /// Registers another certificate for the app.
    pub fn register_certificate(&self, certificate: Certificate) {
        self.sim_state
            .state()
            .token_service
            .federation
            .register_certificate(certificate);
    }

    /// Registers another issuer's token for the app; a second one replaces the first.
    pub fn register_federated_token(&self, token: Secret) {
        self.sim_state.state().token_service.federation.register_token(token);
    }

    /// Every token issued so far gets 401 from now on.
    pub fn revoke_tokens(&self) {
        self.sim_state.state().token_service.mint.revoke_all();
    }

    /// Resets all connections, to all regions and to sign-in.
    pub fn cut_connections(&self) {
        self.hosts.all().for_each(|host| host.cut_connections());
    }

    /// Stops a region's host, connections included. When this returns, connecting is refused.
    ///
    /// # Errors
    ///
    /// No region has that name.
    pub async fn shut(&self, region: &str) -> io::Result<()> {
        self.hosts.region(region)?.shut().await
    }

    /// Starts a region's host again, on the same port.
    ///
    /// # Errors
    ///
    /// No region has that name.
    pub async fn open(&self, region: &str) -> io::Result<()> {
        self.hosts.region(region)?.reopen().await
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

    /// Every definition is scanned once more: one newer row each.
    pub fn scan(&self) {
        self.sim_state.state().scans += 1;
    }
}
