//! A running simulator.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use url::Url;

use super::action::{Action, Event};
use super::config::Config;
use super::defender;
use super::entra::{Certificate, Endpoint};
use super::fault::{Fault, Plan, SignInFault};
use super::limit::{Judge, Limiter};
use super::record::{CallRecord, TimedOut, TokenRecord, Violation};
use super::wire::Host;
use super::world::{World, unknown_region};
use crate::secret::Secret;
use crate::task::Tasks;

/// How long the waiting helpers wait. Only a test that fails waits this long.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long [`Simulator::stop`] lets answers in progress end.
const DRAIN: Duration = Duration::from_millis(500);

/// A running simulator. Dropped without [`Simulator::stop`], it ends at once.
#[derive(Debug)]
pub struct Simulator {
    world: Arc<World>,
    hosts: Arc<Hosts>,
    config: Config,
}

struct Hosts {
    sign_in: Arc<Host>,
    regions: BTreeMap<String, Arc<Host>>,
}

impl std::fmt::Debug for Hosts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.regions.keys()).finish()
    }
}

impl Simulator {
    /// Starts all hosts. When this returns they accept connections. It must be called within a tokio runtime with time and I/O.
    ///
    /// # Errors
    /// `InvalidInput` when the configuration makes no sense; otherwise what binding the ports brought.
    ///
    /// # Cancel safety
    /// Dropped before it is done, it leaves nothing behind.
    pub async fn start(config: Config) -> io::Result<Self> {
        if let Some(mistake) = config.mistake() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, mistake));
        }
        let tasks = Tasks::new();
        let world = Arc::new(World::new(&config, tasks.clone()));
        let endpoint = Arc::new(Endpoint {
            world: Arc::clone(&world),
            addr: OnceLock::new(),
        });
        let sign_in = Host::open(config.listen, Arc::clone(&endpoint) as _, &tasks)?;
        // It cannot be set already: this is its only place.
        let _ = endpoint.addr.set(sign_in.addr());
        let mut hosts = Hosts {
            sign_in,
            regions: BTreeMap::new(),
        };
        for (port, region) in (config.listen.port()..).skip(1).zip(&config.regions) {
            let port = if config.listen.port() == 0 { 0 } else { port };
            let addr = SocketAddr::new(config.listen.ip(), port);
            let handler = defender::Region {
                name: region.name.clone(),
                world: Arc::clone(&world),
            };
            let opened = Host::open(addr, Arc::new(handler), &tasks).inspect_err(|_| hosts.abandon())?;
            hosts.regions.insert(region.name.clone(), opened);
        }
        let simulator = Self {
            world,
            hosts: Arc::new(hosts),
            config,
        };
        simulator.follow_schedule();
        Ok(simulator)
    }

    fn follow_schedule(&self) {
        let mut schedule: Vec<Event> = self.config.schedule.clone();
        schedule.sort_by_key(|event| event.at);
        let (world, hosts) = (Arc::clone(&self.world), Arc::clone(&self.hosts));
        self.world.tasks.spawn_upkeep("schedule", async move {
            for Event { at, action } in schedule {
                tokio::select! {
                    () = world.stopping.cancelled() => return,
                    () = tokio::time::sleep_until(world.moment(at)) => {}
                }
                tracing::info!(?action, "scheduled");
                if let Err(error) = hosts.apply(&world, action).await {
                    tracing::error!(%error, "a scheduled change failed");
                }
            }
        });
    }

    /// Where sign-in is: what belongs into `credentials.authority`.
    #[must_use]
    pub fn authority(&self) -> Url {
        url(self.hosts.sign_in.addr())
    }

    /// The regions and their base addresses, in the order of the configuration.
    #[must_use]
    pub fn regions(&self) -> Vec<(String, Url)> {
        let configured = self.config.regions.iter();
        configured
            .filter_map(|region| {
                let host = self.hosts.regions.get(&region.name)?;
                Some((region.name.clone(), url(host.addr())))
            })
            .collect()
    }

    /// The base address of one region.
    #[must_use]
    pub fn region(&self, name: &str) -> Option<Url> {
        self.hosts.regions.get(name).map(|host| url(host.addr()))
    }

    /// Where the virtual machine's form of managed identity answers.
    #[must_use]
    pub fn imds_endpoint(&self) -> String {
        format!("http://{}/metadata/identity/oauth2/token", self.hosts.sign_in.addr())
    }

    /// Where the App Service form answers: the value of `IDENTITY_ENDPOINT`. `IDENTITY_HEADER` is [`super::IDENTITY_HEADER`].
    #[must_use]
    pub fn app_service_endpoint(&self) -> String {
        format!("http://{}/msi/token", self.hosts.sign_in.addr())
    }

    /// The time since the start: what the times in records count from.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.world.elapsed()
    }

    /// All requests that reached a region's host, in the order of arrival; the oldest may be forgotten, see [`Config::remember`].
    #[must_use]
    pub fn calls(&self) -> Vec<CallRecord> {
        self.world.journal.calls()
    }

    /// All token requests.
    #[must_use]
    pub fn token_requests(&self) -> Vec<TokenRecord> {
        self.world.journal.token_requests()
    }

    /// What clients did that a gateway must never do. A test should end by asserting that there is nothing.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        self.world.journal.violations()
    }

    /// A judge who has seen all arrivals that count, for the limits of the configuration.
    #[must_use]
    pub fn judge(&self) -> Judge {
        let mut judge = Judge::new(&self.config.limits);
        judge.extend(self.calls().iter().filter(|call| call.is_operation).map(|call| call.at));
        judge
    }

    /// Waits until at least `n` requests have arrived since the start, ten seconds at most.
    ///
    /// # Errors
    /// Fewer arrived in time.
    pub async fn wait_for_calls(&self, n: u64) -> Result<Vec<CallRecord>, TimedOut> {
        let journal = &self.world.journal;
        journal.wait("calls", n, PATIENCE, |seen| seen.calls).await?;
        Ok(journal.calls())
    }

    /// Waits until at least `n` requests have been settled (answered, cut or swallowed) since the start, ten seconds at most.
    ///
    /// # Errors
    /// Fewer were settled in time.
    pub async fn wait_for_settled(&self, n: u64) -> Result<Vec<CallRecord>, TimedOut> {
        let journal = &self.world.journal;
        journal.wait("settled calls", n, PATIENCE, |seen| seen.answered).await?;
        Ok(journal.calls())
    }

    /// Waits until at least `n` token requests have been answered since the start, ten seconds at most.
    ///
    /// # Errors
    /// Fewer were answered in time.
    pub async fn wait_for_token_requests(&self, n: u64) -> Result<Vec<TokenRecord>, TimedOut> {
        let journal = &self.world.journal;
        journal
            .wait("token requests", n, PATIENCE, |seen| seen.token_requests)
            .await?;
        Ok(journal.token_requests())
    }

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
        let set = |behaviour: &mut super::Behaviour| behaviour.faults.clone_from(plan);
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
        self.world.state().desk.rules.faults = plan;
    }

    /// Tokens issued from now on hold these roles. Without [`super::ROLE`], Defender answers 403.
    pub fn set_roles(&self, roles: &[&str]) {
        self.world.state().desk.rules.roles = roles.iter().map(ToString::to_string).collect();
    }

    /// Tokens issued from now on are for somebody else: Defender answers 403. `None` makes them right again.
    pub fn set_audience(&self, audience: Option<&str>) {
        self.world.state().desk.rules.audience = audience.map(Into::into);
    }

    /// Tokens issued from now on live this long, and should be renewed after `refresh_in`.
    pub fn set_token_lifetime(&self, lifetime: Duration, refresh_in: Option<Duration>) {
        let mut state = self.world.state();
        state.desk.lifetime = lifetime;
        state.desk.rules.refresh_in = refresh_in;
    }

    /// The app's secret is another from now on; the old one is refused as expired. Tokens stay good.
    pub fn set_secret(&self, secret: Secret) {
        self.world.state().desk.change_secret(secret);
    }

    /// The app can sign in with this certificate's key, too.
    pub fn register_certificate(&self, certificate: Certificate) {
        self.world.state().desk.federation.register_certificate(certificate);
    }

    /// The app can sign in with this other issuer's token, too; a second one replaces the first.
    pub fn register_federated_token(&self, token: Secret) {
        self.world.state().desk.federation.register_token(token);
    }

    /// Every token issued so far gets 401 from now on.
    pub fn revoke_tokens(&self) {
        self.world.state().desk.mint.revoke_all();
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
    pub fn other_calls(&self, n: u32) -> u32 {
        other_calls(&self.world, n)
    }

    /// Every definition is scanned once more: one newer row each.
    pub fn scan(&self) {
        self.world.state().scans += 1;
    }

    /// A `gateway.toml` that points a gateway here. The secret is not in it: it comes from the environment, as
    /// `DEFENDER_GATEWAY_CREDENTIALS_CLIENT_SECRET` or `AZURE_CLIENT_SECRET`.
    #[must_use]
    pub fn config_toml(&self) -> String {
        use std::fmt::Write as _;
        let scope = self.world.state().desk.rules.scope.clone();
        let mut text = format!(
            "# The secret comes from the environment: DEFENDER_GATEWAY_CREDENTIALS_CLIENT_SECRET or AZURE_CLIENT_SECRET.\n\
             [credentials]\ntenant_id = {:?}\nclient_id = {:?}\nauthority = {:?}\nscope = {scope:?}\n",
            self.config.tenant_id,
            self.config.client_id,
            base(&self.authority()),
        );
        for (name, url) in self.regions() {
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                "\n[[defender.regions]]\nname = {name:?}\nurl = {:?}\n",
                base(&url)
            );
        }
        text
    }

    /// Ends: answers in progress have half a second, then connections are reset. Returns how many tasks were left behind, which is
    /// always 0 unless something is broken.
    pub async fn stop(self) -> usize {
        for host in self.hosts.all() {
            host.end().await;
        }
        let tasks = &self.world.tasks;
        let drained = tasks.finish(DRAIN).await;
        if drained == 0 {
            return 0;
        }
        self.world.stopping.cancel();
        self.cut_connections();
        tasks.finish(PATIENCE).await
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.hosts.abandon();
        self.world.stopping.cancel();
    }
}

