//! The assembled gateway between a caller and two regions that can be made to fail.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use defender_gateway::testing::app::{Gateway, HostEnvironment};
use defender_gateway::testing::config::{self, Disk, Environment, Resolved};
use defender_gateway::testing::net;
use defender_gateway::testing::region::{self, Backoff};
use defender_gateway::testing::sim::{self, QuotaVerifier, Simulator};
use defender_gateway::testing::task::Tasks;

use super::certificates::certificates;
use super::host::Host;
use crate::support::until;

const PATH: &str = "/api/DeviceAuthenticatedScanDefinitions/GetScanHistoryByScanDefinitionId";
const DISTANCE: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(40)];
pub(crate) const CONNECT: Duration = Duration::from_millis(800);

/// The settings of most tests: a quota that a caller in a loop can use up, and attempts that may
/// take as long as they usually may.
pub(crate) const ROOMY: &str =
    "[quota]\nlimits = [\"80/1s\", \"4000/1m\"]\nburst = 80\n[defender]\ntimeout = \"60s\"\n";
/// The longest that a caller waits because of a host that says nothing, beyond another one's
/// answer.
pub(crate) const BEYOND: Duration = Duration::from_secs(5);

/// A gateway with its regions `near` and `far`. Sign-in is the simulator's.
pub(crate) struct Bench {
    pub(crate) near: Host,
    pub(crate) far: Host,
    data: String,
    admin: String,
    client: net::Client,
    limits: Vec<sim::Limit>,
    epoch: Instant,
    asked: AtomicUsize,
    complaints: Mutex<Vec<String>>,
    stop: CancellationToken,
    tasks: Tasks,
}

/// `text` without a mistake; the secret is the simulator's.
pub(crate) fn resolved(text: &str) -> Resolved {
    let env: Environment = [("AZURE_CLIENT_SECRET", sim::CLIENT_SECRET)].into_iter().collect();
    let loaded = config::parse(Path::new("gateway.toml"), text, &env, &Disk);
    loaded.unwrap_or_else(|mistakes| panic!("{mistakes}\n{text}")).resolved
}

/// The part of a configuration that signs in at the simulator, on free ports.
pub(crate) fn around(sign_in: &Simulator) -> String {
    format!(
        "[server]\nlisten = [\"127.0.0.1:0\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n[credentials]\ntenant_id = {:?}\nclient_id = {:?}\n\
         authority = {:?}\n",
        sim::TENANT_ID,
        sim::CLIENT_ID,
        sign_in.authority().as_str().trim_end_matches('/'),
    )
}

fn hurry(regions: &mut region::Config) {
    regions.probe_interval = Duration::from_millis(500);
    regions.probe_timeout = CONNECT;
    regions.down = Backoff {
        first: Duration::from_millis(100),
        longest: Duration::from_millis(400),
    };
    regions.ejected = Backoff {
        first: Duration::from_millis(800),
        longest: Duration::from_secs(2),
    };
}

impl Bench {
    /// `settings` holds `[quota]` and, at its end, the beginning of `[defender]`.
    pub(crate) async fn start(sign_in: &Simulator, settings: &str) -> Self {
        let (pem, mut certificates) = certificates(&["near.test", "far.test"]);
        let far = Host::start(certificates.pop().unwrap(), DISTANCE[1]).await;
        let near = Host::start(certificates.pop().unwrap(), DISTANCE[0]).await;
        let mut ca = tempfile::NamedTempFile::new().unwrap();
        ca.write_all(pem.as_bytes()).unwrap();
        let regions = "regions = [{ name = \"near\", url = \"https://near.test\" }, { name = \"far\", url = \"https://far.test\" }]";
        let text = format!(
            "{}{settings}ca_file = \"{}\"\n{regions}\n",
            around(sign_in),
            ca.path().display()
        );
        let config = resolved(&text);
        let hosts: HashMap<_, _> = [("near.test", near.clone()), ("far.test", far.clone())].into();
        let environment = HostEnvironment {
            resolver: net::Resolver::with(Arc::new(move |name, _| {
                let found = hosts[name.as_str()].addresses();
                Box::pin(async move { Ok(found) })
            })),
            net: net::Config {
                connect_timeout: CONNECT,
                ping_every: Duration::from_millis(300),
                ping_answer: Duration::from_millis(600),
                ..net::Config::default()
            },
            regions: hurry,
            ..HostEnvironment::default()
        };
        let gateway = Gateway::start_in(&config, environment).await.unwrap();
        let limits = config.quota.limits.iter();
        let bench = Self {
            near,
            far,
            data: gateway.addresses()[0].to_string(),
            admin: gateway.admin_address().to_string(),
            client: net::Client::new(&net::Config::default()).unwrap(),
            limits: limits
                .map(|limit| {
                    format!("{}/{}s", limit.calls(), limit.window().as_secs())
                        .parse()
                        .unwrap()
                })
                .collect(),
            epoch: Instant::now(),
            asked: AtomicUsize::new(0),
            complaints: Mutex::default(),
            stop: gateway.stop_token(),
            tasks: Tasks::new(),
        };
        bench.tasks.spawn("gateway", async move {
            gateway.serve().await;
        });
        bench
    }

