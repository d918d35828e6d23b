//! The hosts of one simulator, and what can be done to them.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::action::Action;
use super::config::Behaviour;

use super::neighbour::Neighbour;
use super::wire::Host;
use super::world::{SimState, limiters, unknown_region};

/// Sign-in's host, and the regions' by name.
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

    pub(super) async fn apply(&self, world: &SimState, action: Action) -> io::Result<()> {
        match action {
            Action::Latency {
                region,
                latency,
                jitter,
            } => world.state().change_regions(Some(&region), |behaviour| {
                (behaviour.latency, behaviour.jitter) = (latency, jitter);
            })?,
            Action::Faults { region, plan } => {
                let set = |behaviour: &mut Behaviour| behaviour.faults.clone_from(&plan);
                world.state().change_regions(region.as_deref(), set)?;
            }
            Action::Shut { region } => self.region(&region)?.shut().await?,
            Action::Open { region } => self.region(&region)?.reopen().await?,
            Action::CutConnections { region: Some(region) } => self.region(&region)?.cut_connections(),
            Action::CutConnections { region: None } => self.all().for_each(|host| host.cut_connections()),
            Action::Limits { limits, shape } => {
                let mut state = world.state();
                state.limiters = limiters(state.scope, shape, &limits, state.rejected);
                state.limits = limits;
            }
            Action::SignIn(plan) => world.state().token_service.rules.faults = plan,
            Action::RevokeTokens => world.state().token_service.mint.revoke_all(),
            Action::Secret(secret) => world.state().token_service.change_secret(secret),
            Action::OtherCalls(n) => {
                world.other_calls(n);
            }
            Action::Neighbour(per_hour) => {
                let now = world.elapsed();
                world.state().neighbour = Neighbour::new(per_hour, world.seed, now);
            }
            Action::Scan => world.state().scans += 1,
        }
        Ok(())
    }
}
