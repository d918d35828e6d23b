//! Gateways as real programs, one simulator as another, and callers who never rest.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use defender_gateway::testing::sim::{Limit, QuotaVerifier};
use defender_gateway::testing::task::Tasks;

use crate::support::{Caller, Program, id, until};

/// How long callers wait for their turn.
pub(crate) const WAIT: Duration = Duration::from_secs(3);

/// How much later than its deadline an answer may come on a machine that is busy.
const LATE: Duration = Duration::from_secs(3);

/// Callers of each gateway.
const CALLERS: usize = 4;

/// A simulator, and any number of gateways for it.
#[derive(Debug)]
pub(crate) struct Gateways {
    simulate: Program,
    toml: String,
    variables: Vec<(String, String)>,
    limits: Vec<Limit>,
    pub(crate) all: Vec<Gateway>,
}

/// One gateway and its callers.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) program: Program,
    pub(crate) tally: Arc<Tally>,
    callers: Vec<JoinHandle<()>>,
}

/// What callers got.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    served: AtomicUsize,
    /// Statuses, and 0 for no answer.
    statuses: Mutex<BTreeMap<u16, usize>>,
    slowest: Mutex<Duration>,
}

impl Gateways {
    /// A simulator with these limits, and settings for gateways that share a store.
    pub(crate) async fn new(limits: &[&str], settings: &[(&str, &str)]) -> Self {
        let joined = limits.join(",");
        let arguments = [
            "simulate",
            "--listen",
            "127.0.0.1:0",
            "--log",
            "calls.jsonl",
            "--limit",
            &joined,
        ];
        let simulate = Program::start(&arguments, &[]);
        let secret = simulate.line("# export AZURE_CLIENT_SECRET=").await;
        let secret = secret.trim_matches('\'').to_owned();
        let mut variables = vec![("AZURE_CLIENT_SECRET".to_owned(), secret)];
        let usual = [
            ("SERVER_LISTEN", "127.0.0.1:0"),
            ("ADMIN_LISTEN", "127.0.0.1:0"),
            ("QUOTA_LIMITS", &*joined),
            ("CACHE_TTL", "0s"),
            ("DEFENDER_TIMEOUT", "1s"),
            // Nearer ones may be found busier for a moment, and a change would be measured too.
            ("DEFENDER_REGION", "eu"),
        ];
        for (key, value) in usual.iter().chain(settings) {
            variables.push((format!("DEFENDER_GATEWAY_{key}"), (*value).to_owned()));
        }
        Self {
            toml: simulate.output(),
            simulate,
            variables,
            limits: limits.iter().map(|limit| limit.parse().unwrap()).collect(),
            all: Vec::new(),
        }
    }

    /// One more gateway on the store at `url`, with busy callers.
    pub(crate) async fn add(&mut self, url: &str) {
        self.add_with(url, &[]).await;
        self.all.last_mut().unwrap().saturate();
    }

    /// One more gateway without callers.
    pub(crate) async fn add_with(&mut self, url: &str, settings: &[(&str, &str)]) {
        let mut variables = self.variables.clone();
        variables.push(("DEFENDER_GATEWAY_STORE_URL".into(), url.into()));
        for (key, value) in settings {
            variables.push((format!("DEFENDER_GATEWAY_{key}"), (*value).to_owned()));
        }
        let program = Program::gateway(&self.toml, &variables).await;
        self.all.push(Gateway {
            program,
            tally: Arc::default(),
            callers: Vec::new(),
        });
    }

    /// The secret by which the gateways sign in.
    pub(crate) fn secret(&self) -> String {
        self.variables[0].1.clone()
    }

    /// kill -9.
    pub(crate) async fn kill(&mut self, index: usize) {
        let mut gateway = self.all.swap_remove(index);
        gateway.program.signal("KILL").await;
        gateway.rest();
        gateway.program.ended().await;
    }

