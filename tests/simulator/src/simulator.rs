//! A running simulator, in a test or as a program of its own.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use secrecy::ExposeSecret as _;
use url::Url;

use crate::config::{CLIENT_SECRET, Config, Region};
use crate::control::{Event, Hosts};
use crate::defender;
use crate::entra::Endpoint;
use crate::limit::{QuotaVerifier, Scope};
use crate::operation::Operation;
use crate::record::{CallRecord, TokenRecord, Violation};
use crate::sim_state::SimState;
use crate::tasks::Tasks;
use crate::wire::Host;

/// How long [`Simulator::stop`] waits for answers in progress.
const DRAIN: Duration = Duration::from_millis(500);

/// How long it waits for tasks after that, which it does only when there is a defect.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running simulator. Dropped without [`Simulator::stop`], it ends at once.
#[derive(Debug)]
pub struct Simulator {
    pub(super) sim_state: Arc<SimState>,
    pub(super) hosts: Arc<Hosts>,
}

impl Simulator {
    /// Starts all hosts. When this returns they accept connections. It must be called within a
    /// tokio runtime with time and I/O.
    ///
    /// # Errors
    ///
    /// `InvalidInput` when the configuration is invalid; otherwise the error of binding a port.
    pub fn start(config: Config) -> io::Result<Self> {
        if let Some(mistake) = config.mistake() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, mistake));
        }
        let tasks = Tasks::default();
        let sim_state = Arc::new(SimState::new(config.clone(), tasks.clone()));
        let endpoint = Arc::new(Endpoint {
            sim_state: Arc::clone(&sim_state),
            addr: OnceLock::new(),
        });
        let sign_in = Host::open(config.listen, Arc::clone(&endpoint) as _, config.tls.clone(), &tasks)?;
        // It cannot be set already, because it is set only here.
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
                sim_state: Arc::clone(&sim_state),
            };
            let opened = Host::open(addr, Arc::new(handler), config.tls.clone(), &tasks);
            let opened = opened.inspect_err(|_| hosts.abandon())?;
            hosts.regions.insert(region.name.clone(), opened);
        }
        let simulator = Self {
            sim_state,
            hosts: Arc::new(hosts),
        };
        simulator.follow(config.schedule);
        Ok(simulator)
    }

    fn follow(&self, mut schedule: Vec<Event>) {
        schedule.sort_by_key(|event| event.at);
        let (sim_state, hosts) = (Arc::clone(&self.sim_state), Arc::clone(&self.hosts));
        self.sim_state.tasks.spawn_until_stopped(async move {
            for Event { at, action } in schedule {
                let due = tokio::time::sleep_until(sim_state.started + at);
                if sim_state.stopping.run_until_cancelled(due).await.is_none() {
                    return;
                }
                tracing::info!(?action, "scheduled");
                if let Err(error) = hosts.apply(&sim_state, action).await {
                    tracing::error!(%error, "a scheduled change failed");
                }
            }
        });
    }

    /// The address of sign-in: the value for `credentials.authority`.
    pub fn authority(&self) -> Url {
        url(self.hosts.sign_in.addr())
    }

    /// The regions and their base addresses, in the order of the configuration.
    pub fn regions(&self) -> Vec<(String, Url)> {
        let state = self.sim_state.state();
        let configured = state.config.regions.iter();
        configured
            .filter_map(|region| {
                let host = self.hosts.regions.get(&region.name)?;
                Some((region.name.clone(), url(host.addr())))
            })
            .collect()
    }

    /// The base address of one region.
    pub fn region(&self, name: &str) -> Option<Url> {
        self.hosts.regions.get(name).map(|host| url(host.addr()))
    }

    /// The time since the start, from which the times in records are counted.
    pub fn elapsed(&self) -> Duration {
        self.sim_state.elapsed()
    }

    /// All requests that reached a region's host, in the order of arrival; the oldest may have been
    /// dropped, see [`Config::remember`].
    pub fn calls(&self) -> Vec<CallRecord> {
        self.sim_state.journal.kept(|pages| &pages.calls)
    }

    /// All token requests.
    pub fn token_requests(&self) -> Vec<TokenRecord> {
        self.sim_state.journal.kept(|pages| &pages.tokens)
    }

    /// What clients did that a gateway must never do. A test should end by asserting that this is
    /// empty.
    pub fn violations(&self) -> Vec<Violation> {
        self.sim_state.journal.kept(|pages| &pages.violations)
    }

    /// Verifiers with the arrivals that count together, for the current limits: one, or one for
    /// each operation.
    pub fn quota_verifiers(&self) -> Vec<QuotaVerifier> {
        let scope = self.sim_state.state().config.scope;
        match scope {
            Scope::All => vec![self.judge()],
            Scope::Operation => Operation::ALL.map(|one| self.verifier(|of| of == one)).into(),
        }
    }

    /// A verifier with all arrivals that count, for the current limits.
    pub fn judge(&self) -> QuotaVerifier {
        self.verifier(|_| true)
    }

    fn verifier(&self, counts: impl Fn(Operation) -> bool) -> QuotaVerifier {
        let mut verifier = QuotaVerifier::new(&self.sim_state.state().config.limits);
        let calls = self.calls();
        let counted = calls.iter().filter(|call| call.operation.is_some_and(&counts));
        verifier.extend(counted.map(|call| call.at));
        verifier
    }

    /// A `gateway.toml` that points a gateway here. It does not contain the secret, which comes
    /// from the environment, as `DEFENDER_GATEWAY_CREDENTIALS_CLIENT_SECRET` or
    /// `AZURE_CLIENT_SECRET`.
    pub fn config_toml(&self) -> String {
        use std::fmt::Write as _;
        let config = self.sim_state.state().config.clone();
        let mut text = format!(
            "# The secret comes from the environment: DEFENDER_GATEWAY_CREDENTIALS_CLIENT_SECRET or AZURE_CLIENT_SECRET.\n\
             [credentials]\ntenant_id = {:?}\nclient_id = {:?}\nauthority = {:?}\nscope = {:?}\n",
            config.tenant_id,
            config.client_id,
            base(&self.authority()),
            config.sign_in.scope,
        );
        let is_distant = |region: &Region| !region.latency.is_zero();
        if config.regions.iter().any(is_distant) {
            text += "\n[defender]\n# Without it, the distance of a host at an http address cannot be measured.\nh2c = true\n";
        }
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

    /// Stops: answers in progress have half a second, then connections are reset. Returns how many
    /// tasks are left, which is always 0 unless there is a defect.
    pub async fn stop(&self) -> usize {
        for host in self.hosts.all() {
            host.end().await;
        }
        let tasks = &self.sim_state.tasks;
        let drained = tasks.finish(DRAIN).await;
        if drained == 0 {
            return 0;
        }
        self.sim_state.stopping.cancel();
        self.hosts.all().for_each(|host| host.cut_connections());
        tasks.finish(PATIENCE).await
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.hosts.abandon();
        self.sim_state.stopping.cancel();
    }
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

/// Runs a simulator until `until` resolves. `print` gets whole lines of a gateway's configuration;
/// the addresses, and the summary at the end, are comments in it.
///
/// # Errors
///
/// It could not be started.
pub async fn run(config: Config, mut print: impl FnMut(&str), until: impl Future<Output = ()>) -> io::Result<()> {
    let shows_secret = config.client_secret.expose_secret() == CLIENT_SECRET;
    let serves_tls = config.tls.is_some();
    let simulator = Simulator::start(config)?;
    print(&format!("# sign-in on {}", simulator.authority()));
    if serves_tls {
        print("# every address answers https, too");
    }
    for (name, url) in simulator.regions() {
        print(&format!("# region {name} on {url}"));
    }
    print("");
    for line in simulator.config_toml().lines() {
        print(line);
    }
    if shows_secret {
        print("");
        print(&format!("# export AZURE_CLIENT_SECRET='{CLIENT_SECRET}'"));
    }
    until.await;
    for finding in simulator.quota_verifiers().iter().flat_map(QuotaVerifier::findings) {
        print(&format!("# {finding}"));
    }
    for violation in simulator.violations() {
        print(&format!("# VIOLATION after {:?}: {}", violation.at, violation.what));
    }
    simulator.stop().await;
    Ok(())
}
