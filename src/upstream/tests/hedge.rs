//! When a second attempt is made, who wins, and what each costs.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use prometheus_client::registry::Registry;
use tokio::time::Instant;
use tower::{Layer as _, ServiceExt as _, service_fn};
use url::Url;

use super::caller;
use crate::attempt::{Again, Failure, Fate, Granted, Load, Place, Route, Try};
use crate::caller::Name;
use crate::scan::{Answer, Fields, Holder, Request, Version};
use crate::upstream::{HedgeLayer, Metrics};

/// What the permits saw: how many were taken, and how many ended with their call or were dropped with it.
#[derive(Clone, Debug, Default)]
struct Purse {
    left: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Permit {
    purse: Purse,
    ended: bool,
}

impl Purse {
    fn of(n: usize) -> Self {
        let purse = Self::default();
        purse.left.store(n, Ordering::SeqCst);
        purse
    }

    fn permit(&self) -> Permit {
        Permit {
            purse: self.clone(),
            ended: false,
        }
    }

    fn spare(&self) -> Option<Permit> {
        let take = |left: usize| left.checked_sub(1);
        self.left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, take)
            .ok()
            .map(|_| self.permit())
    }

    /// Ended with their call, and dropped with it.
    fn ends(&self) -> (usize, usize) {
        (self.ended.load(Ordering::SeqCst), self.dropped.load(Ordering::SeqCst))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let count = if self.ended {
            &self.purse.ended
        } else {
            &self.purse.dropped
        };
        count.fetch_add(1, Ordering::SeqCst);
    }
}

/// Hands out another question each time, as a merged call does.
#[derive(Debug, Default)]
struct Changing(AtomicUsize);

impl Load for Changing {
    fn request(&self) -> Arc<Request> {
        let n = self.0.fetch_add(1, Ordering::SeqCst);
        let id = format!("question {n}");
        Arc::new(Request::plain(Version::Latest, [id.as_str()]).unwrap())
    }

    fn holder(&self) -> Option<Holder> {
        None
    }

    fn beneficiaries(&self) -> Vec<Name> {
        vec![]
    }
}

/// How a host answers.
#[derive(Clone, Copy)]
enum Is {
    /// 200 after so many milliseconds.
    Good(u64),
    /// 503 after so many milliseconds.
    Busy(u64),
    /// No answer, known after so many milliseconds.
    Lost(u64),
}

/// Two hosts behind the layer: `eu`, where first attempts go, and `us`.
struct Bench {
    layer: HedgeLayer<Permit>,
    hosts: Arc<Mutex<[Is; 2]>>,
    /// Host and question of each attempt.
    attempts: Arc<Mutex<Vec<(&'static str, String)>>>,
    purse: Purse,
    registry: Registry,
}

fn host(name: &str) -> Arc<Url> {
    Arc::new(format!("https://{name}.test").parse().unwrap())
}

impl Bench {
    fn new(spare: usize) -> Self {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry, []);
        let purse = Purse::of(spare);
        let taking = purse.clone();
        Self {
            layer: HedgeLayer::new(Arc::new(move |_| taking.spare()), metrics),
            hosts: Arc::new(Mutex::new([Is::Good(10), Is::Good(20)])),
            attempts: Arc::default(),
            purse,
            registry,
        }
    }

    /// One whose first host is known to answer within 10 ms.
    async fn warm(spare: usize) -> Self {
        let bench = Self::new(spare);
        for _ in 0..50 {
            bench.ask().await.unwrap();
        }
        bench.purse.ended.store(0, Ordering::SeqCst);
        bench.attempts.lock().unwrap().clear();
        bench
    }

    fn are(&self, eu: Is, us: Is) {
        *self.hosts.lock().unwrap() = [eu, us];
    }

    async fn ask(&self) -> Result<u16, Failure> {
        self.ask_until(Duration::from_secs(30)).await
    }

    async fn ask_until(&self, deadline: Duration) -> Result<u16, Failure> {
        let (hosts, attempts) = (Arc::clone(&self.hosts), Arc::clone(&self.attempts));
        let inner = service_fn(move |granted: Granted<Permit>| {
            let is = *hosts.lock().unwrap();
            let attempts = Arc::clone(&attempts);
            async move {
                let Granted {
                    attempt,
                    mut permit,
                    route,
                } = granted;
                let (name, is) = match route.avoided() {
                    None => ("eu", is[0]),
                    Some(avoided) => {
                        assert_eq!(*avoided, *host("eu"));
                        ("us", is[1])
                    }
                };
                let asked = String::from_utf8(attempt.load.request().body().to_vec()).unwrap();
                attempts.lock().unwrap().push((name, asked));
                route.turn(&host(name), Instant::now());
                let result = answer(is).await;
                permit.ended = true;
                result
            }
        });
        let granted = Granted {
            attempt: Try {
                load: Arc::new(Changing::default()),
                caller: caller(deadline),
                place: Place::new(Instant::now()),
            },
            permit: self.purse.permit(),
            route: Route::default(),
        };
        let answer = self.layer.layer(inner).oneshot(granted).await;
        answer.map(|answer| answer.status.as_u16())
    }

    fn hosts_asked(&self) -> Vec<&'static str> {
        self.attempts.lock().unwrap().iter().map(|(host, _)| *host).collect()
    }

    fn assert_counted(&self, result: &str) {
        let mut shown = String::new();
        prometheus_client::encoding::text::encode(&mut shown, &self.registry).unwrap();
        let line = format!("upstream_hedges_total{{result=\"{result}\"}} 1\n");
        assert!(shown.contains(&line), "{shown}");
    }
}

