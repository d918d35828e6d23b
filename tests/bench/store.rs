//! What sharing costs: `cargo bench --bench store`. Needs redis-server.
//!
//! The shared ledger beside the one in memory and beside a plain `INCR` over the same socket, in one run. The limits are so high that
//! nobody waits for the quota, only for the decision.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark that cannot go on stops, and prints what it found"
)]

use std::io::{BufRead as _, BufReader};
use std::num::NonZeroU32;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use tokio::time::Instant;

use defender_gateway::attempt::Demand;
use defender_gateway::clock::Wall;
use defender_gateway::quota::{self, Config, Limit, Quota, shared};
use defender_gateway::store;
use defender_gateway::task::Tasks;

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

fn wanted(waiting: usize) -> Demand<'static> {
    Demand {
        waiting,
        callers: 8,
        ..Demand::default()
    }
}

/// `batch` slots from whoever gives them, used and answered at once.
async fn decide(quota: &Quota, batch: usize) {
    quota.demand(wanted(batch));
    let mut permits = Vec::with_capacity(batch);
    while permits.len() < batch {
        match quota.take(Instant::now()) {
            Ok(mut permit) => {
                permit.leave();
                permits.push(permit);
                quota.demand(wanted(batch - permits.len()));
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

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let server = Server::start();
    let limit = Limit::try_new(NonZeroU32::new(1_000_000).unwrap(), Duration::from_secs(1)).unwrap();
    let burst = NonZeroU32::new(1_000_000).unwrap();
    let config = Config::try_new(vec![limit], burst, Duration::from_secs(1)).unwrap();
    let tasks = Tasks::new();
    let timeout = Duration::from_secs(1);
    let address = store::Address::parse(&server.url()).unwrap();
    let sharing = shared::Config::new(
        store::Config::new(address, timeout),
        shared::Timing::new(timeout),
        "b",
        "t",
        "a",
    );
    let shared = Quota::join(&config, &sharing, &tasks, shared::Metrics::default());
    let local = Quota::forgetful(&config, Wall::system(), quota::Metrics::default());
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
