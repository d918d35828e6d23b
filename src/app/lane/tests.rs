//! Lanes that come and go, in paused time.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use prometheus_client::registry::Registry;
use tokio::time::{Instant, advance, sleep};
use tower::{Layer as _, ServiceExt as _};

use super::{Config, Lanes, Layer, Meters};
use crate::attempt::{Failure, Fate, Granted, Place, Retries, Try};
use crate::caller::{Caller, Freshness, Name, RequestId, Urgency};
use crate::clock::Wall;
use crate::coalesce::Alone;
use crate::queue::{Reason, Refused};
use crate::scan::{Answer, Delegated, Endpoint, Fields, Holder, Request};
use crate::task::Tasks;
use crate::{queue, quota};

const ATTEMPT: Duration = Duration::from_secs(5);
const WINDOW: Duration = Duration::from_mins(1);

/// Two calls a minute for everybody.
fn lanes(tasks: &Tasks) -> Lanes {
    let two = NonZeroU32::new(2).unwrap();
    let limit = quota::Limit::try_new(two, WINDOW).unwrap();
    let config = Config {
        quota: quota::Config::try_new(vec![limit], two, ATTEMPT).unwrap(),
        queue: queue::Config {
            max_requests: 100,
            max_requests_per_caller: 100,
            longest_wait: Duration::from_mins(10),
            weights: [].into_iter().collect(),
        },
    };
    let mut registry = Registry::default();
    let meters = Meters {
        quota: quota::Metrics::register(&mut registry),
        queue: queue::Metrics::register(&mut registry),
    };
    let own = quota::Quota::open(&config.quota, Wall::system(), meters.quota.clone()).unwrap();
    Lanes::open(config, own, Wall::system(), tasks, meters)
}

fn question(token: Option<&str>) -> Request {
    let plain = Request::plain(Endpoint::HISTORY, ["a"]).unwrap();
    match token {
        Some(token) => plain.with_token(Delegated::new(token).unwrap()),
        None => plain,
    }
}

fn holder(token: &str) -> Option<Holder> {
    question(Some(token)).holder()
}

async fn ask(lanes: &Lanes, token: Option<&str>, wait: Duration) -> Result<Answer, Failure> {
    let name = Name::new("test");
    let now = Instant::now();
    let caller = Caller {
        name: name.clone(),
        urgency: Urgency::default(),
        deadline: now + wait,
        wait: None,
        freshness: Freshness::default(),
        request_id: RequestId::random(),
        trace: crate::telemetry::trace::Trace::None,
    };
    let attempt = Try {
        load: Arc::new(Alone::new(Arc::new(question(token)), name)),
        caller: Arc::new(caller),
        place: Place::new(now),
        retries: Retries::default(),
    };
    let inner = tower::service_fn(async |granted: Granted<quota::Permit>| {
        let mut permit = granted.permit;
        permit.leave();
        sleep(Duration::from_millis(100)).await;
        permit.settle();
        Ok(Answer {
            status: StatusCode::OK,
            headers: Fields::default(),
            body: Bytes::new(),
        })
    });
    Layer::new(lanes.clone()).layer(inner).oneshot(attempt).await
}

fn reason(failure: &Failure) -> Reason {
    assert_eq!(failure.fate, Fate::Unsent);
    failure.source.downcast_ref::<Refused>().unwrap().reason
}

#[tokio::test(start_paused = true)]
async fn one_tokens_calls_are_no_other_tokens_affair() {
    let tasks = Tasks::new();
    let lanes = lanes(&tasks);
    for token in [Some("a"), Some("b"), None] {
        for _ in 0..2 {
            ask(&lanes, token, Duration::ZERO).await.unwrap();
        }
        let refused = ask(&lanes, token, Duration::ZERO).await.unwrap_err();
        assert_eq!(reason(&refused), Reason::Late);
        assert!(!lanes.has_surplus(holder("a")));
    }
    assert_eq!(lanes.len(), 2);
    assert!(lanes.predicted_wait(holder("a")) > Duration::from_secs(50));
    assert_eq!(lanes.predicted_wait(holder("c")), Duration::ZERO);
    assert!(!lanes.has_surplus(holder("c")));
}

