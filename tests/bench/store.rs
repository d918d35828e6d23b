//! What sharing costs: `cargo bench --bench store`. Needs redis-server.
//!
//! First the shared ledger beside the one in memory and beside a plain `INCR` over the same socket.
//! The limits are so high that nobody waits for the quota, only for the decision.
//!
//! Then 8, 64, 256 and 500 replicas in this process, each with connections of its own, against one
//! server: with nobody who asks, with everybody asking at the real limits, and at limits sixty
//! times as fast, where a minute tells how fairly an hour is shared. What the store needs is what
//! it says of itself (`INFO`), so that a busy machine changes it little. Then, at the same limits,
//! a third of them killed, a store that is frozen for three seconds, and one that is emptied.
//! `cargo bench --bench store -- 8 500 20s` runs those numbers only, and each part for 20 seconds
//! instead of a minute.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark that cannot go on stops, prints what it found, and tells its children by the environment what to do"
)]

mod store_chaos;

use std::io::{BufRead as _, BufReader};
use std::num::NonZeroU32;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use prometheus_client::registry::Registry;
use redis::aio::MultiplexedConnection;
use tokio::time::Instant;

use defender_gateway::testing::attempt::FlowDemand;
use defender_gateway::testing::caller::{Name, Urgency};
use defender_gateway::testing::clock::Wall;
use defender_gateway::testing::quota::{self, Config, Limit, Quota, shared};
use defender_gateway::testing::store;
use defender_gateway::testing::task::Tasks;

use store_chaos::{REPLICAS_AT, be_killed, chaos};

/// Decisions that are asked for at once, as a busy replica does.
const BATCH: usize = 64;
const ROUNDS: usize = 400;

struct Server {
    child: Child,
    folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(folder.path().join("redis.sock"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("this benchmark needs redis-server");
        let mut log = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(log.any(|line| line.unwrap().contains("eady to accept connections")));
        Self { child, folder }
    }

    fn url(&self) -> String {
        format!("redis+unix://{}", self.folder.path().join("redis.sock").display())
    }

    async fn connect(&self) -> MultiplexedConnection {
        let client = redis::Client::open(self.url()).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }
}

/// Scripts that the server was asked to run.
async fn steps(connection: &mut MultiplexedConnection) -> f64 {
    let text: String = redis::cmd("INFO")
        .arg("commandstats")
        .query_async(connection)
        .await
        .unwrap();
    let calls = |line: &str| {
        let rest = line.strip_prefix("cmdstat_evalsha:calls=")?;
        rest.split(',').next()?.parse::<f64>().ok()
    };
    text.lines().find_map(calls).unwrap_or(0.0)
}

async fn incr(connection: &MultiplexedConnection) {
    let mut connection = connection.clone();
    let _count: i64 = redis::cmd("INCR")
        .arg("count")
        .query_async(&mut connection)
        .await
        .unwrap();
}

/// What one caller of a replica's own wants.
fn wanted(replica: usize, waiting: usize) -> Vec<FlowDemand> {
    let flow = FlowDemand {
        urgency: Urgency::default(),
        caller: Name::new(&format!("caller of {replica}")),
        weight: 8,
        waiting,
        deadlines: Vec::new(),
        returning: 0,
        kept: 0,
        dues: [].into(),
        asks_again: false,
        position: None,
    };
    if waiting == 0 { Vec::new() } else { vec![flow] }
}

/// `batch` slots from whoever gives them, used and answered at once.
async fn decide(quota: &Quota, batch: usize) {
    quota.demand(&wanted(0, batch));
    let mut permits = Vec::with_capacity(batch);
    while permits.len() < batch {
        match quota.take(Instant::now()) {
            Ok(mut permit) => {
                permit.leave();
                permits.push(permit);
                quota.demand(&wanted(0, batch - permits.len()));
            }
            Err(_) => quota.changed().await,
        }
    }
    permits.into_iter().for_each(quota::Permit::settle);
}

/// Seconds per decision, and per round.
async fn time(batch: usize, mut round: impl AsyncFnMut()) -> (f64, f64) {
    for _ in 0..20 {
        round().await;
    }
    let mut rounds = Vec::with_capacity(ROUNDS);
    let begun = Instant::now();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        round().await;
        rounds.push(begun.elapsed().as_secs_f64());
    }
    let each = begun.elapsed().as_secs_f64() / (ROUNDS * batch) as f64;
    rounds.sort_by(f64::total_cmp);
    (each, rounds[ROUNDS / 2])
}

