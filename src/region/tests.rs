//! The choice of a host, in paused time with scripted probes and calls.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{HeaderMap, StatusCode};
use tokio::time::Instant;
use tower::{Layer as _, Service as _, ServiceExt as _, service_fn};
use url::Url;

use crate::BoxError;
use crate::attempt::{Again, Failure, Fate, Outgoing, Routed};
use crate::caller::{Caller, Freshness, Name, Urgency};
use crate::region::{Candidate, Config, ConfigError, Fault, Metrics, Probe, RegionLayer, Table};
use crate::scan::{Answer, Request, Version};
use crate::task::Tasks;

/// What happens at a host.
#[derive(Clone, Copy, PartialEq)]
enum Is {
    /// Connects after this many milliseconds and answers.
    Up(u64),
    /// Connects after this many milliseconds, give or take 30 %, and answers.
    Noisy(u64),
    /// Refuses connections.
    Refused,
    /// Never answers a connection attempt, which the client gives up after 3 s.
    BlackHole,
    /// Connects after this many milliseconds and answers 503.
    Busy(u64),
    /// Connects, and loses the connection after the request was written.
    Losing(u64),
}

/// The world as probes and calls see it: `eu`, `us` and so on.
#[derive(Clone, Default)]
struct World {
    hosts: Arc<Mutex<HashMap<String, Is>>>,
    calls: Arc<Mutex<Vec<String>>>,
}

#[derive(Debug, thiserror::Error)]
#[error("no connection")]
struct NoConnection;

impl World {
    fn set(&self, host: &str, is: Is) {
        self.hosts.lock().unwrap().insert(format!("{host}.test"), is);
    }

    async fn connect(&self, base: &Url) -> Result<(Is, Duration), BoxError> {
        let is = self.hosts.lock().unwrap()[base.host_str().unwrap()];
        let ms = match is {
            Is::Up(ms) | Is::Busy(ms) | Is::Losing(ms) => ms,
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "small and positive"
            )]
            Is::Noisy(ms) => (ms as f64 * (0.7 + 0.6 * rand::random::<f64>())) as u64,
            Is::Refused => return Err(NoConnection.into()),
            Is::BlackHole => {
                tokio::time::sleep(Duration::from_secs(3)).await;
                return Err(NoConnection.into());
            }
        };
        let setup = Duration::from_millis(ms);
        tokio::time::sleep(setup).await;
        Ok((is, setup))
    }

    async fn call(&self, routed: Routed) -> Result<Answer, Failure> {
        let host = routed.base.host_str().unwrap().trim_end_matches(".test").to_owned();
        self.calls.lock().unwrap().push(host);
        let failure = |fate, source: BoxError| Failure {
            fate,
            again: Again::Once,
            answer: None,
            source,
        };
        let (is, _) = self
            .connect(&routed.base)
            .await
            .map_err(|error| failure(Fate::Unsent, error))?;
        if matches!(is, Is::Losing(_)) {
            return Err(failure(Fate::Unknown, "lost".into()));
        }
        Ok(Answer {
            status: if matches!(is, Is::Busy(_)) {
                StatusCode::SERVICE_UNAVAILABLE
            } else {
                StatusCode::OK
            },
            headers: HeaderMap::new(),
            body: bytes::Bytes::new(),
        })
    }

    fn called(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

impl Probe for World {
    fn measure(&self, base: Arc<Url>) -> BoxFuture<'_, Result<Duration, BoxError>> {
        Box::pin(async move { Ok(self.connect(&base).await?.1) })
    }
}

fn classify(failure: &Failure, _: &Url) -> Option<Fault> {
    match failure.fate {
        Fate::Unsent if failure.source.is::<NoConnection>() => Some(Fault::Connection),
        Fate::Unknown => Some(Fault::Trouble),
        _ => None,
    }
}

fn candidate(name: &str) -> Candidate {
    Candidate {
        name: name.into(),
        url: format!("https://{name}.test").parse().unwrap(),
    }
}

struct Bench {
    world: World,
    table: Table,
    tasks: Tasks,
}

impl Bench {
    fn new<const N: usize>(hosts: [(&str, Is); N]) -> Self {
        let bench = Self::unwatched(hosts);
        bench.table.watch(&bench.tasks, bench.world.clone());
        bench
    }

    fn unwatched<const N: usize>(hosts: [(&str, Is); N]) -> Self {
        let world = World::default();
        for (host, is) in hosts {
            world.set(host, is);
        }
        let config = Config::new(hosts.iter().map(|(name, _)| candidate(name)).collect()).unwrap();
        Self {
            world,
            table: Table::new(config, Metrics::default()),
            tasks: Tasks::new(),
        }
    }