    /// When calls arrived at the simulator, in its own time.
    pub(crate) fn arrivals(&self) -> Vec<Duration> {
        let log = std::fs::read_to_string(self.simulate.folder().join("calls.jsonl")).unwrap();
        let line = |line: &str| {
            let call: Value = serde_json::from_str(line).unwrap();
            (call["operation"] == true).then(|| Duration::from_micros(call["at_us"].as_u64().unwrap()))
        };
        log.lines().filter_map(line).collect()
    }

    /// Waits until calls arrive that were not there before; how long that took.
    pub(crate) async fn resumes(&self, what: &str) -> Duration {
        let from = Instant::now();
        let before = self.arrivals().len();
        let look = async || (self.arrivals().len() > before + self.all.len()).then_some(());
        until(&format!("{what}: calls to leave again"), look).await;
        from.elapsed()
    }

    /// Calls that arrived between two moments of the simulator, as a share of what the long window
    /// allows in that time.
    pub(crate) fn used(&self, from: Duration, to: Duration) -> f64 {
        let long = self.limits.last().unwrap();
        let arrived = self.arrivals().iter().filter(|at| (from..to).contains(*at)).count();
        let allowed = f64::from(long.calls()) * to.saturating_sub(from).div_duration_f64(long.window());
        f64::from(u32::try_from(arrived).unwrap()) / allowed
    }

    /// When the last call arrived.
    pub(crate) fn now(&self) -> Duration {
        self.arrivals().into_iter().max().unwrap_or_default()
    }

    /// Fails when any window was over, anybody was told something else than an answer or a refusal,
    /// or anything too late.
    pub(crate) fn assert_well(&self) {
        let mut judge = QuotaVerifier::new(&self.limits);
        judge.extend(self.arrivals());
        assert!(judge.is_satisfied(), "{:?}", judge.findings());
        for gateway in &self.all {
            let statuses = gateway.tally.statuses.lock().unwrap().clone();
            let known = statuses.keys().all(|status| matches!(status, 200 | 429 | 503));
            assert!(known, "{statuses:?} {}", gateway.program.output());
            let slowest = *gateway.tally.slowest.lock().unwrap();
            assert!(slowest <= WAIT + LATE, "an answer came after {slowest:?}");
        }
    }
}

impl Gateway {
    /// Callers who ask again as soon as they are answered, each time something else.
    pub(crate) fn saturate(&mut self) {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let tasks = Tasks::new();
        for n in 0..CALLERS {
            let (caller, tally) = (self.program.caller(), Arc::clone(&self.tally));
            let asking = async move {
                loop {
                    let request = id(NEXT.fetch_add(1, Ordering::Relaxed));
                    tally.ask(&caller, &request, &format!("caller {n}")).await;
                }
            };
            self.callers.push(tasks.spawn("caller", asking));
        }
    }

    /// The callers leave.
    pub(crate) fn rest(&mut self) {
        for caller in self.callers.drain(..) {
            caller.abort();
        }
    }

    pub(crate) fn served(&self) -> usize {
        self.tally.served.load(Ordering::Relaxed)
    }

    pub(crate) async fn status(&self) -> Value {
        self.program.admin().fetch("/status").await.json()
    }
}

impl Tally {
    async fn ask(&self, caller: &Caller, request: &str, name: &str) {
        let asked = Instant::now();
        let wait = format!("wait={}", WAIT.as_secs());
        let request = caller
            .history_request()
            .header("prefer", wait)
            .header("x-caller", name)
            .body(crate::support::body(&[request]))
            .unwrap();
        let status = caller
            .try_send(request)
            .await
            .map_or(0, |answer| answer.status.as_u16());
        if status == 200 {
            self.served.fetch_add(1, Ordering::Relaxed);
        } else {
            // Whoever is refused does not storm.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        *self.statuses.lock().unwrap().entry(status).or_default() += 1;
        let mut slowest = self.slowest.lock().unwrap();
        *slowest = (*slowest).max(asked.elapsed());
    }
}
