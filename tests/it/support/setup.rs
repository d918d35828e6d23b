//! The builder, and what it starts.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use defender_gateway::testing::app::{Applied, ConfigSource, Ended, Gateway, HostEnvironment, ReloadError, Reloader};
use defender_gateway::testing::config::{Document, Environment, Key};
use defender_gateway::testing::sim::{self, Shape, Simulator};
use defender_gateway::testing::task::Tasks;

use super::program::Program;
use super::{Caller, until, within};

/// What the test needs, over a simulator without latency, the documented limits, and a gateway with
/// its defaults.
pub(crate) struct Setup {
    simulator: sim::Config,
    variables: Vec<(String, String)>,
    written: Vec<(String, String)>,
    secret: String,
    environment: HostEnvironment,
}

impl Setup {
    pub(crate) fn new() -> Self {
        Self {
            simulator: sim::Config {
                regions: Vec::new(),
                ..sim::Config::instant()
            },
            variables: Vec::new(),
            written: Vec::new(),
            secret: sim::CLIENT_SECRET.into(),
            environment: HostEnvironment::default(),
        }
        .set("server.listen", "127.0.0.1:0")
        .set("admin.listen", "127.0.0.1:0")
    }

    /// One more region. Without any, there is `eu`, at no distance.
    pub(crate) fn region(mut self, name: &str, latency_ms: u64) -> Self {
        let region = sim::Region::new(name, Duration::from_millis(latency_ms));
        self.simulator.regions.push(region);
        self
    }

    /// These limits, at the simulator and in the gateway.
    pub(crate) fn limits(self, shape: Shape, limits: &[&str]) -> Self {
        let own = self.set("quota.limits", &limits.join(","));
        own.upstream_limits(shape, limits)
    }

    /// These limits at the simulator alone.
    pub(crate) fn upstream_limits(mut self, shape: Shape, limits: &[&str]) -> Self {
        self.simulator.shape = shape;
        self.simulator.limits = limits.iter().map(|limit| limit.parse().unwrap()).collect();
        self
    }

    /// Another change at the simulator.
    pub(crate) fn simulator(mut self, change: impl FnOnce(&mut sim::Config)) -> Self {
        change(&mut self.simulator);
        self
    }

    /// The gateway's key `path`, such as `cache.ttl`. It goes in by the key's variable.
    pub(crate) fn set(mut self, path: &str, value: &str) -> Self {
        let name = format!("{}{}", Key::PREFIX, path.replace('.', "_").to_uppercase());
        self.variables.push((name, value.into()));
        self
    }

    /// The same, written into the file, where it can change while the gateway runs. `value` is
    /// TOML.
    pub(crate) fn write(mut self, path: &str, value: &str) -> Self {
        self.written.push((path.into(), value.into()));
        self
    }

    /// Another environment variable of the gateway.
    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// A change of what the configuration of a gateway in this process does not say.
    pub(crate) fn environment(mut self, change: impl FnOnce(&mut HostEnvironment)) -> Self {
        change(&mut self.environment);
        self
    }

    /// What the gateway believes to be its secret.
    pub(crate) fn secret(mut self, secret: &str) -> Self {
        self.secret = secret.into();
        self
    }

    /// Starts both, the gateway in this process, and waits until the nearest region is known and a
    /// sign-in has ended.
    pub(crate) async fn start(self) -> Running {
        // A gateway under construction is big, and tests hold many futures.
        Box::pin(self.start_both()).await
    }

    async fn start_both(self) -> Running {
        let environment = self.environment.clone();
        let (simulator, toml, variables) = self.simulate();
        let source = ConfigSource::new(None, Environment::from_iter(variables));
        let loaded = source.resolve(&Document::new(Path::new("gateway.toml"), toml.clone()));
        let loaded = loaded.unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let gateway = Gateway::start_in(&loaded.resolved, environment).await.unwrap();
        let caller = Caller::http1(&gateway.addresses()[0].to_string());
        let admin = Caller::http1(&gateway.admin_address().to_string());
        let stop = gateway.stop_token();
        let reloader = gateway.reloader().clone();
        let serving = Tasks::new().spawn("gateway", gateway.serve());
        let running = Running {
            simulator,
            caller,
            admin,
            stop,
            serving,
            reloader,
            source,
            toml,
        };
        running.settled().await;
        running
    }