impl Hosts {
    fn all(&self) -> impl Iterator<Item = &Arc<Host>> {
        self.regions.values().chain([&self.sign_in])
    }

    fn region(&self, name: &str) -> io::Result<&Arc<Host>> {
        self.regions.get(name).ok_or_else(|| unknown_region(name))
    }

    fn abandon(&self) {
        self.all().for_each(|host| host.abandon());
    }

    async fn apply(&self, world: &World, action: Action) -> io::Result<()> {
        match action {
            Action::Latency {
                region,
                latency,
                jitter,
            } => world.state().change_regions(Some(&region), |behaviour| {
                (behaviour.latency, behaviour.jitter) = (latency, jitter);
            })?,
            Action::Faults { region, plan } => {
                let set = |behaviour: &mut super::Behaviour| behaviour.faults.clone_from(&plan);
                world.state().change_regions(region.as_deref(), set)?;
            }
            Action::Shut { region } => self.region(&region)?.shut().await?,
            Action::Open { region } => self.region(&region)?.reopen().await?,
            Action::CutConnections { region: Some(region) } => self.region(&region)?.cut_connections(),
            Action::CutConnections { region: None } => self.all().for_each(|host| host.cut_connections()),
            Action::Limits { limits, shape } => {
                let mut state = world.state();
                state.limiter = Limiter::new(shape, &limits).counting(state.rejected);
            }
            Action::SignIn(plan) => world.state().desk.rules.faults = plan,
            Action::RevokeTokens => world.state().desk.mint.revoke_all(),
            Action::Secret(secret) => world.state().desk.change_secret(secret),
            Action::OtherCalls(n) => {
                other_calls(world, n);
            }
            Action::Scan => world.state().scans += 1,
        }
        Ok(())
    }
}

fn other_calls(world: &World, n: u32) -> u32 {
    let mut state = world.state();
    let at = world.elapsed();
    (0..n).fold(0, |admitted, _| admitted + u32::from(state.limiter.arrive(at).is_ok()))
}

fn url(addr: SocketAddr) -> Url {
    #[expect(
        clippy::expect_used,
        reason = "the text of a socket address behind http:// is always a URL"
    )]
    let url = Url::parse(&format!("http://{addr}")).expect("an address makes a URL");
    url
}

/// A base address as people write it: without the slash at the end.
fn base(url: &Url) -> &str {
    url.as_str().trim_end_matches('/')
}
