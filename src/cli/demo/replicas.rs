//! The demo of several replicas, with the store between them: steps, each with its claim.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::gateway::{DemoGateway, PATH, Told, free_or_any, listeners, simulator};
use super::{answered, claim, counted, definition, ms, parted, step};
use crate::cli::{Error, print};
use sim::Simulator;

/// Several gateways, the store between them, and the simulated upstream.
pub(super) struct Replicas {
    simulator: Simulator,
    store: Store,
    nodes: Vec<DemoGateway>,
}

/// How many requests are sent to all replicas.
const REQUESTS: u32 = 20;

impl Replicas {
    /// Starts all, the first gateway on the usual ports if these are free.
    pub(super) async fn set(count: u32) -> Result<Self, Error> {
        let store = Store::start().await?;
        let simulator = simulator()?;
        let mut nodes = Vec::new();
        for n in 0..count {
            let (data, admin) = if n == 0 {
                (free_or_any(8080), free_or_any(9901))
            } else {
                (0, 0)
            };
            // On a busy machine the store may be slower than it would be elsewhere; here it is not
            // what is shown.
            let text = format!(
                "{}[store]\nurl = \"{}\"\ntimeout = \"1s\"\nanswer_timeout = \"1s\"\n[queue]\nmax_wait = \"10m\"\n{}",
                listeners(data, admin),
                store.url(),
                simulator.config_toml()
            );
            nodes.push(DemoGateway::start(&text).await?);
        }
        Ok(Self {
            simulator,
            store,
            nodes,
        })
    }

    /// Plays all steps and sums up. Returns what to do next.
    ///
    /// # Errors
    /// When a claim does not hold.
    pub(super) async fn play(&mut self) -> Result<String, Error> {
        print(&format!(
            "defender-gateway demo: a simulated tenant, {} gateways for one app registration and the store between them, on loopback.\n",
            self.nodes.len()
        ))?;
        self.begin().await?;
        self.same_requests().await?;
        self.later().await?;
        self.quota().await?;
        self.store_lost().await?;
        self.sum_up().await?;
        Ok(self.invitation())
    }

