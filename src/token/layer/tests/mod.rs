//! Calls that get a token, and calls whose token is rejected.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::header::WWW_AUTHENTICATE;
use http::{HeaderValue, StatusCode};
use tokio::time::Instant;
use url::Url;

use crate::attempt::{Authorized, Charged, Delivery, Failure, RetryHint, Routed};
use crate::caller::{CacheDirectives, Caller, Name, RequestId, Urgency};
use crate::clock::Wall;
use crate::middleware::{Middleware as _, Next};
use crate::scan::{self, Headers, UpstreamResponse};
use crate::task::Tasks;
use crate::token::testing::{self, Reply, Service};
use crate::token::{Error, Metrics, TokenSource};

mod trial;

const NO_LICENCE: &str = r#"{"error":{"code":"no-licence"}}"#;

fn routed(deadline: Duration) -> Routed {
    let request = scan::Request::plain(scan::Endpoint::HISTORY, ["id-1"]).unwrap();
    routed_with(request, deadline)
}

fn routed_with(request: scan::Request, deadline: Duration) -> Routed {
    let caller = Caller {
        name: Name::new("test"),
        urgency: Urgency::default(),
        deadline: Instant::now() + deadline,
        wait: None,
        cache_directives: CacheDirectives::default(),
        request_id: RequestId::random(),
        trace: crate::telemetry::trace::Trace::None,
        has_fallback: false,
    };
    Routed {
        charged: Charged {
            request: Arc::new(request),
            caller: Arc::new(caller),
            retries: crate::attempt::Retries::default(),
            trace: crate::telemetry::trace::Call::None,
        },
        base: Arc::new(Url::parse("https://api.example").unwrap()),
        stall_timeout: crate::attempt::StallTimeout::default(),
    }
}

/// Defender: accepts the token `valid`, and counts calls.
#[derive(Clone, Default)]
struct Defender {
    valid: Arc<Mutex<Vec<&'static str>>>,
    /// Whether it says that it is the token that it does not accept.
    challenges: bool,
    calls: Arc<AtomicUsize>,
}

impl Defender {
    fn accepting(tokens: &[&'static str]) -> Self {
        let this = Self::default();
        *this.valid.lock().unwrap() = tokens.to_vec();
        this
    }

    async fn answer(self, signed: Authorized) -> Result<UpstreamResponse, Failure> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(50)).await;
        let is_valid = self.valid.lock().unwrap().contains(&signed.bearer.expose());
        let (status, body) = if is_valid {
            (StatusCode::OK, r#"{"value":[]}"#)
        } else {
            (StatusCode::UNAUTHORIZED, NO_LICENCE)
        };
        let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
        let headers = (self.challenges && !is_valid).then_some((WWW_AUTHENTICATE, &challenge));
        Ok(UpstreamResponse {
            status,
            headers: headers.into_iter().collect(),
            body: Bytes::from_static(body.as_bytes()),
        })
    }
}

struct Setting {
    sign_in: Service,
    token_source: TokenSource,
    tasks: Tasks,
}

fn setting(script: impl FnMut(usize) -> Reply + Send + 'static) -> Setting {
    let mut script = script;
    let sign_in = Service::new(move |number, _| script(number));
    let tasks = Tasks::new();
    let token_source = TokenSource::start(
        testing::secret_config(),
        sign_in.exchange(),
        testing::unused(),
        Wall::system(),
        &tasks,
        Metrics::register(&mut prometheus_client::registry::Registry::default()),
    );
    Setting {
        sign_in,
        token_source,
        tasks,
    }
}

/// Repeats the call once if that is worth it, as the retry layer above does.
async fn call(
    token_source: &TokenSource,
    defender: &Defender,
    deadline: Duration,
) -> Result<UpstreamResponse, Failure> {
    let attempt = async || {
        let defender = defender.clone();
        let inner = tower::service_fn(move |signed| defender.clone().answer(signed));
        token_source.call(routed(deadline), &Next::new(inner)).await
    };
    match attempt().await {
        Err(failure) if failure.again == RetryHint::Once => {
            assert_eq!(failure.delivery, Delivery::Answered);
            assert_eq!(failure.answer.unwrap().status, StatusCode::UNAUTHORIZED);
            attempt().await
        }
        done => done,
    }
}

const SOON: Duration = Duration::from_secs(30);

