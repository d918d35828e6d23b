//! Limiters that come and go, in paused time.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use prometheus_client::registry::Registry;
use tokio::time::{Instant, advance, sleep};

use super::{Config, TokenLimiters};
use crate::attempt::{Admitted, Attempt, Delivery, Failure, QueuePosition, Retries};
use crate::caller::{CacheDirectives, Caller, Name, RequestId, Urgency};
use crate::clock::Wall;
use crate::middleware::{Middleware as _, Next};
use crate::operation::Input;
use crate::queue::{Reason, Refused};
use crate::scan::{CallerToken, Endpoint, Headers, Operation, Payer, Request, UpstreamResponse, route};
use crate::task::Tasks;
use crate::{queue, quota};

const ATTEMPT: Duration = Duration::from_secs(5);
const WINDOW: Duration = Duration::from_mins(1);

/// Two calls a minute for everybody.
fn token_limiters(tasks: &Tasks) -> TokenLimiters {
    let two = NonZeroU32::new(2).unwrap();
    let limit = quota::Limit::try_new(two, WINDOW).unwrap();
    let config = Config {
        quota: quota::Config::try_new(vec![limit], two, ATTEMPT).unwrap(),
        queue: queue::Config {
            max_requests: 100,
            max_requests_per_caller: 100,
            ..queue::Config::default()
        },
    };
    let metrics = queue::Metrics::register(&mut Registry::default());
    let own = quota::Quota::open(&config.quota, Wall::system(), quota::Metrics::default()).unwrap();
    TokenLimiters::open(config, vec![own], Wall::system(), tasks, metrics)
}

fn history_request(token: Option<&str>) -> Request {
    let plain = Request::plain(Endpoint::HISTORY, ["a"]).unwrap();
    match token {
        Some(token) => plain.with_token(CallerToken::new(token).unwrap()),
        None => plain,
    }
}

fn payer(token: &str) -> Payer {
    history_request(Some(token)).payer()
}

fn caller_at(name: &str, deadline: Instant) -> Caller {
    Caller {
        name: Name::new(name),
        urgency: Urgency::default(),
        deadline,
        wait: None,
        cache_directives: CacheDirectives::default(),
        request_id: RequestId::random(),
        trace: crate::telemetry::trace::Trace::None,
        has_fallback: false,
    }
}

async fn ask(token_limiters: &TokenLimiters, token: Option<&str>, wait: Duration) -> Result<UpstreamResponse, Failure> {
    let now = Instant::now();
    let caller = caller_at("test", now + wait);
    let attempt = Attempt {
        request: Arc::new(history_request(token)),
        caller: Arc::new(caller),
        position: QueuePosition::new(now),
        retries: Retries::default(),
    };
    let inner = tower::service_fn(async |granted: Admitted<quota::Permit>| {
        let mut permit = granted.permit;
        permit.leave();
        sleep(Duration::from_millis(100)).await;
        permit.settle();
        Ok(UpstreamResponse {
            status: StatusCode::OK,
            headers: Headers::default(),
            body: Bytes::new(),
        })
    });
    token_limiters.call(attempt, &Next::new(inner)).await
}

fn reason(failure: &Failure) -> Reason {
    assert_eq!(failure.delivery, Delivery::NoSlot);
    failure.source.downcast_ref::<Refused>().unwrap().reason
}

#[tokio::test(start_paused = true)]
async fn one_tokens_calls_are_no_other_tokens_affair() {
    let tasks = Tasks::new();
    let token_limiters = token_limiters(&tasks);
    for token in [Some("a"), Some("b"), None] {
        for _ in 0..2 {
            ask(&token_limiters, token, Duration::ZERO).await.unwrap();
        }
        let refused = ask(&token_limiters, token, Duration::ZERO).await.unwrap_err();
        assert_eq!(reason(&refused), Reason::Late);
        assert!(!token_limiters.has_surplus(payer("a")));
    }
    assert_eq!(token_limiters.len(), 2);
    let refused = token_limiters.queues().map(queue::Queue::refused_for_slots);
    assert_eq!(refused.sum::<u64>(), 1, "the gateway's own quota refused one");
    assert!(token_limiters.predicted_wait(payer("a")) > Duration::from_secs(50));
    assert_eq!(token_limiters.predicted_wait(payer("c")), Duration::ZERO);
    assert!(!token_limiters.has_surplus(payer("c")));
}