#[tokio::test(start_paused = true)]
async fn a_lanes_clock_hands_out_slots_as_they_come() {
    let tasks = Tasks::new();
    let lanes = lanes(&tasks);
    let before = Instant::now();
    for _ in 0..3 {
        ask(&lanes, Some("a"), 2 * WINDOW).await.unwrap();
    }
    assert!(before.elapsed() >= WINDOW / 2, "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_lane_is_forgotten_when_its_calls_count_no_more_and_not_before() {
    let tasks = Tasks::new();
    let lanes = lanes(&tasks);
    let clocks = tasks.len();
    for n in 0..Lanes::MAX {
        ask(&lanes, Some(&format!("token-{n}")), Duration::ZERO).await.unwrap();
    }
    assert_eq!((lanes.len(), tasks.len() - clocks), (Lanes::MAX, Lanes::MAX));
    // As many as may be: a further one is refused, those that are known and the gateway's own are not.
    let failure = ask(&lanes, Some("further"), Duration::ZERO).await.unwrap_err();
    assert_eq!(reason(&failure), Reason::Tokens);
    let retry_after = failure.source.downcast_ref::<Refused>().unwrap().retry_after;
    assert!(
        retry_after > Duration::from_secs(50) && retry_after < WINDOW,
        "{retry_after:?}"
    );
    ask(&lanes, None, Duration::ZERO).await.unwrap();
    ask(&lanes, Some("token-0"), Duration::ZERO).await.unwrap();
    // It said when to come back; token-0's second call is younger, so its lane stays.
    advance(retry_after).await;
    ask(&lanes, Some("further"), Duration::ZERO).await.unwrap();
    assert!(lanes.lane_exists(holder("token-0")));
    assert!(!lanes.lane_exists(holder("token-1")));
    advance(2 * WINDOW).await;
    ask(&lanes, Some("another"), Duration::ZERO).await.unwrap();
    assert_eq!(lanes.len(), 1);
    // Their clocks are gone as well.
    tokio::task::yield_now().await;
    sleep(Duration::from_millis(1)).await;
    assert_eq!(tasks.len() - clocks, 1);
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_somebody_is_on_stays() {
    let tasks = Tasks::new();
    let lanes = lanes(&tasks);
    let on = lanes.enter(holder("a")).unwrap();
    ask(&lanes, Some("b"), Duration::ZERO).await.unwrap();
    assert!(lanes.lane_exists(holder("a")));
    drop(on);
    ask(&lanes, Some("c"), Duration::ZERO).await.unwrap();
    assert!(!lanes.lane_exists(holder("a")), "nothing was counted on it");
}

#[tokio::test(start_paused = true)]
async fn closing_closes_every_lane_and_those_that_come() {
    let tasks = Tasks::new();
    let lanes = lanes(&tasks);
    for token in [Some("a"), None] {
        for _ in 0..2 {
            ask(&lanes, token, Duration::ZERO).await.unwrap();
        }
    }
    lanes.close(Instant::now() + Duration::from_secs(1));
    for token in [Some("a"), None] {
        let refused = ask(&lanes, token, 2 * WINDOW).await.unwrap_err();
        assert_eq!(reason(&refused), Reason::ShuttingDown);
    }
    for _ in 0..2 {
        ask(&lanes, Some("b"), 2 * WINDOW).await.unwrap();
    }
    let refused = ask(&lanes, Some("b"), 2 * WINDOW).await.unwrap_err();
    assert_eq!(reason(&refused), Reason::ShuttingDown);
}

impl Lanes {
    fn lane_exists(&self, holder: Option<Holder>) -> bool {
        self.lane(holder).is_some()
    }
}