fn show(what: &str, batch: usize, (each, median): (f64, f64)) {
    println!(
        "{what}, {batch} at a time: {:.0} decisions/s, median wait {:.1} µs",
        1.0 / each,
        median * 1e6
    );
}

/// A figure that the server tells of itself.
async fn figure(connection: &mut MultiplexedConnection, section: &str, name: &str) -> f64 {
    let text: String = redis::cmd("INFO").arg(section).query_async(connection).await.unwrap();
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok();
    text.lines().find_map(value).unwrap_or(0.0)
}

/// What the server has done so far.
#[derive(Clone, Copy, Debug)]
struct Work {
    at: Instant,
    cpu_s: f64,
    sent: f64,
    steps: f64,
    step_us: f64,
}

impl Work {
    async fn of(connection: &mut MultiplexedConnection) -> Self {
        let text: String = redis::cmd("INFO")
            .arg("commandstats")
            .query_async(connection)
            .await
            .unwrap();
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:"))?;
            line.split(',')
                .find_map(|field| field.strip_prefix(name)?.parse::<f64>().ok())
        };
        Self {
            at: Instant::now(),
            cpu_s: figure(connection, "cpu", "used_cpu_user").await + figure(connection, "cpu", "used_cpu_sys").await,
            sent: figure(connection, "stats", "total_net_output_bytes").await,
            steps: field("calls=").unwrap_or(0.0),
            step_us: field("usec=").unwrap_or(0.0),
        }
    }

    /// CPU in percent of a core, steps a second, milliseconds for each, and kB sent a second.
    fn since(self, before: Self) -> (f64, f64, f64, f64) {
        let time = (self.at - before.at).as_secs_f64();
        let steps = self.steps - before.steps;
        (
            (self.cpu_s - before.cpu_s) / time * 100.0,
            steps / time,
            (self.step_us - before.step_us) / steps.max(1.0) / 1000.0,
            (self.sent - before.sent) / time / 1000.0,
        )
    }
}

/// How evenly it is shared: 1 when all have the same, 1/n when one has all.
fn jain(counts: &[f64]) -> f64 {
    let sum: f64 = counts.iter().sum();
    let squares: f64 = counts.iter().map(|count| count * count).sum();
    sum * sum / (squares * counts.len() as f64)
}

/// Replicas of one quota, each with its own connections.
struct Replicas {
    server: Server,
    connection: MultiplexedConnection,
    tasks: Tasks,
    quotas: Vec<Quota>,
    registry: Registry,
    served: Arc<Vec<AtomicU64>>,
    calls: Arc<Mutex<Vec<Instant>>>,
}

/// How one replica shares; each has a connection of its own.
fn sharing(url: &str, timeout: Duration) -> shared::Config {
    let address = store::Address::parse(url).unwrap();
    let store = store::Config::new(address, timeout);
    shared::Config::new(store, shared::Timing::new(timeout), "b", "t", "a")
}

/// Requests that always wait at each of them.
const WAITING: usize = 4;

impl Replicas {
    async fn start(count: usize, limits: [(u32, Duration); 2]) -> Self {
        Self::start_at(Server::start(), count, limits).await
    }

