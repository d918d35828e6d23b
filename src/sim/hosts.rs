//! The hosts of one simulator.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::action::Action;
use super::config::Behaviour;

use super::neighbour::Neighbour;
use super::sim_state::{SimState, limiters, unknown_region};
use super::wire::Host;

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
            } => sim_state.state().change_regions(Some(&region), |behaviour| {
                (behaviour.latency, behaviour.jitter) = (latency, jitter);
            })?,
            Action::Faults { region, plan } => {
                let set = |behaviour: &mut Behaviour| behaviour.faults.clone_from(&plan);
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
            Action::SignIn(plan) => sim_state.state().config.sign_in.faults = plan,
            Action::RevokeTokens => sim_state.state().token_service.mint.revoke_all(),
            Action::Secret(secret) => sim_state.state().change_secret(secret),
            Action::OtherCalls(n) => {
                sim_state.other_calls(n);
            }
            Action::Neighbour(per_hour) => {
                let now = sim_state.elapsed();
                let mut state = sim_state.state();
                state.neighbour = Neighbour::new(per_hour, state.config.seed, now);
            }
            Action::Scan => sim_state.state().scans += 1,
        }
        Ok(())
    }
}