    /// Asks something that was not asked before.
    pub(crate) async fn ask(&self) -> StatusCode {
        let n = self.asked.fetch_add(1, Ordering::SeqCst);
        let request = Request::post(format!("{}{PATH}", self.data))
            .header("content-type", "application/json")
            .body(format!(r#"{{"ScanDefinitionIds":["{n}"]}}"#).into())
            .unwrap();
        let answer = self.send(request).await;
        if answer.status() == StatusCode::OK {
            assert_eq!(answer.body(), r#"{"value":[]}"#);
        } else {
            let complaint = format!("{} for request {n}: {:?}", answer.status(), answer.body());
            self.complaints.lock().unwrap().push(complaint);
        }
        answer.status()
    }

    /// What callers got instead of answers, once.
    pub(crate) fn complaints(&self) -> Vec<String> {
        std::mem::take(&mut *self.complaints.lock().unwrap())
    }

    pub(crate) async fn status(&self) -> Value {
        serde_json::from_slice(&self.admin("/status").await).unwrap()
    }

    pub(crate) async fn metrics(&self) -> String {
        String::from_utf8(self.admin("/metrics").await.to_vec()).unwrap()
    }

    async fn admin(&self, path: &str) -> Bytes {
        let request = Request::get(format!("{}{path}", self.admin))
            .body(Bytes::new())
            .unwrap();
        self.send(request).await.into_body()
    }

    async fn send(&self, request: Request<Bytes>) -> http::Response<Bytes> {
        let limits = net::Limits {
            head: Duration::from_mins(1),
            whole: Duration::from_mins(1),
            body_bytes: 1 << 20,
        };
        self.client.send(request, limits).await.unwrap()
    }

    /// Waits until both regions have been measured and the near one is selected.
    pub(crate) async fn until_measured(&self) {
        let measured = |status: &Value| (0..2).all(|n| status["regions"][n]["rtt_ms"].is_f64());
        until("probes to be answered", async || {
            measured(&self.status().await).then_some(())
        })
        .await;
        self.until_near_is(true).await;
    }

    pub(crate) async fn near_is_selected(&self) -> bool {
        self.status().await["regions"][0]["selected"] == true
    }

    /// Waits until the near region is selected or not, as wanted.
    pub(crate) async fn until_near_is(&self, selected: bool) -> Duration {
        let begun = Instant::now();
        let what = if selected {
            "the region to be back"
        } else {
            "the region to be left"
        };
        until(what, async || (self.near_is_selected().await == selected).then_some(())).await;
        begun.elapsed()
    }

    /// How many calls the ledger knows.
    pub(crate) async fn charged(&self) -> usize {
        let calls = self.status().await["saved"]["upstream_calls"].as_u64();
        usize::try_from(calls.unwrap()).unwrap()
    }

    /// How many attempts ended without an answer, whatever the reason.
    pub(crate) async fn unanswered(&self) -> usize {
        let metrics = self.metrics().await;
        let calls = metrics
            .lines()
            .filter(|line| line.starts_with("defender_gateway_upstream_calls_total{"));
        let without = calls.filter(|line| {
            let status = line.split("status=\"").nth(1).unwrap();
            !status.starts_with(|c: char| c.is_ascii_digit())
        });
        without
            .map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap())
            .sum()
    }

    /// How many requests have arrived at both regions.
    pub(crate) fn arrived(&self) -> usize {
        self.near.calls() + self.far.calls()
    }

    /// The judge of the gateway's limits, who has seen all arrivals.
    pub(crate) fn judge(&self) -> QuotaVerifier {
        let mut judge = QuotaVerifier::new(&self.limits);
        let all = self.near.arrivals().into_iter().chain(self.far.arrivals());
        judge.extend(all.map(|at| at - self.epoch));
        judge
    }

    /// What arrived is in the ledger, and what is there besides can only be attempts that nobody
    /// answered.
    pub(crate) async fn assert_all_in_the_ledger(&self, of: &str) {
        let (arrived, charged, unanswered) = (self.arrived(), self.charged().await, self.unanswered().await);
        assert!(
            arrived <= charged,
            "{of}: {arrived} arrived, {charged} are in the ledger"
        );
        assert!(
            charged <= arrived + unanswered,
            "{of}: {charged} are in the ledger, {arrived} arrived, {unanswered} were not answered"
        );
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