#[tokio::test(start_paused = true)]
async fn a_call_carries_the_token() {
    let set = setting(|n| Reply::token(["", "t1", "t2"][n]));
    let answer = call(&set.token_source, &Defender::accepting(&["t1"]), SOON)
        .await
        .unwrap();
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_401s_forces_one_refresh_and_every_call_succeeds() {
    let set = setting(|n| Reply::token(["", "revoked", "t2", "t3"][n]));
    set.token_source.bearer(Instant::now() + SOON).await.unwrap();
    let defender = Defender::accepting(&["t2"]);
    let calls: Vec<_> = (0..500)
        .map(|_| {
            let (token_source, defender) = (set.token_source.clone(), defender.clone());
            set.tasks
                .spawn("call", async move { call(&token_source, &defender, SOON).await })
        })
        .collect();
    for handle in calls {
        assert_eq!(handle.await.unwrap().unwrap().status, StatusCode::OK);
    }
    assert_eq!(set.sign_in.count(), 2);
    assert_eq!(defender.calls.load(Ordering::Relaxed), 1000);
}

#[tokio::test(start_paused = true)]
async fn a_licence_401_passes_through_without_a_loop() {
    let set = setting(|n| Reply::token(&format!("t{n}")));
    let defender = Defender::default();
    let answer = call(&set.token_source, &defender, SOON).await.unwrap();
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert_eq!(answer.body, NO_LICENCE);
    // The first token, and one forced refresh.
    assert_eq!((set.sign_in.count(), defender.calls.load(Ordering::Relaxed)), (2, 2));

    // For a minute there is no renewal and no second attempt.
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(
            call(&set.token_source, &defender, SOON).await.unwrap().status,
            StatusCode::UNAUTHORIZED
        );
    }
    assert_eq!((set.sign_in.count(), defender.calls.load(Ordering::Relaxed)), (2, 52));

    // After it, one more attempt.
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(
        call(&set.token_source, &defender, SOON).await.unwrap().status,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!((set.sign_in.count(), defender.calls.load(Ordering::Relaxed)), (3, 54));
}

#[tokio::test(start_paused = true)]
async fn a_forced_refresh_that_fails_is_returned_before_a_second_call() {
    let set = setting(|n| {
        if n == 1 {
            Reply::token("revoked")
        } else {
            Reply::refusal(7_000_112)
        }
    });
    let defender = Defender::default();
    let failure = call(&set.token_source, &defender, SOON).await.unwrap_err();
    assert_eq!((failure.delivery, failure.again), (Delivery::NotSent, RetryHint::Never));
    assert!(
        failure.source.to_string().contains("AADSTS7000112"),
        "{}",
        failure.source
    );
    assert_eq!(defender.calls.load(Ordering::Relaxed), 1);

    // The old token is used again, and Defender's answer passes through.
    let answer = call(&set.token_source, &defender, SOON).await.unwrap();
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert_eq!((set.sign_in.count(), defender.calls.load(Ordering::Relaxed)), (2, 2));
}

/// A token that Defender calls invalid, and a sign-in that is down.
fn revoked() -> (Setting, Defender) {
    let set = setting(|n| if n == 1 { Reply::token("t1") } else { Reply::outage() });
    let defender = Defender {
        challenges: true,
        ..Defender::default()
    };
    (set, defender)
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_rejected_again_and_again_costs_few_calls_while_sign_in_is_down() {
    let (set, defender) = revoked();
    defender.valid.lock().unwrap().push("new");
    let calls = || defender.calls.load(Ordering::Relaxed);
    for minute in 1..10 {
        let end = Instant::now() + Duration::from_mins(1);
        while Instant::now() < end {
            // The first ones are told what Defender said, the others that there is no token.
            if let Err(failure) = call(&set.token_source, &defender, Duration::from_secs(2)).await {
                let error = failure.source.downcast_ref::<Error>().unwrap();
                assert!(error.retry_after().unwrap() <= Duration::from_secs(5), "{error:?}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(
            (2..=2 + minute).contains(&calls()),
            "{} calls in {minute} minutes",
            calls()
        );
        assert_eq!(set.token_source.snapshot().expires_in, None);
    }
    let earlier = calls();
    set.sign_in.now(|_, _| Reply::token("new"));
    let answer = call(&set.token_source, &defender, Duration::from_secs(10))
        .await
        .unwrap();
    assert_eq!((answer.status, calls()), (StatusCode::OK, earlier + 1));
}

#[tokio::test(start_paused = true)]
async fn a_token_that_defender_accepts_again_is_used_on_while_sign_in_is_down() {
    let (set, defender) = revoked();
    let ask = async || {
        tokio::time::sleep(Duration::from_millis(100)).await;
        call(&set.token_source, &defender, Duration::from_secs(2)).await
    };
    while ask().await.is_ok() {}
    while ask().await.is_err() {
        *defender.valid.lock().unwrap() = vec!["t1"];
    }
    for _ in 0..100 {
        assert_eq!(ask().await.unwrap().status, StatusCode::OK);
    }
    assert!(set.token_source.snapshot().expires_in.is_some());
    // One rejection says as little as before.
    defender.valid.lock().unwrap().clear();
    let token = set.token_source.current().unwrap();
    set.token_source.rejected(&token, true, Instant::now());
    assert!(set.token_source.snapshot().expires_in.is_some());
}

#[tokio::test(start_paused = true)]
async fn rejections_of_one_moment_are_one() {
    let (set, defender) = revoked();
    let ask = || call(&set.token_source, &defender, Duration::from_secs(2));
    // The first forces a renewal, which fails; then the token is used again.
    assert!(ask().await.is_err());
    defender.valid.lock().unwrap().push("t1");
    assert!(ask().await.unwrap().status.is_success());
    defender.valid.lock().unwrap().clear();
    for answer in join_all((0..20).map(|_| ask())).await {
        assert_eq!(answer.unwrap().status, StatusCode::UNAUTHORIZED);
    }
    assert!(set.token_source.current().is_some(), "it may be the fault of one host");
    assert!(set.token_source.snapshot().expires_in.is_some());
}

#[tokio::test(start_paused = true)]
async fn without_a_token_nothing_is_sent_and_the_wait_is_bounded() {
    let set = setting(|_| Reply::silence());
    let defender = Defender::default();
    let before = Instant::now();
    let failure = call(&set.token_source, &defender, Duration::from_secs(2))
        .await
        .unwrap_err();
    assert_eq!(before.elapsed(), Duration::from_secs(5));
    assert_eq!((failure.delivery, failure.again), (Delivery::NotSent, RetryHint::Never));
    assert!(failure.source.downcast_ref::<Error>().is_some());
    assert_eq!(defender.calls.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_can_wait_longer_returns_its_slot_and_comes_again() {
    let set = setting(|_| Reply::outage());
    let defender = Defender::accepting(&["t"]);
    let begun = Instant::now();
    let mut holds = 0;
    let failure = loop {
        let left = Duration::from_secs(34).saturating_sub(begun.elapsed());
        let failure = call(&set.token_source, &defender, left).await.unwrap_err();
        assert_eq!(failure.delivery, Delivery::NotSent);
        if failure.again == RetryHint::Never {
            break failure;
        }
        assert_eq!(failure.again, RetryHint::WhenAllowed);
        holds += 1;
        assert_eq!(
            begun.elapsed(),
            super::MAX_PERMIT_HOLD * holds,
            "a slot is held for no longer"
        );
    };
    // The last one ends early if the next attempt comes after the deadline.
    assert!((2..=3).contains(&holds), "{holds}");
    assert!(
        failure.source.to_string().contains("cannot be reached"),
        "{}",
        failure.source
    );
    assert!(begun.elapsed() <= Duration::from_secs(37), "{:?}", begun.elapsed());
    assert_eq!(defender.calls.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_callers_own_token_goes_out_as_it_is_and_its_401_is_the_callers_affair() {
    // No sign-in ever succeeds, but these calls need none.
    let set = setting(|_| Reply::silence());
    let defender = Defender::accepting(&["of-the-caller"]);
    for (token, status) in [
        ("of-the-caller", StatusCode::OK),
        ("rubbish", StatusCode::UNAUTHORIZED),
        ("rubbish", StatusCode::UNAUTHORIZED),
    ] {
        let request = scan::Request::plain(scan::Endpoint::HISTORY, ["id-1"]).unwrap();
        let request = request.with_token(scan::CallerToken::new(token).unwrap());
        let defender = defender.clone();
        let inner = tower::service_fn(move |signed| defender.clone().answer(signed));
        let next = Next::new(inner);
        let answer = set.token_source.call(routed_with(request, SOON), &next).await.unwrap();
        assert_eq!(answer.status, status, "{token}");
    }
    assert_eq!(defender.calls.load(Ordering::Relaxed), 3);
    // The first sign-in is still under way, and no other was started.
    assert!(set.sign_in.count() <= 1);
}

#[tokio::test(start_paused = true)]
async fn a_401_that_something_on_the_way_sent_is_no_rejection_of_the_token() {
    let set = setting(|n| Reply::token(&format!("t{n}")));
    let page = tower::service_fn(|_: Authorized| async {
        Ok::<_, Failure>(UpstreamResponse {
            status: StatusCode::UNAUTHORIZED,
            headers: Headers::default(),
            body: Bytes::from_static(b"<html>who are you?</html>"),
        })
    });
    for _ in 0..3 {
        let answer = set.token_source.call(routed(SOON), &Next::new(page)).await.unwrap();
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(set.sign_in.count(), 1, "the token is as good as before");
}
