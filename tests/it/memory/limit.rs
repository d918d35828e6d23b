//! Whatever callers want, the program stays below its limit and serves those who want little.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use defender_gateway::testing::sim::Shape;
use defender_gateway::testing::task::Tasks;
use tokio::time::{Instant, sleep};

use super::group::{Cpu, Group};
use super::{ALONE, greed, upstream};
use crate::support::{Caller, Setup, Spawned, id, until};

const SIDECAR: usize = 128 << 20;
const SHARED: usize = 256 << 20;

/// No pause when an answer begins.
const PROMPT: Duration = Duration::ZERO;

/// The program under a limit.
struct Limited {
    spawned: Spawned,
    /// Without one, the system allows no group, and the program was told its limit.
    group: Option<Group>,
    limit: usize,
    address: SocketAddr,
}

/// A caller who wants little, all the time.
struct Modest {
    over: Arc<AtomicBool>,
    counts: Arc<Counts>,
    tasks: Tasks,
    /// On a thread of its own: whoever makes the load must not delay whoever looks.
    probing: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Counts {
    served: AtomicUsize,
    missed: AtomicUsize,
    slowest_ms: AtomicUsize,
    live: AtomicUsize,
    dead: AtomicUsize,
    slowest_live_ms: AtomicUsize,
}

impl Limited {
    async fn start(limit: usize, cpu: Cpu, cache: Option<&str>) -> Self {
        raise_open_files();
        let group = Group::try_new(limit, cpu);
        let upstream = upstream::start().await;
        let mut setup = Setup::new()
            .limits(Shape::SlidingLog, &["1000000/1m"])
            .set("quota.burst", "1000000")
            .set("defender.regions", &format!("eu=http://{upstream}"))
            .set("cache.ttl", "1h");
        if let Some(cache) = cache {
            setup = setup.set("cache.max_size", cache);
        }
        if group.is_none() {
            setup = setup.set("server.memory", &format!("{limit}B"));
        }
        let enter = group.as_ref().map_or_else(|| "true".to_owned(), Group::enter);
        let spawned = setup.spawn_behind(&enter).await;
        let address = spawned.caller().base().replace("http://", "").parse().unwrap();
        assert_eq!(spawned.caller().ask(&[id(0)]).await.status, 200);
        Self {
            spawned,
            group,
            limit,
            address,
        }
    }

    fn modest(&self) -> Modest {
        let (over, counts, tasks) = (Arc::new(AtomicBool::new(false)), Arc::<Counts>::default(), Tasks::new());
        let (caller, admin) = (self.spawned.caller(), self.spawned.admin());
        tasks.spawn("modest", ask(caller, Arc::clone(&over), Arc::clone(&counts)));
        let probing = probe(admin, Arc::clone(&over), Arc::clone(&counts));
        let body = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(probing);
        };
        Modest {
            over,
            counts,
            tasks,
            probing: std::thread::Builder::new().name("probe".into()).spawn(body).unwrap(),
        }
    }

    /// Whether it lives, has stayed below its limit, and serves.
    async fn finish(self, what: &str) {
        let served = async || {
            let caller = self.spawned.caller();
            let request = caller
                .history_request()
                .body(crate::support::body(&[id(999_999)]))
                .unwrap();
            let answer = caller.try_send(request).await.ok()?;
            (answer.status == 200).then_some(())
        };
        until("an answer after all that", served).await;
        let high = high_water_kib(self.spawned.gateway.pid());
        let peak = self.group.as_ref().and_then(Group::peak_kib);
        let sockets = self.group.as_ref().map_or(0, Group::sockets_peak_kib);
        println!(
            "{what}: at most {} MiB resident, {:?} MiB with the kernel's part, {} MiB in sockets, of {} MiB",
            high / 1024,
            peak.map(|peak| peak / 1024),
            sockets / 1024,
            self.limit >> 20
        );
        let output = self.spawned.finish().await;
        assert!(!output.contains("panicked"), "{output}");
        match self.group {
            Some(group) => {
                assert_eq!(group.kills(), 0);
                // Version 2 would count both together.
                let all = peak.unwrap_or(0) + sockets;
                assert!(all <= self.limit / 1024, "{all} KiB");
            }
            None => assert!(high <= self.limit / 1024, "{high} KiB"),
        }
    }
}

