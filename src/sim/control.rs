//! Changes while the simulator runs.

use std::io;
use std::time::Duration;

use super::action::Action;
use super::config::{Assertions, Behaviour};
use super::entra::Certificate;
use super::fault::{Fault, Plan, SignInFault};
use super::simulator::Simulator;
use crate::secret::Secret;

impl Simulator {
    /// Changes something, now. The named methods below are shorthands.
    ///
    /// # Errors
    /// No region has that name, or its port cannot be had again.
    pub async fn apply(&self, action: Action) -> io::Result<()> {
        self.hosts.apply(&self.world, action).await
    }

    /// Moves a region nearer or farther; its jitter goes.
    ///
    /// # Errors
    /// No region has that name.
    pub fn set_latency(&self, region: &str, latency: Duration) -> io::Result<()> {
        self.world.state().change_regions(Some(region), |behaviour| {
            (behaviour.latency, behaviour.jitter) = (latency, Duration::ZERO);
        })
    }

    /// Other things go wrong at a region from now on; [`Plan::none`] mends it.
    ///
    /// # Errors
    /// No region has that name.
    pub fn set_faults(&self, region: &str, plan: &Plan<Fault>) -> io::Result<()> {
        let set = |behaviour: &mut Behaviour| behaviour.faults.clone_from(plan);
        self.world.state().change_regions(Some(region), set)
    }

    /// Other things go wrong at every region from now on, each counting for itself.
    pub fn set_faults_everywhere(&self, plan: &Plan<Fault>) {
        // There is always a region, so this cannot fail.
        let _ = self
            .world
            .state()
            .change_regions(None, |behaviour| behaviour.faults.clone_from(plan));
    }

    /// Other things go wrong at sign-in from now on.
    pub fn set_sign_in_faults(&self, plan: Plan<SignInFault>) {
        self.world.state().token_service.rules.faults = plan;
    }

    /// Tokens issued from now on hold these roles. Without [`super::ROLE`], Defender answers 403.
    pub fn set_roles(&self, roles: &[&str]) {
        self.world.state().token_service.rules.roles = roles.iter().map(ToString::to_string).collect();
    }

    /// Tokens issued from now on are for somebody else: Defender answers 403. `None` makes them right again.
    pub fn set_audience(&self, audience: Option<&str>) {
        self.world.state().token_service.rules.audience = audience.map(Into::into);
    }

    /// Tokens issued from now on live this long, and should be renewed after `refresh_in`.
    pub fn set_token_lifetime(&self, lifetime: Duration, refresh_in: Option<Duration>) {
        let mut state = self.world.state();
        state.token_service.lifetime = lifetime;
        state.token_service.rules.refresh_in = refresh_in;
    }

    /// The app's secret is another from now on; the old one is refused as expired. Tokens stay good.
    pub fn set_secret(&self, secret: Secret) {
        self.world.state().token_service.change_secret(secret);
    }

    /// How often a signed assertion may be used from now on.
    pub fn set_assertions(&self, uses: Assertions) {
        self.world.state().token_service.rules.assertions = uses;
    }

    /// The app can sign in with this certificate's key, too.
    pub fn register_certificate(&self, certificate: Certificate) {
        self.world
            .state()
            .token_service
            .federation
            .register_certificate(certificate);
    }

    /// The app can sign in with this other issuer's token, too; a second one replaces the first.
    pub fn register_federated_token(&self, token: Secret) {
        self.world.state().token_service.federation.register_token(token);
    }

    /// Every token issued so far gets 401 from now on.
    pub fn revoke_tokens(&self) {
        self.world.state().token_service.mint.revoke_all();
    }

    /// Resets all connections, to all regions and to sign-in.
    pub fn cut_connections(&self) {
        self.hosts.all().for_each(|host| host.cut_connections());
    }

    /// A region's host goes away, connections included. When this returns, connecting is refused.
    ///
    /// # Errors
    /// No region has that name.
    pub async fn shut(&self, region: &str) -> io::Result<()> {
        self.hosts.region(region)?.shut().await
    }

    /// A region's host comes back, on the same port.
    ///
    /// # Errors
    /// No region has that name.
    pub async fn open(&self, region: &str) -> io::Result<()> {
        self.hosts.region(region)?.reopen().await
    }

    /// Sign-in goes away: connecting to it is refused.
    ///
    /// # Errors
    /// The port could not be held.
    pub async fn shut_sign_in(&self) -> io::Result<()> {
        self.hosts.sign_in.shut().await
    }

    /// Sign-in comes back, on the same port.
    ///
    /// # Errors
    /// Listening failed.
    pub async fn open_sign_in(&self) -> io::Result<()> {
        self.hosts.sign_in.reopen().await
    }

    /// Somebody else who uses the same app registration makes `n` calls at once. Returns how many of them were admitted.
    #[expect(clippy::must_use_candidate, reason = "most callers want the calls, not the count")]
    pub fn other_calls(&self, n: u32) -> u32 {
        self.world.other_calls(n)
    }

    /// Every definition is scanned once more: one newer row each.
    pub fn scan(&self) {
        self.world.state().scans += 1;
    }
}