    async fn start_at(server: Server, count: usize, limits: [(u32, Duration); 2]) -> Self {
        let mut connection = server.connect().await;
        let limit = |(calls, window)| Limit::try_new(NonZeroU32::new(calls).unwrap(), window).unwrap();
        let config = Config::try_new(
            limits.map(limit).to_vec(),
            NonZeroU32::new(100).unwrap(),
            Duration::from_secs(1),
        )
        .unwrap();
        let timeout = Duration::from_millis(250);
        let (tasks, mut registry) = (Tasks::new(), Registry::default());
        let metrics = shared::Metrics::register(&mut registry, quota::Metrics::default());
        let mut quotas = Vec::new();
        for _ in 0..count {
            let sharing = sharing(&server.url(), timeout);
            quotas.push(Quota::join(&config, &sharing, &tasks, metrics.clone()));
            // As pods start: one after the other.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let joined = async || quotas.iter().all(|quota| quota.other_replicas() + 1 >= count);
        while !joined().await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        figure(&mut connection, "clients", "connected_clients").await;
        Self {
            server,
            connection,
            tasks,
            quotas,
            registry,
            served: Arc::new((0..count).map(|_| AtomicU64::new(0)).collect()),
            calls: Arc::default(),
        }
    }

    fn saturate(&self) {
        for (n, quota) in self.quotas.iter().cloned().enumerate() {
            let (served, calls, tasks) = (Arc::clone(&self.served), Arc::clone(&self.calls), self.tasks.clone());
            self.tasks.spawn_upkeep("callers", async move {
                loop {
                    quota.demand(&wanted(n, WAITING));
                    let Ok(mut permit) = quota.take(Instant::now()) else {
                        quota.changed().await;
                        continue;
                    };
                    permit.leave();
                    served[n].fetch_add(1, Ordering::Relaxed);
                    calls.lock().unwrap().push(Instant::now());
                    tasks.spawn_upkeep("call", async move {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        permit.settle();
                    });
                }
            });
        }
    }

    /// What the store does in that time.
    async fn watch(&mut self, time: Duration) -> (f64, f64, f64, f64) {
        let before = Work::of(&mut self.connection).await;
        tokio::time::sleep(time).await;
        Work::of(&mut self.connection).await.since(before)
    }

    fn counts(&self) -> Vec<f64> {
        self.served
            .iter()
            .map(|count| count.load(Ordering::Relaxed) as f64)
            .collect()
    }

    /// Steps that were not answered in time.
    fn failures(&self) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("store_failures_total "));
        line.map_or(0, |count| count.parse().unwrap())
    }

    async fn end(self) {
        self.tasks.finish(Duration::from_secs(5)).await;
        drop(self.server);
    }
}

const REAL: [(u32, Duration); 2] = [(100, Duration::from_mins(1)), (1500, Duration::from_hours(1))];
const FAST: [(u32, Duration); 2] = [(100, Duration::from_secs(1)), (1500, Duration::from_mins(1))];

/// How unevenly calls leave, in milliseconds: the median distance of their gaps from the median
/// gap.
fn unevenness(calls: &[Instant]) -> f64 {
    let mut gaps: Vec<_> = calls
        .windows(2)
        .map(|pair| (pair[1] - pair[0]).as_secs_f64() * 1e3)
        .collect();
    gaps.sort_by(f64::total_cmp);
    let median = gaps.get(gaps.len() / 2).copied().unwrap_or(0.0);
    let mut off: Vec<_> = gaps.iter().map(|gap| (gap - median).abs()).collect();
    off.sort_by(f64::total_cmp);
    off.get(off.len() / 2).copied().unwrap_or(0.0)
}