async fn answer(is: Is) -> Result<Answer, Failure> {
    let (ms, status) = match is {
        Is::Good(ms) => (ms, Some(StatusCode::OK)),
        Is::Busy(ms) => (ms, Some(StatusCode::SERVICE_UNAVAILABLE)),
        Is::Lost(ms) => (ms, None),
    };
    tokio::time::sleep(Duration::from_millis(ms)).await;
    let status = status.ok_or_else(|| Failure {
        fate: Fate::Unknown,
        again: Again::Once,
        answer: None,
        source: "lost".into(),
    })?;
    Ok(Answer {
        status,
        headers: Fields::default(),
        body: Bytes::new(),
    })
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_is_asked_for_elsewhere_and_the_loser_stays_charged() {
    let bench = Bench::warm(1).await;
    bench.are(Is::Good(10_000), Is::Good(20));
    let begun = Instant::now();
    assert_eq!(bench.ask().await.unwrap(), 200);
    assert_eq!(begun.elapsed(), Duration::from_millis(10 + 20));
    let question = r#"{"ScanDefinitionIds":["question 0"]}"#.to_owned();
    assert_eq!(
        *bench.attempts.lock().unwrap(),
        [("eu", question.clone()), ("us", question)],
        "the same question"
    );
    assert_eq!(bench.purse.ends(), (1, 1), "the winner ended, the loser was dropped");
    bench.assert_counted("won");
}

#[tokio::test(start_paused = true)]
async fn the_first_attempt_may_win_after_all() {
    let bench = Bench::warm(1).await;
    bench.are(Is::Good(15), Is::Good(20));
    let begun = Instant::now();
    assert_eq!(bench.ask().await.unwrap(), 200);
    assert_eq!(begun.elapsed(), Duration::from_millis(15));
    assert_eq!(bench.hosts_asked(), ["eu", "us"]);
    assert_eq!(bench.purse.ends(), (1, 1));
    bench.assert_counted("lost");
}

#[tokio::test(start_paused = true)]
async fn usual_answers_are_never_asked_for_twice() {
    let bench = Bench::warm(100).await;
    for _ in 0..50 {
        bench.ask().await.unwrap();
    }
    assert_eq!(bench.hosts_asked(), ["eu"; 50]);
}

#[tokio::test(start_paused = true)]
async fn without_a_spare_slot_or_past_the_deadline_or_with_too_few_answers_there_is_one_attempt() {
    let late = Is::Good(500);
    let poor = Bench::warm(0).await;
    poor.are(late, Is::Good(1));
    poor.ask().await.unwrap();
    assert_eq!(poor.hosts_asked(), ["eu"]);

    let hasty = Bench::warm(1).await;
    hasty.are(late, Is::Good(1));
    hasty.ask_until(Duration::from_millis(5)).await.unwrap();
    assert_eq!(hasty.hosts_asked(), ["eu"]);

    let new = Bench::new(1);
    new.are(late, Is::Good(1));
    new.ask().await.unwrap();
    assert_eq!(new.hosts_asked(), ["eu"]);
    assert_eq!(new.purse.ends(), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn only_a_good_answer_ends_the_race() {
    for (eu, us, expected, took, counted) in [
        (Is::Good(100), Is::Busy(1), Some(200), 100, "lost"),
        (Is::Busy(100), Is::Good(200), Some(200), 210, "won"),
        (Is::Lost(100), Is::Good(200), Some(200), 210, "won"),
        (Is::Good(100), Is::Lost(1), Some(200), 100, "lost"),
        (Is::Lost(100), Is::Busy(200), Some(503), 210, "failed"),
        (Is::Busy(100), Is::Lost(200), Some(503), 210, "failed"),
        (Is::Lost(100), Is::Lost(1), None, 100, "failed"),
    ] {
        let bench = Bench::warm(1).await;
        bench.are(eu, us);
        let begun = Instant::now();
        assert_eq!(bench.ask().await.ok(), expected);
        assert_eq!(begun.elapsed(), Duration::from_millis(took));
        bench.assert_counted(counted);
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_became_slow_is_soon_left_alone() {
    let bench = Bench::warm(1000).await;
    bench.are(Is::Good(40), Is::Good(100));
    for _ in 0..200 {
        bench.ask().await.unwrap();
    }
    let twice = bench.hosts_asked().iter().filter(|host| **host == "us").count();
    assert!((1..=10).contains(&twice), "{twice} second attempts");
}

#[tokio::test(start_paused = true)]
async fn dropped_by_its_caller_both_stay_charged() {
    let bench = Bench::warm(1).await;
    bench.are(Is::Good(10_000), Is::Good(10_000));
    let waited = tokio::time::timeout(Duration::from_secs(1), bench.ask()).await;
    assert!(waited.is_err());
    assert_eq!(bench.hosts_asked(), ["eu", "us"]);
    assert_eq!(bench.purse.ends(), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn switched_off_it_only_passes_on() {
    let mut bench = Bench::warm(1).await;
    bench.layer = HedgeLayer::off();
    bench.are(Is::Good(10_000), Is::Good(1));
    bench.ask().await.unwrap();
    assert_eq!(bench.hosts_asked(), ["eu"]);
}