#[tokio::test(start_paused = true)]
async fn a_limiters_clock_hands_out_slots_as_they_come() {
    let tasks = Tasks::new();
    let token_limiters = token_limiters(&tasks);
    let before = Instant::now();
    for _ in 0..3 {
        ask(&token_limiters, Some("a"), 2 * WINDOW).await.unwrap();
    }
    assert!(before.elapsed() >= WINDOW / 2, "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_limiter_is_forgotten_when_its_calls_count_no_more_and_not_before() {
    let tasks = Tasks::new();
    let token_limiters = token_limiters(&tasks);
    let clocks = tasks.len();
    for n in 0..TokenLimiters::MAX {
        ask(&token_limiters, Some(&format!("token-{n}")), Duration::ZERO)
            .await
            .unwrap();
    }
    assert_eq!(
        (token_limiters.len(), tasks.len() - clocks),
        (TokenLimiters::MAX, TokenLimiters::MAX)
    );
    // As many as may be: a further one is refused, those that are known and the gateway's own are
    // not.
    let failure = ask(&token_limiters, Some("further"), Duration::ZERO).await.unwrap_err();
    assert_eq!(reason(&failure), Reason::Tokens);
    let retry_after = failure.source.downcast_ref::<Refused>().unwrap().retry_after;
    assert!(
        retry_after > Duration::from_secs(50) && retry_after < WINDOW,
        "{retry_after:?}"
    );
    ask(&token_limiters, None, Duration::ZERO).await.unwrap();
    ask(&token_limiters, Some("token-0"), Duration::ZERO).await.unwrap();
    // It said when to come back; token-0's second call is younger, so its limiter stays.
    advance(retry_after).await;
    ask(&token_limiters, Some("further"), Duration::ZERO).await.unwrap();
    assert!(token_limiters.limiter_exists(payer("token-0")));
    assert!(!token_limiters.limiter_exists(payer("token-1")));
    advance(2 * WINDOW).await;
    ask(&token_limiters, Some("another"), Duration::ZERO).await.unwrap();
    assert_eq!(token_limiters.len(), 1);
    let expected = TokenLimiters::MAX as u64 + 4;
    assert_eq!(token_limiters.calls(), expected, "no call is forgotten");
    // Their clocks are gone as well.
    tokio::task::yield_now().await;
    sleep(Duration::from_millis(1)).await;
    assert_eq!(tasks.len() - clocks, 1);
}

#[tokio::test(start_paused = true)]
async fn a_limiter_that_somebody_is_on_stays() {
    let tasks = Tasks::new();
    let token_limiters = token_limiters(&tasks);
    let on = token_limiters.enter(payer("a")).unwrap();
    ask(&token_limiters, Some("b"), Duration::ZERO).await.unwrap();
    assert!(token_limiters.limiter_exists(payer("a")));
    drop(on);
    ask(&token_limiters, Some("c"), Duration::ZERO).await.unwrap();
    assert!(!token_limiters.limiter_exists(payer("a")), "nothing was counted on it");
}

#[tokio::test(start_paused = true)]
async fn closing_closes_every_limiter_and_those_that_come() {
    let tasks = Tasks::new();
    let token_limiters = token_limiters(&tasks);
    for token in [Some("a"), None] {
        for _ in 0..2 {
            ask(&token_limiters, token, Duration::ZERO).await.unwrap();
        }
    }
    token_limiters.close(Instant::now() + Duration::from_secs(1));
    for token in [Some("a"), None] {
        let refused = ask(&token_limiters, token, 2 * WINDOW).await.unwrap_err();
        assert_eq!(reason(&refused), Reason::ShuttingDown);
    }
    for _ in 0..2 {
        ask(&token_limiters, Some("b"), 2 * WINDOW).await.unwrap();
    }
    let refused = ask(&token_limiters, Some("b"), 2 * WINDOW).await.unwrap_err();
    assert_eq!(reason(&refused), Reason::ShuttingDown);
}

impl TokenLimiters {
    fn limiter_exists(&self, payer: Payer) -> bool {
        self.limiter(payer).is_some()
    }
}

/// Two hundred callers, each of whom asks one operation after the other for an hour, and all that
/// left, by operation.
async fn mixed_hour(quotas: usize) -> Vec<Vec<Duration>> {
    let tasks = Tasks::new();
    let limit = |calls, window| quota::Limit::try_new(NonZeroU32::new(calls).unwrap(), window).unwrap();
    let limits = vec![limit(100, Duration::from_mins(1)), limit(1500, Duration::from_hours(1))];
    let burst = NonZeroU32::new(100).unwrap();
    let config = Config {
        quota: quota::Config::try_new(limits, burst, ATTEMPT).unwrap(),
        queue: queue::Config {
            max_requests: 1000,
            max_requests_per_caller: 100,
            ..queue::Config::default()
        },
    };
    let quotas = (0..quotas).map(|_| quota::Quota::ephemeral(&config.quota, Wall::system(), quota::Metrics::default()));
    let (quotas, metrics) = (quotas.collect(), queue::Metrics::register(&mut Registry::default()));
    let token_limiters = TokenLimiters::open(config, quotas, Wall::system(), &tasks, metrics);
    let start = Instant::now();
    let arrived = Arc::new(std::sync::Mutex::new(vec![Vec::new(); Operation::ALL.len()]));
    let callers = (0..200_usize).map(|caller| {
        let (token_limiters, arrived) = (token_limiters.clone(), Arc::clone(&arrived));
        async move {
            for turn in caller.. {
                if start.elapsed() >= Duration::from_hours(1) {
                    return;
                }
                let operation = Operation::ALL[turn % Operation::ALL.len()];
                let path = Endpoint::latest(operation).template().replace("{id}", "a1");
                let target = route(&path).unwrap();
                let request = match operation.declaration().input {
                    Input::Path => Request::get(&target, None),
                    Input::Ids { .. } => Request::plain(target.endpoint, ["a1"]),
                };
                let now = Instant::now();
                let attempt = Attempt {
                    request: Arc::new(request.unwrap()),
                    caller: Arc::new(caller_at(&caller.to_string(), now + Duration::from_mins(10))),
                    position: QueuePosition::new(now),
                    retries: Retries::default(),
                };
                let arrived = Arc::clone(&arrived);
                let inner = tower::service_fn(move |granted: Admitted<quota::Permit>| {
                    let arrived = Arc::clone(&arrived);
                    async move {
                        let mut permit = granted.permit;
                        permit.leave();
                        // The way takes longer for some than for others.
                        sleep(Duration::from_millis(10 + (turn as u64 * 37) % 200)).await;
                        arrived.lock().unwrap()[operation as usize].push(start.elapsed());
                        permit.settle();
                        Ok(UpstreamResponse {
                            status: StatusCode::OK,
                            headers: Headers::default(),
                            body: Bytes::new(),
                        })
                    }
                });
                if token_limiters.call(attempt, &Next::new(inner)).await.is_err() {
                    sleep(Duration::from_mins(1)).await;
                }
            }
        }
    });
    futures_util::future::join_all(callers).await;
    let arrived = arrived.lock().unwrap();
    arrived.clone()
}

#[expect(clippy::ptr_arg, reason = "it is given to `map` over lists")]
fn within_the_hour(calls: &Vec<Duration>) -> usize {
    calls.iter().filter(|at| **at < Duration::from_hours(1)).count()
}

fn is_within(arrivals: impl IntoIterator<Item = Duration>) -> bool {
    let mut judge = sim::QuotaVerifier::new(&["100/1m".parse().unwrap(), "1500/1h".parse().unwrap()]);
    judge.extend(arrivals);
    judge.is_satisfied()
}

#[tokio::test(start_paused = true)]
async fn no_window_is_over_when_all_operations_count_together() {
    let arrived = mixed_hour(1).await;
    let calls: usize = arrived.iter().map(within_the_hour).sum();
    assert!(is_within(arrived.iter().flatten().copied()), "{calls}");
    assert!((1400..=1500).contains(&calls), "{calls}");
    assert!(arrived.iter().all(|calls| calls.len() > 100), "each has its turn");
}

#[tokio::test(start_paused = true)]
async fn no_window_is_over_when_each_operation_counts_by_itself() {
    let arrived = mixed_hour(Operation::ALL.len()).await;
    for calls in &arrived {
        assert!(is_within(calls.iter().copied()), "{}", calls.len());
        assert!((1400..=1500).contains(&within_the_hour(calls)), "{}", calls.len());
    }
    assert!(
        !is_within(arrived.iter().flatten().copied()),
        "together they are more than one could make"
    );
}