    async fn call(&self) -> Result<Answer, Failure> {
        let world = self.world.clone();
        let inner = service_fn(move |routed| {
            let world = world.clone();
            async move { world.call(routed).await }
        });
        let layer = RegionLayer::new(self.table.clone()).with_classify(classify);
        layer.layer(inner).ready().await?.call(outgoing()).await
    }

    fn selected(&self) -> String {
        let rows = self.table.snapshot();
        assert_eq!(rows.iter().filter(|row| row.selected).count(), 1);
        rows.into_iter().find(|row| row.selected).unwrap().name.to_string()
    }

    fn healthy(&self, name: &str) -> bool {
        self.table
            .snapshot()
            .into_iter()
            .find(|row| &*row.name == name)
            .unwrap()
            .healthy
    }
}

fn outgoing() -> Outgoing {
    Outgoing {
        request: Arc::new(Request::plain(Version::Latest, ["a"]).unwrap()),
        caller: Arc::new(Caller {
            name: Name::new("test"),
            urgency: Urgency::default(),
            deadline: Instant::now() + Duration::from_secs(30),
            wait: None,
            freshness: Freshness::default(),
            request_id: "1".into(),
        }),
    }
}

async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

const ROUND: Duration = Duration::from_secs(34);

#[tokio::test(start_paused = true)]
async fn the_first_call_waits_for_the_first_probe_and_goes_to_the_nearest() {
    let bench = Bench::new([("us", Is::Up(90)), ("eu", Is::Up(10)), ("au", Is::Up(300))]);
    let begun = Instant::now();
    bench.call().await.unwrap();
    assert_eq!(bench.world.called(), ["eu"]);
    assert_eq!(begun.elapsed(), Duration::from_millis(20), "one probe, one call");
}

#[tokio::test(start_paused = true)]
async fn without_any_probe_the_first_call_goes_to_the_first_candidate_after_a_second() {
    let bench = Bench::unwatched([("us", Is::Up(90)), ("eu", Is::Up(10))]);
    let begun = Instant::now();
    bench.call().await.unwrap();
    bench.call().await.unwrap();
    assert_eq!(bench.world.called(), ["us", "us"]);
    assert_eq!(
        begun.elapsed(),
        Duration::from_millis(1000 + 2 * 90),
        "only the first one waited"
    );
}

#[tokio::test(start_paused = true)]
async fn swapped_latencies_are_followed_within_two_rounds() {
    let bench = Bench::new([("us", Is::Up(80)), ("eu", Is::Up(10))]);
    pass(3 * ROUND).await;
    assert_eq!(bench.selected(), "eu");
    bench.world.set("us", Is::Up(10));
    bench.world.set("eu", Is::Up(80));
    pass(2 * ROUND).await;
    assert_eq!(bench.selected(), "us");
    pass(100 * ROUND).await;
    assert_eq!(bench.selected(), "us");
}

#[tokio::test(start_paused = true)]
async fn a_latency_step_is_left_within_two_rounds() {
    let bench = Bench::new([("us", Is::Up(80)), ("eu", Is::Up(10))]);
    pass(3 * ROUND).await;
    bench.world.set("eu", Is::Up(310));
    pass(2 * ROUND).await;
    assert_eq!(bench.selected(), "us");
}

#[tokio::test(start_paused = true)]
async fn equal_noisy_latencies_do_not_flap_for_a_day() {
    let bench = Bench::new([("us", Is::Noisy(40)), ("eu", Is::Noisy(40)), ("uk", Is::Noisy(42))]);
    pass(10 * ROUND).await;
    let mut selected = bench.selected();
    let mut changes = 0;
    for _ in 0..2_500 {
        pass(ROUND).await;
        if bench.selected() != selected {
            selected = bench.selected();
            changes += 1;
        }
    }
    assert!(changes <= 1, "{changes} changes");
}

#[tokio::test(start_paused = true)]
async fn a_refusing_host_is_left_at_once_without_an_error_and_taken_back() {
    let bench = Bench::new([("us", Is::Up(80)), ("eu", Is::Up(10))]);
    pass(ROUND).await;
    bench.world.set("eu", Is::Refused);
    bench.call().await.unwrap();
    bench.call().await.unwrap();
    assert_eq!(bench.world.called(), ["eu", "us", "us"], "one try, then no more");
    assert!(!bench.healthy("eu"));
    pass(20 * ROUND).await;
    bench.world.set("eu", Is::Up(10));
    pass(Duration::from_secs(61)).await;
    assert!(bench.healthy("eu"));
    assert_eq!(bench.selected(), "eu");
}

