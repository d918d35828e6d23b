//! All faults at once, at random, for long.
//!
//! Two gateways that share a store, in front of two regions. Every moment something goes wrong or
//! is mended: the upstream, sign-in, the secret, the configuration, the store, the line to it, a
//! gateway. The seed is printed; the same one does the same things.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::StatusCode;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::RwLock;
use tokio::time::{Instant, sleep};

use defender_gateway::testing::sim::{CLIENT_SECRET, Fault, Often, Plan, Shape, SignInFault};
use defender_gateway::testing::task::Tasks;

use super::ALONE;
use super::tally::{Request, Tally};
use super::watch::Watch;
use crate::replicas::line::Line;
use crate::secrets::{assert_clean, forbidden};
use crate::support::redis::Redis;
use crate::support::{Caller, Controls, ProcessUsage, Program, Setup, Spawned, id, until, with};

const SECOND: Duration = Duration::from_secs(1);

/// One attempt's time; a call may be under way that long after its turn, and once more in another
/// region.
const ATTEMPT: Duration = SECOND;

/// After a 401 that a new token did not help, further ones force no renewal for a minute: whoever
/// revokes a token then is noticed late, as is meant.
const UNSURE: Duration = Duration::from_secs(75);

/// Connections to two regions, sign-in and the store that may be idle in the end, each for a
/// minute.
const POOLED: usize = 2 * 16 + 8;

/// Callers of each gateway.
const CALLERS: usize = 8;

/// All statuses that callers may see: those of the upstream that nothing could mend, and refusals.
const RIGHT: &[u16] = &[200, 401, 403, 429, 500, 502, 503, 504];

struct Run {
    time: Duration,
    seed: u64,
    late: Duration,
    lives: Duration,
}

/// One gateway, which may be replaced by the next one.
struct Post {
    program: RwLock<Program>,
    /// How many were killed here.
    killed: AtomicUsize,
}

struct Stage {
    spawned: Spawned,
    /// The first is watched and never killed.
    second: Arc<Post>,
    server: Redis,
    line: Line,
    url: String,
    secret_file: std::path::PathBuf,
    secrets: Vec<String>,
    random: StdRng,
    /// When the upstream last answered with 401.
    doubted: Option<Instant>,
    output: Vec<String>,
    events: usize,
}

impl Stage {
    async fn new(seed: u64, folder: &std::path::Path) -> Self {
        let server = Redis::start().await;
        let line = Line::to(server.port).await;
        let url = format!("redis://127.0.0.1:{}", line.port);
        let secret_file = folder.join("secret");
        std::fs::write(&secret_file, CLIENT_SECRET).unwrap();
        let spawned = Setup::new()
            .region("eu", 2)
            .region("us", 5)
            .limits(Shape::SlidingLog, &["50/1s", "400/10s"])
            .write("cache.ttl", "\"1s\"")
            // Soon full: what grows after that is no cache.
            .write("cache.max_size", "\"2MiB\"")
            .write("defender.timeout", "\"1s\"")
            .write(
                "credentials.client_secret_file",
                &format!("{:?}", secret_file.to_str().unwrap()),
            )
            .set("store.url", &url)
            .set("telemetry.log", "debug")
            .spawn()
            .await;
        let second = Program::gateway(spawned.toml(), spawned.variables()).await;
        Self {
            spawned,
            second: Arc::new(Post {
                program: RwLock::new(second),
                killed: AtomicUsize::new(0),
            }),
            server,
            line,
            url,
            secret_file,
            secrets: vec![CLIENT_SECRET.to_owned()],
            random: StdRng::seed_from_u64(seed),
            doubted: None,
            output: Vec::new(),
            events: 0,
        }
    }