    fn invitation(&self) -> String {
        let mut text = format!(
            "\nTry it, at one and then at another:\n  curl -si ADDRESS{PATH} -H 'content-type: application/json' -d \
             '{{\"ScanDefinitionIds\":[\"{}\"]}}'\n",
            definition(1)
        );
        for node in &self.nodes {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "  {}   (status: {}/)", node.data, node.admin);
        }
        text.push_str("Ctrl-C ends.\n");
        text
    }

    /// Ends everything.
    pub(super) async fn stop(self) {
        join_all(self.nodes.into_iter().map(DemoGateway::stop)).await;
        self.simulator.stop().await;
    }

    async fn begin(&self) -> Result<(), Error> {
        // Signed in and a region chosen: the requests below are to meet at once.
        let asked = self
            .nodes
            .iter()
            .map(|node| async { node.ask(&[definition(0)], &[]).await });
        let told = try_join_all(asked).await?;
        claim(told.iter().all(|told| told.status() == 200), || {
            "a first request got no answer".into()
        })?;
        for node in &self.nodes {
            node.measured().await?;
        }
        let seen = self
            .until(|status| status["quota"]["replicas"] == self.nodes.len())
            .await?;
        step(
            "They have found each other through the store",
            &[format!("replicas that share the quota: {}", seen["quota"]["replicas"])],
        )
    }

    /// The first gateway's status, once it is as wanted, or after ten seconds.
    async fn until(&self, is_wanted: impl Fn(&Value) -> bool) -> Result<Value, Error> {
        self.nodes[0].status_when(Duration::from_secs(10), is_wanted).await
    }

    async fn same_requests(&self) -> Result<(), Error> {
        let before = self.simulator.calls().len();
        let asked = self
            .nodes
            .iter()
            .flat_map(|node| (0..REQUESTS).map(move |n| async move { node.ask(&[definition(100 + n)], &[]).await }));
        let told = try_join_all(asked).await?;
        let good = told
            .iter()
            .filter(|told| told.status() == 200 && told.rows() > 0)
            .count();
        let calls = self.simulator.calls().len() - before;
        claim(good == told.len() && calls == REQUESTS as usize, || {
            format!("{good} answers from {calls} calls")
        })?;
        step(
            &format!(
                "The same {REQUESTS} requests, sent to all {} replicas at once",
                self.nodes.len()
            ),
            &[format!(
                "{good} answers, {calls} upstream calls: one replica asked, the others waited for its answer"
            )],
        )
    }

    async fn later(&self) -> Result<(), Error> {
        let ids = [definition(200), definition(201)];
        let first = self.nodes[0].ask(&ids, &[]).await?;
        let before = self.simulator.calls().len();
        // It is on its way to the store when the caller has it.
        sleep(Duration::from_millis(200)).await;
        let mut lines = vec![line("first replica", &first)];
        for node in &self.nodes[1..] {
            let told = node.ask(&ids, &[]).await?;
            claim(told.field("cache-status").contains("hit"), || {
                format!("no hit: {}", told.field("cache-status"))
            })?;
            lines.push(line("another", &told));
        }
        let calls = self.simulator.calls().len() - before;
        claim(calls == 0, || format!("{calls} more calls"))?;
        step("A request sent to one, and then to the others", &lines)
    }

    async fn quota(&self) -> Result<(), Error> {
        let total = 150;
        let nodes = &self.nodes;
        let asked = (0..total).map(|n| async move {
            let node = &nodes[n as usize % nodes.len()];
            node.ask(&[definition(1000 + n)], &[("prefer", "wait=2")]).await
        });
        let told = try_join_all(asked).await?;
        let (good, refused) = parted(&told)?;
        step(
            &format!("{total} different requests at once, spread over all, whose callers wait 2 s at most"),
            &[format!(
                "{} answered, {} told when to come back (429): all replicas together keep to one quota",
                good.len(),
                refused.len()
            )],
        )
    }

    async fn store_lost(&mut self) -> Result<(), Error> {
        self.store.kill();
        // Until its next step a gateway does not know, and would refuse for want of quota.
        self.until(|status| status["mode"] == "store-lost").await?;
        let first = &self.nodes[0];
        let known = first.ask(&[definition(100)], &[]).await?;
        let unknown = first.ask(&[definition(9000)], &[("prefer", "wait=1")]).await?;
        claim(known.status() == 200 && unknown.status() == 503, || {
            format!("{} and {}", known.status(), unknown.status())
        })?;
        self.store.restart().await?;
        let back = self.until(|status| status["mode"] != "store-lost").await?;
        claim(back["mode"] != "store-lost", || format!("mode {}", back["mode"]))?;
        step(
            "The store is killed, and comes back empty",
            &[
                line("what is in memory is answered as before", &known),
                format!(
                    "what is not is refused after {}: {}, retry-after: {}; no replica spends what it cannot count",
                    ms(unknown.took),
                    unknown.status(),
                    unknown.field("retry-after")
                ),
                "back again: the replicas have put together what they know of the quota".into(),
            ],
        )
    }

    async fn sum_up(&self) -> Result<(), Error> {
        let statuses = try_join_all(self.nodes.iter().map(DemoGateway::status)).await?;
        let sum =
            |part: &str, what: &str| -> u64 { statuses.iter().filter_map(|status| status[part][what].as_u64()).sum() };
        let counted = counted(&self.simulator)?;
        step(
            "In all",
            &[
                answered(
                    sum("saved", "requests"),
                    &self.simulator,
                    sum("saved", "upstream_calls"),
                ),
                format!(
                    "of those not in a replica's own memory, {} were answered from the store, {} by waiting for another replica's call",
                    sum("shared_answers", "hits"),
                    sum("shared_answers", "followed")
                ),
                counted,
            ],
        )
    }
}

fn line(who: &str, told: &Told) -> String {
    format!("{who}: {}; age: {}", told.summary(), told.field("age"))
}

/// A server that keeps nothing on disk. Killed when dropped.
pub(super) struct Store {
    address: SocketAddr,
    child: Child,
}

/// What it is called, here and there.
const PROGRAMS: [&str; 2] = ["redis-server", "valkey-server"];

/// How long it may take to listen.
const START: Duration = Duration::from_secs(10);

impl Store {
    /// Starts one on a free port.
    pub(super) async fn start() -> Result<Self, Error> {
        let failed = |error| Error::failed("no free port for the store", error);
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        drop(socket);
        let child = spawn(address.port())?;
        let mut store = Self { address, child };
        store.listens().await?;
        Ok(store)
    }

    pub(super) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Ends it without a warning.
    pub(super) fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again, empty.
    pub(super) async fn restart(&mut self) -> Result<(), Error> {
        self.child = spawn(self.address.port())?;
        self.listens().await
    }

    async fn listens(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + START;
        while TcpStream::connect(self.address).await.is_err() {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(Error::failed(
                    "the store did not start",
                    format!("it ended with {status}"),
                ));
            }
            if Instant::now() > deadline {
                return Err(Error::failed(
                    "the store did not start",
                    format!("not within {START:?}"),
                ));
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(port: u16) -> Result<Child, Error> {
    for program in PROGRAMS {
        let started = Command::new(program)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        match started {
            Ok(child) => return Ok(child),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::failed(format!("cannot start {program}"), error)),
        }
    }
    Err(Error::user(
        "demo --replicas needs redis-server or valkey-server, and neither is on the PATH; install one, for instance with \
         `apt-get install redis-server`, or leave --replicas out",
    ))
}
