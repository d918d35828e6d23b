//! The simulator and a gateway in this process, and a caller of it.

use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, header};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::ms;
use crate::app::{Ended, Gateway};
use crate::cli::Error;
use crate::config::{self, Disk, Environment, variable};
use crate::net;
use crate::task::Tasks;
use sim::Simulator;

/// The path of the list of scan definitions.
pub(super) const LIST: &str = "/api/DeviceAuthenticatedScanDefinitions";
/// The path of their history.
pub(super) const PATH: &str = "/api/DeviceAuthenticatedScanDefinitions/GetScanHistoryByScanDefinitionId";

/// A running gateway.
pub(super) struct DemoGateway {
    pub(super) data: String,
    pub(super) admin: String,
    exchange: net::Exchange,
    /// How many requests callers have sent.
    asked: AtomicU64,
    stop: CancellationToken,
    serving: JoinHandle<Ended>,
}

/// An answer, and how long it took.
pub(super) struct Told {
    pub(super) answer: Response<Bytes>,
    pub(super) took: Duration,
}

impl DemoGateway {
    /// Starts a gateway with this configuration and the simulator's secret.
    pub(super) async fn start(text: &str) -> Result<Self, Error> {
        let env: Environment = [(variable::CLIENT_SECRET, sim::CLIENT_SECRET)].into_iter().collect();
        let loaded = config::parse(Path::new("the demo's configuration"), text, &env, &Disk)?;
        let gateway = Gateway::start(&loaded.resolved)
            .await
            .map_err(|error| Error::failed("the gateway", error))?;
        let data = gateway.addresses().first().map(ToString::to_string).unwrap_or_default();
        let admin = gateway.admin_address().to_string();
        let client = net::Client::new(&net::Config::default()).map_err(|error| Error::failed("the caller", error))?;
        let stop = gateway.stop_token();
        let serving = Tasks::new().spawn("gateway", gateway.serve());
        Ok(Self {
            data,
            admin,
            exchange: client.exchange(LARGEST, PATIENCE),
            asked: AtomicU64::new(0),
            stop,
            serving,
        })
    }