impl Modest {
    async fn finish(self) -> Arc<Counts> {
        self.over.store(true, Ordering::Relaxed);
        while !self.tasks.is_empty() || !self.probing.is_finished() {
            sleep(Duration::from_millis(10)).await;
        }
        self.probing.join().unwrap();
        println!("a modest caller meanwhile: {:?}", self.counts);
        self.counts
    }
}

/// What is known, on one connection.
async fn ask(caller: Caller, over: Arc<AtomicBool>, counts: Arc<Counts>) {
    while !over.load(Ordering::Relaxed) {
        let from = Instant::now();
        let request = caller.history_request().body(crate::support::body(&[id(0)])).unwrap();
        let answer = caller.try_send(request).await;
        let is_served = answer.is_ok_and(|answer| answer.status == 200);
        let count = if is_served { &counts.served } else { &counts.missed };
        count.fetch_add(1, Ordering::Relaxed);
        slowest(&counts.slowest_ms, from);
        sleep(Duration::from_millis(50)).await;
    }
}

/// As the kubelet does, on a connection of its own each time.
async fn probe(admin: Caller, over: Arc<AtomicBool>, counts: Arc<Counts>) {
    while !over.load(Ordering::Relaxed) {
        let from = Instant::now();
        let caller = Caller::http1(admin.base());
        let request = caller
            .request(http::Method::GET, "/livez")
            .body(bytes::Bytes::new())
            .unwrap();
        let is_live = caller.try_send(request).await.is_ok_and(|answer| answer.status == 200);
        let count = if is_live { &counts.live } else { &counts.dead };
        count.fetch_add(1, Ordering::Relaxed);
        slowest(&counts.slowest_live_ms, from);
        sleep(Duration::from_millis(100)).await;
    }
}

fn slowest(most_ms: &AtomicUsize, from: Instant) {
    let took_ms = usize::try_from(from.elapsed().as_millis()).unwrap();
    most_ms.fetch_max(took_ms, Ordering::Relaxed);
}

fn high_water_kib(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let high = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    high.trim().trim_end_matches(" kB").parse().unwrap()
}

fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_heads_that_do_not_end_fit_into_a_sidecar() {
    let _alone = ALONE.lock().await;
    let limited = Limited::start(SIDECAR, Cpu::All, Some("16MiB")).await;
    let modest = limited.modest();
    let made = greed::unfinished_heads(limited.address, 2000, Duration::from_secs(6)).await;
    let counts = modest.finish().await;
    assert!(made > 400, "{made} connections were made");
    assert!(
        counts.served.load(Ordering::Relaxed) > 0 && counts.dead.load(Ordering::Relaxed) == 0,
        "{counts:?}"
    );
    limited.finish("2,000 heads of 60 kB").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_answers_of_three_megabytes_at_once_fit_into_a_sidecar() {
    let _alone = ALONE.lock().await;
    let limited = Limited::start(SIDECAR, Cpu::All, Some("16MiB")).await;
    let modest = limited.modest();
    let outcome = greed::large_answers(limited.address, (1000, 100), 3000, PROMPT).await;
    println!("{outcome:?}");
    modest.finish().await;
    assert_eq!((outcome.wrong(), outcome.cut()), (0, 0), "{outcome:?}");
    // Those that fit at once, however slow a busy machine makes the others; alone it is nearly all.
    assert!(outcome.served() >= 8, "{outcome:?}");
    assert_eq!(outcome.served() + outcome.refused(), 100, "{outcome:?}");
    limited.finish("100 answers of 3 MB").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_pause_do_not_hold_more_than_there_is() {
    let _alone = ALONE.lock().await;
    let limited = Limited::start(SIDECAR, Cpu::All, Some("16MiB")).await;
    let modest = limited.modest();
    let outcome = greed::large_answers(limited.address, (1000, 80), 2000, Duration::from_secs(8)).await;
    println!("{outcome:?}");
    let counts = modest.finish().await;
    assert_eq!(outcome.wrong(), 0, "{outcome:?}");
    assert!(
        outcome.served() >= 4 && outcome.served() + outcome.refused() >= 60,
        "{outcome:?}"
    );
    assert_eq!(counts.missed.load(Ordering::Relaxed), 0, "{counts:?}");
    limited.finish("80 answers of 2 MB to readers that pause for 8 s").await;
}

/// As many answers as the cache holds, and more.
async fn fill_cache(limited: &Limited) {
    for n in 0..70 {
        let answer = greed::ask(limited.address, 2000 + n, 1000, PROMPT).await;
        assert!(answer.is_some_and(|(status, _)| status == 200), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_cache_with_heads_and_bodies_that_do_not_end_fits_into_the_shared_service() {
    let _alone = ALONE.lock().await;
    let limited = Limited::start(SHARED, Cpu::All, None).await;
    fill_cache(&limited).await;
    let modest = limited.modest();
    let hold = Duration::from_secs(6);
    tokio::join!(
        greed::unfinished_heads(limited.address, 2000, hold),
        greed::unfinished_bodies(limited.address, 63, hold),
    );
    modest.finish().await;
    limited.finish("a full cache, 2,000 heads and 63 bodies").await;
}

/// All kinds at once, again and again for so long.
async fn everything(limited: &Limited, lasts: Duration) {
    let until = Instant::now() + lasts;
    let mut round = 0;
    while Instant::now() < until {
        let (to, hold, first) = (limited.address, Duration::from_secs(5), 10_000 + round * 1000);
        let outcomes = tokio::join!(
            greed::unfinished_heads(to, 1000, hold),
            greed::unfinished_bodies(to, 40, hold),
            greed::unfinished_streams(to, 20, hold),
            greed::large_requests(to, 100, hold),
            greed::large_answers(to, (first, 40), 3000, PROMPT),
            greed::large_answers(to, (first + 500, 20), 2000, Duration::from_secs(8)),
        );
        round += 1;
        println!("round {round}: {outcomes:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_kinds_of_greed_at_once_fit_into_a_sidecar_with_half_a_core() {
    let _alone = ALONE.lock().await;
    let limited = Limited::start(SIDECAR, Cpu::Half, Some("16MiB")).await;
    let modest = limited.modest();
    everything(&limited, Duration::from_secs(1)).await;
    let counts = modest.finish().await;
    assert!(counts.served.load(Ordering::Relaxed) > 0, "{counts:?}");
    limited.finish("all kinds at once").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "ten minutes, for a release build"]
async fn ten_minutes_of_all_kinds_of_greed_at_the_sidecars_limit() {
    let _alone = ALONE.lock().await;
    let limited = Limited::start(SIDECAR, Cpu::Half, Some("16MiB")).await;
    fill_cache(&limited).await;
    let modest = limited.modest();
    everything(&limited, long_form()).await;
    let counts = modest.finish().await;
    limited.finish("ten minutes of all kinds").await;
    assert!(counts.served.load(Ordering::Relaxed) > 0, "{counts:?}");
    assert_eq!(counts.dead.load(Ordering::Relaxed), 0, "{counts:?}");
    assert!(counts.slowest_live_ms.load(Ordering::Relaxed) < 1000, "{counts:?}");
}

/// Ten minutes, or as many seconds as `GREED_SECONDS` says.
#[expect(clippy::disallowed_methods, reason = "said to the test, not to the program")]
fn long_form() -> Duration {
    let seconds = std::env::var("GREED_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(600))
}