    /// The next thing that happens.
    async fn event(&mut self) {
        self.events += 1;
        let often = Often::Share(self.random.random_range(0.05..0.5));
        match self.random.random_range(0..13) {
            0..4 => {
                let fault = self.fault();
                match self.random.random_range(0..3) {
                    0 => self.spawned.simulator.set_faults_everywhere(&Plan::of(fault, often)),
                    1 => self
                        .spawned
                        .simulator
                        .set_faults("eu", &Plan::of(fault, Often::Always))
                        .unwrap(),
                    _ => self
                        .spawned
                        .simulator
                        .set_faults("us", &Plan::of(fault, often))
                        .unwrap(),
                }
            }
            4 => self.spawned.simulator.set_faults_everywhere(&Plan::none()),
            5 => {
                let fault = self.sign_in_fault();
                self.spawned.simulator.set_sign_in_faults(Plan::of(fault, often));
                if self.doubted.is_none_or(|at| at.elapsed() > UNSURE) {
                    self.doubted = Some(Instant::now());
                    self.spawned.simulator.revoke_tokens().await;
                }
            }
            6 => {
                self.spawned.simulator.set_sign_in_faults(Plan::none());
                let secret = format!("rotated~{:016x}", self.random.random::<u64>());
                self.spawned.simulator.set_secret(secret.clone().into());
                std::fs::write(self.secret_file.with_extension("new"), &secret).unwrap();
                std::fs::rename(self.secret_file.with_extension("new"), &self.secret_file).unwrap();
                self.secrets.push(secret);
            }
            7 => self.reload().await,
            8 => self.line.cut(),
            9 => self.line.lead_to(self.server.port),
            10 => {
                self.server.kill().await;
                sleep(SECOND / 2).await;
                self.server.restart().await;
                self.line.lead_to(self.server.port);
            }
            11 => self.replace().await,
            _ => self.spawned.simulator.cut_connections().await,
        }
    }

    fn fault(&mut self) -> Fault {
        let slow = Duration::from_millis(self.random.random_range(100..1500));
        let all = [
            Fault::Status(StatusCode::INTERNAL_SERVER_ERROR),
            Fault::Status(StatusCode::BAD_GATEWAY),
            Fault::Status(StatusCode::SERVICE_UNAVAILABLE),
            Fault::Status(StatusCode::GATEWAY_TIMEOUT),
            Fault::Throttle(SECOND),
            Fault::NoLicence,
            Fault::BlackHole,
            Fault::Cut,
            Fault::CutMidBody,
            Fault::SlowHead(slow),
            Fault::SlowBody(slow),
            Fault::Rubbish,
            Fault::Redirect,
        ];
        let fault = all[self.random.random_range(0..all.len())];
        if fault == Fault::NoLicence {
            self.doubted = Some(Instant::now());
        }
        fault
    }

    fn sign_in_fault(&mut self) -> SignInFault {
        let all = [
            SignInFault::Status(StatusCode::SERVICE_UNAVAILABLE),
            SignInFault::Hang,
            SignInFault::Cut,
            SignInFault::Rubbish,
            SignInFault::NoToken,
            SignInFault::Redirect,
            SignInFault::Slow(SECOND / 2),
        ];
        all[self.random.random_range(0..all.len())]
    }

    /// Another configuration, or one with a mistake, for the first gateway; a signal makes it look
    /// at once.
    async fn reload(&mut self) {
        let (path, value) = match self.random.random_range(0..4) {
            0 => ("cache.ttl", "\"2s\""),
            1 => ("merge.enabled", "true"),
            2 => ("queue.max_wait", "\"30s\""),
            _ => ("cache.ttl", "\"no time\""),
        };
        self.spawned.write(&with(self.spawned.toml(), path, value));
        self.spawned.gateway.signal("HUP").await;
    }

    /// kill -9, and another one in its place.
    async fn replace(&mut self) {
        let second = Arc::clone(&self.second);
        second.killed.fetch_add(1, Ordering::SeqCst);
        let mut program = second.program.write().await;
        program.signal("KILL").await;
        self.output.push(program.ended().await.output);
        *program = Program::gateway(self.spawned.toml(), self.spawned.variables()).await;
        second.killed.fetch_add(1, Ordering::SeqCst);
    }

    /// No more faults.
    fn mend(&self) {
        self.spawned.simulator.set_faults_everywhere(&Plan::none());
        self.spawned.simulator.set_sign_in_faults(Plan::none());
        self.line.lead_to(self.server.port);
        self.spawned.write(self.spawned.toml());
    }

    /// Fails when an admin page shows what nobody may see.
    async fn assert_secret(&self) {
        let admin = self.spawned.admin();
        let forbidden = self.forbidden();
        for target in ["/status", "/metrics", "/readyz?verbose", "/"] {
            assert_clean(target, admin.fetch(target).await.text(), &forbidden);
        }
    }

    fn forbidden(&self) -> Vec<String> {
        let mut all = forbidden(&self.spawned.simulator);
        all.extend(self.secrets.clone());
        all.sort();
        all.dedup();
        all
    }
}