    /// Asks the gateway for the history of `ids`.
    pub(super) async fn ask(&self, ids: &[String], fields: &[(&'static str, &str)]) -> Result<Told, Error> {
        self.ask_at(PATH, ids, fields).await
    }

    /// The same at `target`, which is the path with query options.
    pub(super) async fn ask_at(
        &self,
        target: &str,
        ids: &[String],
        fields: &[(&'static str, &str)],
    ) -> Result<Told, Error> {
        let body = serde_json::json!({ "ScanDefinitionIds": ids }).to_string();
        let mut request =
            Request::post(format!("{}{target}", self.data)).header(header::CONTENT_TYPE, "application/json");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        self.call(request.body(Bytes::from(body))).await
    }

    /// Asks the gateway for the list of definitions.
    pub(super) async fn list(&self) -> Result<Told, Error> {
        let request = Request::get(format!("{}{LIST}", self.data)).body(Bytes::new());
        self.call(request).await
    }

    async fn call(&self, request: http::Result<Request<Bytes>>) -> Result<Told, Error> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.send(request, "the gateway did not answer").await
    }

    async fn send(&self, request: http::Result<Request<Bytes>>, without: &'static str) -> Result<Told, Error> {
        let request = request.map_err(|error| Error::failed("a request", error))?;
        let begun = Instant::now();
        let answer = self.exchange.clone().oneshot(request).await;
        Ok(Told {
            answer: answer.map_err(|error| Error::failed(without, error))?,
            took: begun.elapsed(),
        })
    }

    /// The gateway's `/status`.
    pub(super) async fn status(&self) -> Result<Value, Error> {
        let request = Request::get(format!("{}/status", self.admin)).body(Bytes::new());
        let told = self.send(request, "the admin listener did not answer").await?;
        serde_json::from_slice(told.answer.body()).map_err(|error| Error::failed("the status is no JSON", error))
    }

    /// The status once every region has been measured, or after two seconds.
    pub(super) async fn measured(&self) -> Result<Value, Error> {
        self.status_when(SOON, |status| {
            let regions = status["regions"].as_array().map_or(&[][..], Vec::as_slice);
            regions.iter().all(|region| region["rtt_ms"].is_number())
        })
        .await
    }

    /// Waits until no upstream call is under way, not even one for which nobody waits, or for two
    /// seconds.
    pub(super) async fn idle(&self) -> Result<(), Error> {
        self.status_when(SOON, |status| status["quota"]["in_flight"] == 0)
            .await?;
        Ok(())
    }

    /// The status once every answer is counted, which is a moment after its caller has it.
    pub(super) async fn counted(&self) -> Result<Value, Error> {
        let asked = self.asked.load(Ordering::Relaxed);
        self.status_when(SOON, |status| {
            let total = |group: &str, names: &[&str]| -> u64 {
                names.iter().filter_map(|name| status[group][name].as_u64()).sum()
            };
            total("saved", &["requests"]) + total("trouble", &["refused", "failed", "invalid", "gone"]) >= asked
        })
        .await
    }

    /// The status once it is as wanted, or after `patience`.
    pub(super) async fn status_when(
        &self,
        patience: Duration,
        is_wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value, Error> {
        let deadline = Instant::now() + patience;
        loop {
            let status = self.status().await?;
            if is_wanted(&status) || Instant::now() > deadline {
                return Ok(status);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends it.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        // A gateway that panicked has said so itself.
        let _ = self.serving.await;
    }
}

const LARGEST: usize = 16 << 20;
const PATIENCE: Duration = Duration::from_mins(1);
const SOON: Duration = Duration::from_secs(2);

impl Told {
    pub(super) fn status(&self) -> u16 {
        self.answer.status().as_u16()
    }

    /// A field's value, or `-`.
    pub(super) fn field(&self, name: &str) -> &str {
        self.answer
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("-")
    }

    /// What came, how fast, and from where.
    pub(super) fn summary(&self) -> String {
        let (rows, took) = (self.rows(), ms(self.took));
        let cache_status = self.field("cache-status");
        format!("{}, {rows} rows in {took}; cache-status: {cache_status}", self.status())
    }

    /// How many rows the answer has.
    pub(super) fn rows(&self) -> usize {
        self.value().as_array().map_or(0, Vec::len)
    }

    /// Its rows.
    pub(super) fn value(&self) -> Value {
        let mut body: Value = serde_json::from_slice(self.answer.body()).unwrap_or_default();
        body["value"].take()
    }
}

/// Everything that the demo plays with.
pub(super) struct Fixture {
    pub(super) simulator: Simulator,
    pub(super) gateway: DemoGateway,
}

impl Fixture {
    /// Starts the simulator and a gateway for it, on their usual ports if these are free.
    pub(super) async fn start() -> Result<Self, Error> {
        let simulator = simulator()?;
        let text = format!(
            "{}[merge]\nenabled = true\ngather = \"20ms\"\nknown_rows = 10000\n{}",
            listeners(free_or_any(8080), free_or_any(9901)),
            simulator.config_toml()
        );
        let gateway = DemoGateway::start(&text).await?;
        Ok(Self { simulator, gateway })
    }

    /// Ends everything.
    pub(super) async fn stop(self) {
        self.gateway.stop().await;
        self.simulator.stop().await;
    }
}

/// The simulated upstream, as all demos have it.
pub(super) fn simulator() -> Result<Simulator, Error> {
    Simulator::start(sim::Config::default())
        .map_err(|error| Error::failed("cannot start the simulated upstream", error))
}

/// The sections that say where a gateway listens.
pub(super) fn listeners(data: u16, admin: u16) -> String {
    format!("[server]\nlisten = [\"127.0.0.1:{data}\"]\n[admin]\nlisten = \"127.0.0.1:{admin}\"\n")
}

/// The usual port, or 0 for any when somebody else has it.
pub(super) fn free_or_any(port: u16) -> u16 {
    TcpListener::bind(("127.0.0.1", port)).map_or(0, |_| port)
}