    /// Starts one more gateway, in this process, for the simulator that `toml` names.
    pub(crate) async fn start_at(mut self, toml: &str) -> Replica {
        self.variables.push(("AZURE_CLIENT_SECRET".into(), self.secret));
        let source = ConfigSource::new(None, Environment::from_iter(self.variables));
        let loaded = source.resolve(&Document::new(Path::new("gateway.toml"), toml.to_owned()));
        let loaded = loaded.unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let gateway = Box::pin(Gateway::start_in(&loaded.resolved, self.environment))
            .await
            .unwrap();
        let caller = Caller::http1(&gateway.addresses()[0].to_string());
        let admin = Caller::http1(&gateway.admin_address().to_string());
        let stop = gateway.stop_token();
        let serving = Tasks::new().spawn("gateway", gateway.serve());
        settled(&admin).await;
        Replica {
            caller,
            admin,
            stop,
            serving,
        }
    }

    /// Starts both, the gateway as a program of its own.
    pub(crate) async fn spawn(self) -> Spawned {
        let (simulator, toml, variables) = self.simulate();
        let spawned = Spawned {
            gateway: Program::gateway(&toml, &variables).await,
            simulator,
            toml,
            variables,
        };
        settled(&spawned.gateway.admin()).await;
        spawned
    }

    /// The same, with the program behind a few words of the shell, which set its limits.
    pub(crate) async fn spawn_behind(self, limits: &str) -> Spawned {
        let (simulator, toml, variables) = self.simulate();
        let gateway = Program::limited_gateway(limits, &toml, &variables);
        gateway.line("listening on ").await;
        gateway.line("admin on ").await;
        let spawned = Spawned {
            simulator,
            gateway,
            toml,
            variables,
        };
        settled(&spawned.gateway.admin()).await;
        spawned
    }

    fn simulate(mut self) -> (Simulator, String, Vec<(String, String)>) {
        if self.simulator.regions.is_empty() {
            self = self.region("eu", 0);
        }
        let simulator = Simulator::start(self.simulator).unwrap();
        let mut toml = simulator.config_toml();
        for (path, value) in &self.written {
            toml = with(&toml, path, value);
        }
        let mut variables = self.variables;
        variables.push(("AZURE_CLIENT_SECRET".into(), self.secret));
        (simulator, toml, variables)
    }
}

/// A gateway in this process, for a simulator that others use as well. End it with
/// [`Replica::leave`].
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) caller: Caller,
    pub(crate) admin: Caller,
    stop: CancellationToken,
    serving: JoinHandle<Ended>,
}

impl Replica {
    /// Waits until `/status` is as wanted.
    pub(crate) async fn until_status(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let look = async || Some(self.admin.fetch("/status").await.json()).filter(&wanted);
        until(what, look).await
    }

    /// Stops it and asserts that nothing is left.
    pub(crate) async fn leave(self) {
        self.stop.cancel();
        drop((self.caller, self.admin));
        let ended = within("the gateway's end", self.serving).await.unwrap();
        assert_eq!(
            ended,
            Ended {
                cut: 0,
                left: 0,
                failed: false
            }
        );
    }
}

/// A simulator and a gateway in this process. End it with [`Running::finish`].
pub(crate) struct Running {
    pub(crate) simulator: Simulator,
    pub(crate) caller: Caller,
    pub(crate) admin: Caller,
    pub(crate) stop: CancellationToken,
    serving: JoinHandle<Ended>,
    reloader: Reloader,
    source: ConfigSource,
    toml: String,
}

impl Running {
    /// A caller by HTTP/1.1 with connections of its own.
    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Has the gateway take over its file with these keys changed, each a path and TOML.
    pub(crate) async fn reload(&self, changes: &[(&str, &str)]) -> Result<Applied, ReloadError> {
        let toml = changes
            .iter()
            .fold(self.toml.clone(), |toml, (path, value)| with(&toml, path, value));
        let document = Document::new(Path::new("gateway.toml"), toml);
        within("the reload", self.reloader.reload(&self.source, &document)).await
    }

    pub(crate) async fn status(&self) -> Value {
        self.admin.fetch("/status").await.json()
    }

    /// Waits until `/status` is as wanted.
    pub(crate) async fn until_status(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let look = async || Some(self.status().await).filter(&wanted);
        until(what, look).await
    }

    async fn settled(&self) {
        settled(&self.admin).await;
    }

    /// The statuses that the upstream answered with, in order of arrival.
    pub(crate) fn upstream_statuses(&self) -> Vec<Option<u16>> {
        self.simulator.calls().iter().map(|call| call.status).collect()
    }

    /// Waits for the end of a gateway that was stopped.
    pub(crate) async fn ended(self) -> (Ended, Simulator) {
        drop((self.caller, self.admin, self.reloader));
        let ended = within("the gateway's end", self.serving).await.unwrap();
        (ended, self.simulator)
    }