/// Asks again and again, until it is over. `post` is the gateway that may be killed, if it is that
/// one.
async fn call(tally: Arc<Tally>, caller: Option<Caller>, post: Arc<Post>, n: usize, over: Arc<AtomicBool>) {
    let mut random = StdRng::seed_from_u64(n as u64);
    let mut asked = 0;
    while !over.load(Ordering::Relaxed) {
        asked += 1;
        let known = random.random_range(0..3) == 0;
        let request = Request {
            id: id(if known { n % 4 } else { 1_000_000 * (n + 1) + asked }),
            caller: format!("caller {n}"),
            wait: SECOND * random.random_range(0..4),
            leaves: (random.random_range(0..10) == 0).then(|| Duration::from_millis(random.random_range(0..500))),
        };
        if let Some(caller) = &caller {
            tally.ask(caller, request, || false).await;
        } else {
            let before = post.killed.load(Ordering::SeqCst);
            let caller = post.program.read().await.caller();
            let lost = || before % 2 == 1 || post.killed.load(Ordering::SeqCst) != before;
            tally.ask(&caller, request, lost).await;
        }
        sleep(Duration::from_millis(random.random_range(5..60))).await;
    }
}

async fn soak(run: Run) {
    let _alone = ALONE.lock().await;
    println!("seed {}", run.seed);
    let folder = tempfile::tempdir().unwrap();
    let mut stage = Stage::new(run.seed, folder.path()).await;
    let before = ProcessUsage::of(stage.spawned.gateway.pid());
    let tally = Arc::new(Tally::new(ATTEMPT + run.late, RIGHT).behind_rubbish());
    let over = Arc::new(AtomicBool::new(false));
    let (tasks, watch) = (Tasks::new(), Watch::over(&stage.spawned.gateway));
    for n in 0..CALLERS * 2 {
        let first = (n % 2 == 0).then(|| match n % 4 {
            0 => stage.spawned.caller(),
            _ => Caller::http2(stage.spawned.caller().base()),
        });
        let (tally, second, over) = (Arc::clone(&tally), Arc::clone(&stage.second), Arc::clone(&over));
        tasks.spawn("caller", call(tally, first, second, n, over));
    }
    let begun = Instant::now();
    while begun.elapsed() < run.time {
        stage.event().await;
        stage.assert_secret().await;
        let pause = stage.random.random_range(100..1200);
        sleep(Duration::from_millis(pause)).await;
    }
    stage.mend();
    over.store(true, Ordering::Relaxed);
    until("all requests to be answered", async || tasks.is_empty().then_some(())).await;
    let seen = watch.finish();
    let killed = stage.second.killed.load(Ordering::SeqCst) / 2;
    println!(
        "{} events in {:?}, {killed} gateways killed, {} calls, {} tokens: {}",
        stage.events,
        run.time,
        stage.spawned.simulator.calls().len(),
        stage.spawned.simulator.token_requests().len(),
        tally.report()
    );
    println!("{}", seen.report(0.4));
    tally.assert_well();
    seen.assert_alive(run.lives, SECOND * 3);
    seen.assert_flat(0.4, 8 * 1024);
    recovers(stage, before).await;
}

/// Once nothing is wrong any more, everything is as it was.
async fn recovers(mut stage: Stage, before: ProcessUsage) {
    let well = async || {
        let answer = stage
            .spawned
            .caller()
            .ask(&[id(rand::random_range(0x7000_0000..0x7fff_ffff))])
            .await;
        let status = stage.spawned.admin().fetch("/status").await.json();
        (answer.status == StatusCode::OK && status["mode"] != "store-lost").then_some(())
    };
    until("the gateway to be well again", well).await;
    let returned = async || {
        let held = ProcessUsage::of(stage.spawned.gateway.pid());
        (held.files <= before.files + POOLED && held.threads <= before.threads + 2).then_some(held)
    };
    let after = until("files and threads to be given back", returned).await;
    println!(
        "held before {before:?}, after {after:?} with the store at {}",
        stage.url
    );
    let forbidden = stage.forbidden();
    let mut second = stage.second.program.write().await;
    second.signal("TERM").await;
    stage.output.push(second.ended().await.output);
    drop(second);
    stage.output.push(stage.spawned.finish().await);
    for output in &stage.output {
        assert_clean("a log", output, &forbidden);
        assert!(!output.contains("panicked"), "{output}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_goes_wrong_at_random_nobody_is_late_and_no_window_is_over() {
    soak(Run {
        time: Duration::from_secs(15),
        seed: 7,
        late: Duration::from_secs(4),
        lives: SECOND,
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "ten minutes, for a release build"]
async fn ten_minutes_of_everything_that_goes_wrong() {
    soak(Run {
        time: Duration::from_mins(10),
        seed: rand::random(),
        late: Duration::from_secs(2),
        lives: Duration::from_millis(100),
    })
    .await;
}