async fn row(count: usize, time: Duration) {
    let mut replicas = Replicas::start(count, REAL).await;
    let connections = figure(&mut replicas.connection, "clients", "connected_clients").await - 1.0;
    let memory = figure(&mut replicas.connection, "memory", "used_memory").await / 1e6;
    // Each has yet to hear of those that joined last.
    tokio::time::sleep(2 * shared::Timing::new(Duration::ZERO).idle).await;
    let (idle, ..) = replicas.watch(time).await;
    replicas.saturate();
    // The burst is no steady state.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let (before, failed) = (replicas.calls.lock().unwrap().len(), replicas.failures());
    let (cpu, steps, ms, sent) = replicas.watch(time).await;
    let uneven = unevenness(&replicas.calls.lock().unwrap()[before..]);
    let failures = replicas.failures() - failed;
    replicas.end().await;
    println!(
        "| {count} | {connections:.0} | {memory:.1} MB | {idle:.1} % | {cpu:.1} % | {steps:.0}, {ms:.3} | {sent:.0} kB/s | {uneven:.0} ms | {failures}, {failed} |"
    );

    let mut replicas = Replicas::start(count, FAST).await;
    replicas.saturate();
    tokio::time::sleep(FAST[1].1).await;
    let (before, failed) = (replicas.counts(), replicas.failures());
    let (cpu, steps, ms, sent) = replicas.watch(time).await;
    let served: Vec<_> = replicas
        .counts()
        .iter()
        .zip(&before)
        .map(|(now, before)| now - before)
        .collect();
    let used = served.iter().sum::<f64>() / (25.0 * time.as_secs_f64()) * 100.0;
    println!(
        "|   sixty times as fast | | | | {cpu:.1} % | {steps:.0}, {ms:.3} | {sent:.0} kB/s | used {used:.1} %, Jain {:.4} | {}, {failed} |",
        jain(&served),
        replicas.failures() - failed
    );
    replicas.end().await;
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    if let Some(folder) = std::env::var_os(REPLICAS_AT) {
        return be_killed(folder).await;
    }
    let counts: Vec<usize> = std::env::args().filter_map(|word| word.parse().ok()).collect();
    if counts.is_empty() {
        decisions().await;
    }
    let seconds = std::env::args().find_map(|word| word.strip_suffix('s')?.parse().ok());
    let time = Duration::from_secs(seconds.unwrap_or(60));
    println!(
        "| replicas | connections | memory | idle CPU | CPU, all asking | steps/s, ms each | sent | uneven by | not answered in time, and at the start |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for count in if counts.is_empty() {
        vec![8, 64, 256, 500]
    } else {
        counts
    } {
        row(count, time).await;
        chaos(count).await;
    }
}

/// What one decision costs.
async fn decisions() {
    let server = Server::start();
    let limit = Limit::try_new(NonZeroU32::new(1_000_000).unwrap(), Duration::from_secs(1)).unwrap();
    let burst = NonZeroU32::new(1_000_000).unwrap();
    let config = Config::try_new(vec![limit], burst, Duration::from_secs(1)).unwrap();
    let tasks = Tasks::new();
    let timeout = Duration::from_secs(1);
    let sharing = sharing(&server.url(), timeout);
    let shared = Quota::join(&config, &sharing, &tasks, shared::Metrics::default());
    let local = Quota::ephemeral(&config, Wall::system(), quota::Metrics::default());
    let mut connection = server.connect().await;
    for batch in [1, BATCH] {
        show(
            "in memory",
            batch,
            time(batch, async || decide(&local, batch).await).await,
        );
        let plain = async || drop(join_all((0..batch).map(|_| incr(&connection))).await);
        let plain = time(batch, plain).await;
        show("plain INCR", batch, plain);
        let before = steps(&mut connection).await;
        let took = time(batch, async || decide(&shared, batch).await).await;
        show("shared ledger", batch, took);
        let taken = steps(&mut connection).await - before;
        let made = ((ROUNDS + 20) * batch) as f64;
        println!(
            "  {:.1} times the time of a plain INCR; {:.2} commands to the store per decision",
            took.1 / plain.1,
            taken / made
        );
    }
    tasks.finish(Duration::from_secs(1)).await;
}