    /// Stops the gateway and asserts that nothing is left, that no limit was passed and nothing
    /// forbidden was sent.
    pub(crate) async fn finish(self) {
        self.stop.cancel();
        let (ended, simulator) = self.ended().await;
        assert_eq!(
            ended,
            Ended {
                cut: 0,
                left: 0,
                failed: false
            }
        );
        satisfied(&simulator).await;
    }
}

/// A simulator in this process and a gateway as a program.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) simulator: Simulator,
    pub(crate) gateway: Program,
    toml: String,
    variables: Vec<(String, String)>,
}

impl Spawned {
    pub(crate) fn caller(&self) -> Caller {
        self.gateway.caller()
    }

    pub(crate) fn admin(&self) -> Caller {
        self.gateway.admin()
    }

    /// Writes the gateway's file anew with these keys changed, each a path and TOML, as an editor
    /// does: beside it, then in its place.
    pub(crate) fn rewrite(&self, changes: &[(&str, &str)]) {
        let toml = changes
            .iter()
            .fold(self.toml.clone(), |toml, (path, value)| with(&toml, path, value));
        self.write(&toml);
    }

    /// The gateway's file, as it was at the start.
    pub(crate) fn toml(&self) -> &str {
        &self.toml
    }

    /// Its variables.
    pub(crate) fn variables(&self) -> &[(String, String)] {
        &self.variables
    }

    /// Writes the gateway's file.
    pub(crate) fn write(&self, toml: &str) {
        let file = self.gateway.folder().join("gateway.toml");
        std::fs::write(file.with_extension("new"), toml).unwrap();
        std::fs::rename(file.with_extension("new"), file).unwrap();
    }

    /// Kills the gateway without a warning and starts another one with the same settings.
    pub(crate) async fn kill_and_restart(&mut self) {
        self.kill_and_restart_after(|| {}).await;
    }

    /// The same, with something done while no gateway runs.
    pub(crate) async fn kill_and_restart_after(&mut self, meanwhile: impl FnOnce()) {
        self.gateway.signal("KILL").await;
        self.gateway.ended().await;
        meanwhile();
        self.gateway = Program::gateway(&self.toml, &self.variables).await;
        settled(&self.gateway.admin()).await;
    }

    /// Asserts that every call which has arrived upstream counts in the longest window, which no test
    /// outlasts, however slow the machine is.
    pub(crate) async fn assert_all_calls_count(&self) {
        // A call counts before it leaves.
        let arrived = self.simulator.calls().len() as u64;
        let status = self.admin().fetch("/status").await.json();
        let longest = status["quota"]["windows"].as_array().unwrap().last().unwrap();
        let used = longest["used"].as_u64().unwrap();
        assert!(used >= arrived, "{used} of {arrived} calls count: {longest}");
    }

    /// Stops the gateway by SIGTERM and asserts that it ended well. Returns all that it wrote.
    pub(crate) async fn finish(mut self) -> String {
        self.gateway.signal("TERM").await;
        let ended = self.gateway.ended().await;
        assert_eq!(ended.code, Some(0), "{}", ended.output);
        satisfied(&self.simulator).await;
        ended.output
    }
}

/// `toml` with the key `path` set to `value`, which is TOML.
pub(crate) fn with(toml: &str, path: &str, value: &str) -> String {
    let mut document: toml::Table = toml.parse().unwrap();
    let (section, key) = path.split_once('.').unwrap();
    let value: toml::Table = format!("value = {value}").parse().unwrap();
    let section = document
        .entry(section)
        .or_insert_with(|| toml::Table::new().into())
        .as_table_mut()
        .unwrap();
    section.insert(key.into(), value["value"].clone());
    document.to_string()
}

/// Waits until the first sign-in has ended, one way or the other, and a region is chosen.
async fn settled(admin: &Caller) {
    let look = async || {
        let status = admin.fetch("/status").await.json();
        let signed_in = status["token"]["expires_in_s"].is_number() || status["token"]["last_error"].is_object();
        let chosen = |region: &Value| region["selected"] == true && region["rtt_ms"].is_number();
        let chosen = status["regions"].as_array().unwrap().iter().any(chosen);
        (signed_in && chosen).then_some(())
    };
    until("a first sign-in and a nearest region", look).await;
}

async fn satisfied(simulator: &Simulator) {
    for verifier in simulator.quota_verifiers() {
        assert!(verifier.is_satisfied(), "{:?}", verifier.findings());
    }
    assert_eq!(simulator.violations(), []);
    assert_eq!(simulator.stop().await, 0, "tasks of the simulator are left");
}