#[tokio::test(start_paused = true)]
async fn a_failed_probe_moves_calls_away_before_any_call_fails() {
    let bench = Bench::new([("us", Is::Up(80)), ("eu", Is::Up(10))]);
    pass(ROUND).await;
    bench.world.set("eu", Is::BlackHole);
    pass(ROUND + Duration::from_secs(4)).await;
    bench.call().await.unwrap();
    assert_eq!(bench.world.called(), ["us"]);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_may_have_arrived_goes_nowhere_else_but_the_next_one_does() {
    let bench = Bench::new([("us", Is::Up(80)), ("eu", Is::Losing(10))]);
    pass(ROUND).await;
    assert_eq!(bench.call().await.unwrap_err().fate, Fate::Unknown);
    assert_eq!(bench.world.called(), ["eu"]);
    bench.call().await.unwrap();
    assert_eq!(
        bench.world.called(),
        ["us"],
        "the retry layer's attempt meets another host"
    );
}

#[tokio::test(start_paused = true)]
async fn a_5xx_passes_and_repeated_ones_are_left() {
    let bench = Bench::new([("us", Is::Up(80)), ("eu", Is::Busy(10))]);
    pass(ROUND).await;
    let mut at_eu = 0;
    for _ in 0..60 {
        let answer = bench.call().await.unwrap();
        at_eu += u32::from(answer.status == StatusCode::SERVICE_UNAVAILABLE);
        pass(Duration::from_secs(3)).await;
    }
    // Three until it is left, then one each time it is back: after 30 s, 60 s ...
    assert!((3..=6).contains(&at_eu), "{at_eu}");
    bench.world.set("eu", Is::Up(10));
    pass(Duration::from_mins(11)).await;
    assert_eq!(bench.selected(), "eu");
}

#[tokio::test(start_paused = true)]
async fn when_all_go_down_each_is_tried_once_and_then_one_per_call() {
    let bench = Bench::unwatched([("us", Is::Refused), ("eu", Is::Refused), ("uk", Is::Refused)]);
    assert!(bench.call().await.is_err());
    assert_eq!(bench.world.called(), ["us", "eu", "uk"]);
    assert!(bench.call().await.is_err());
    assert_eq!(bench.world.called().len(), 1);
    pass(Duration::from_secs(2)).await;
    bench.world.set("uk", Is::Up(10));
    bench.call().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn looking_for_a_host_is_bounded_in_time() {
    let bench = Bench::unwatched(["a", "b", "c", "d", "e", "f", "g", "h"].map(|name| (name, Is::BlackHole)));
    pass(Duration::from_secs(1)).await;
    let begun = Instant::now();
    assert_eq!(bench.call().await.unwrap_err().fate, Fate::Unsent);
    assert_eq!(begun.elapsed(), Duration::from_secs(12), "four attempts of 3 s");
}

#[tokio::test(start_paused = true)]
async fn the_least_bad_serves_when_all_have_been_left() {
    let bench = Bench::new([("us", Is::Refused), ("eu", Is::Busy(10))]);
    pass(ROUND).await;
    for _ in 0..10 {
        bench.call().await.unwrap();
    }
    bench.world.called();
    assert!(!bench.healthy("us") && !bench.healthy("eu"));
    bench.world.set("eu", Is::Up(10));
    assert_eq!(bench.call().await.unwrap().status, StatusCode::OK);
    assert_eq!(
        bench.world.called(),
        ["eu"],
        "one that connects before one that does not"
    );
}

#[tokio::test(start_paused = true)]
async fn failures_that_are_not_the_hosts_leave_it_alone() {
    let bench = Bench::new([("us", Is::Up(80)), ("eu", Is::Up(10))]);
    pass(ROUND).await;
    let no_token = service_fn(|_: Routed| async {
        Err::<Answer, _>(Failure {
            fate: Fate::Unsent,
            again: Again::Never,
            answer: None,
            source: "no token".into(),
        })
    });
    let layer = RegionLayer::new(bench.table.clone());
    for _ in 0..10 {
        assert!(layer.layer(no_token).oneshot(outgoing()).await.is_err());
    }
    assert!(bench.healthy("eu"));
    assert_eq!(bench.selected(), "eu");
}

#[test]
fn labels_are_unique_and_bad_candidates_are_refused() {
    let twin = Candidate {
        name: "eu".into(),
        url: "https://api-eu.test:8443".parse().unwrap(),
    };
    let config = Config::new(vec![candidate("eu"), twin, candidate("us")]).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let _guard = runtime.enter();
    let labels: Vec<_> = Table::new(config, Metrics::default())
        .labels()
        .into_iter()
        .map(|(_, label)| label)
        .collect();
    assert_eq!(
        labels.iter().map(AsRef::as_ref).collect::<Vec<&str>>(),
        ["eu", "eu (api-eu.test:8443)", "us"]
    );
    assert_eq!(Config::new(vec![]).unwrap_err(), ConfigError::Empty);
    assert!(matches!(
        Config::new(vec![candidate("eu"); 2]).unwrap_err(),
        ConfigError::Twice(_)
    ));
    assert_eq!(
        Config::new(vec![candidate("eu"); 33]).unwrap_err(),
        ConfigError::TooMany { count: 33 }
    );
}
