//! Callers with tokens of their own, where the configuration lets them through.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::Value;

use defender_gateway::testing::sim::{self, Fault, Often, Plan, Shape, Simulator};

use crate::support::{Answer, Caller, Controls, Setup, id, within};

fn setup() -> Setup {
    Setup::new().set("credentials.passthrough", "true")
}

/// A token of the simulator's that the gateway has nothing to do with.
async fn token(simulator: &Simulator) -> String {
    let form = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("grant_type", "client_credentials")
        .append_pair("client_id", sim::CLIENT_ID)
        .append_pair("client_secret", sim::CLIENT_SECRET)
        .append_pair("scope", sim::SCOPE)
        .finish();
    let authority = Caller::http1(simulator.authority().as_str().trim_end_matches('/'));
    let request = authority
        .request(Method::POST, &format!("/{}/oauth2/v2.0/token", sim::TENANT_ID))
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Bytes::from(form))
        .unwrap();
    let answer = authority.send(request).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json()["access_token"].as_str().unwrap().to_owned()
}

async fn ask_as(caller: &Caller, token: &str, n: usize) -> Answer {
    let authorization = format!("Bearer {token}");
    caller.ask_with(&[id(n)], &[("authorization", &authorization)]).await
}

/// The tokens that calls arrived with, in order.
fn tokens_used(simulator: &Simulator) -> Vec<Option<String>> {
    simulator.calls().into_iter().map(|call| call.token_id).collect()
}

#[tokio::test]
async fn each_token_has_a_cache_of_its_own() {
    let running = setup().start().await;
    let (a, b) = (token(&running.simulator).await, token(&running.simulator).await);
    for again in [false, true] {
        for answer in [
            ask_as(&running.caller, &a, 1).await,
            ask_as(&running.caller, &b, 1).await,
            running.caller.ask(&[id(1)]).await,
        ] {
            assert_eq!(answer.status, StatusCode::OK);
            assert_eq!(answer.field("cache-status").contains("; hit"), again, "{answer:?}");
        }
    }
    let used = tokens_used(&running.simulator);
    assert_eq!(used.len(), 3);
    let different: HashSet<_> = used.iter().flatten().collect();
    assert_eq!(different.len(), 3, "{used:?}");
    running.finish().await;
}

#[tokio::test]
async fn what_is_kept_by_id_for_all_is_not_for_who_brought_a_token() {
    let running = setup().start().await;
    let a = token(&running.simulator).await;
    running.caller.ask(&[id(1), id(2)]).await;
    // From the rows of the first answer, or not at all.
    let fields = [
        ("authorization", &*format!("Bearer {a}")),
        ("cache-control", "only-if-cached"),
    ];
    let answer = running.caller.ask_with(&[id(1)], &fields).await;
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(ask_as(&running.caller, &a, 1).await.status, StatusCode::OK);
    assert_eq!(running.simulator.calls().len(), 2);
    running.finish().await;
}

#[tokio::test]
async fn calls_are_shared_with_the_same_token_only() {
    // The first answers take so long that everybody is there.
    let running = setup()
        .set("cache.ttl", "0s")
        .set("merge.enabled", "true")
        .region("eu", 200)
        .start()
        .await;
    let (a, b) = (token(&running.simulator).await, token(&running.simulator).await);
    let caller = &running.caller;
    let asked = [id(1)];
    let answers = within("all answers", async {
        tokio::join!(
            ask_as(caller, &a, 1),
            ask_as(caller, &a, 1),
            ask_as(caller, &b, 1),
            ask_as(caller, &b, 1),
            caller.ask(&asked),
            caller.ask(&asked),
        )
    })
    .await;
    let answers = [answers.0, answers.1, answers.2, answers.3, answers.4, answers.5];
    assert!(answers.iter().all(|answer| answer.status == StatusCode::OK));
    let joined = |answer: &&Answer| answer.field("cache-status").contains("collapsed");
    assert_eq!(answers.iter().filter(joined).count(), 3, "{answers:#?}");
    let used: HashSet<_> = tokens_used(&running.simulator).into_iter().flatten().collect();
    assert_eq!((running.simulator.calls().len(), used.len()), (3, 3));
    running.finish().await;
}

#[tokio::test]
async fn each_token_has_a_quota_of_its_own() {
    // The simulator allows more: whether the upstream would count them together, only the upstream
    // knows.
    let running = setup().set("quota.limits", "2/1h").start().await;
    let (a, b) = (token(&running.simulator).await, token(&running.simulator).await);
    for n in 0..2 {
        assert_eq!(ask_as(&running.caller, &a, n).await.status, StatusCode::OK);
    }
    let refused = ask_as(&running.caller, &a, 2).await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.error_code(), "TooManyRequests");
    assert!(refused.retry_after().unwrap() > 3000, "{refused:?}");
    assert_eq!(refused.field("ratelimit"), "", "the gateway's own quota is untouched");
    for n in 0..2 {
        let answer = ask_as(&running.caller, &b, n).await;
        assert_eq!((answer.status, answer.field("ratelimit")), (StatusCode::OK, ""));
        let answer = running.caller.ask(&[id(n)]).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert!(!answer.field("ratelimit").is_empty());
    }
    let status = running.status().await;
    assert_eq!(status["quota"]["windows"][0]["used"], 2, "{status}");
    assert_eq!(running.simulator.calls().len(), 6);
    running.finish().await;
}

#[tokio::test]
async fn a_rubbish_tokens_401_passes_through_and_touches_nobody_elses() {
    let running = setup().start().await;
    for n in 0..3 {
        let answer = ask_as(&running.caller, "rubbish", n).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{answer:?}");
        assert!(
            answer.field("proxy-status").contains("received-status=401"),
            "{answer:?}"
        );
        assert_eq!(answer.field("www-authenticate"), "Bearer error=\"invalid_token\"");
    }
    assert_eq!(running.upstream_statuses(), [Some(401); 3], "one attempt each");
    assert_eq!(running.caller.ask(&[id(0)]).await.status, StatusCode::OK);
    assert_eq!(running.simulator.token_requests().len(), 1, "no new sign-in");
    running.finish().await;
}

#[tokio::test]
async fn a_429_to_a_callers_token_is_not_taken_for_one_to_the_gateways() {
    let spawned = setup().spawn().await;
    let (caller, admin) = (spawned.caller(), spawned.admin());
    let own = token(&spawned.simulator).await;
    let plan = Plan::of(Fault::Throttle(Duration::from_secs(1)), Often::Times(1));
    spawned.simulator.set_faults("eu", &plan).unwrap();
    assert_eq!(ask_as(&caller, &own, 1).await.status, StatusCode::OK);
    let metrics = admin.fetch("/metrics").await;
    for line in [
        "\ndefender_gateway_quota_throttled_total 0\n",
        r#"upstream_calls_total{region="eu",operation="history_by_definition",status="429"} 1"#,
    ] {
        assert!(metrics.text().contains(line), "no {line}");
    }
    drop((caller, admin));
    let output = spawned.finish().await;
    let line = output.lines().find(|line| line.contains("the upstream answered 429"));
    assert!(line.is_some_and(|line| line.contains("holder")), "{output}");
}

#[tokio::test]
async fn who_waits_with_a_token_of_its_own_is_seen_to_wait() {
    let running = setup().limits(Shape::SlidingLog, &["1/1s", "60/1m"]).start().await;
    let own = token(&running.simulator).await;
    let asked = futures_util::future::join_all((0..4).map(|n| ask_as(&running.caller, &own, n)));
    let looked = async {
        let waits = |status: &Value| status["queue"]["waiting_with_callers_tokens"].as_u64() > Some(1);
        let status = running.until_status("callers with tokens to wait", waits).await;
        assert_eq!(status["queue"]["waiting"], 0, "{status}");
    };
    let (answers, ()) = tokio::join!(asked, looked);
    assert!(
        answers.iter().all(|answer| answer.status == StatusCode::OK),
        "{answers:?}"
    );
    running.finish().await;
}

#[tokio::test]
async fn what_is_not_one_bearer_token_is_refused_and_not_replaced_by_ours() {
    let running = setup().start().await;
    let long = format!("Bearer {}", "a".repeat(16 * 1024 + 1));
    for value in ["Basic YTpi", "Bearer", "Bearer a b", "", long.as_str()] {
        let answer = running.caller.ask_with(&[id(1)], &[("authorization", value)]).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{value:.20}");
        assert_eq!(answer.error_code(), "BadRequest");
    }
    let twice = [("authorization", "Bearer a"), ("authorization", "Bearer b")];
    let answer = running.caller.ask_with(&[id(1)], &twice).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(running.simulator.calls().is_empty());
    // The longest that is a token reaches the upstream.
    let answer = ask_as(&running.caller, &"a".repeat(16 * 1024), 1).await;
    assert_eq!(
        (answer.status, running.simulator.calls().len()),
        (StatusCode::UNAUTHORIZED, 1)
    );
    running.finish().await;
}

#[tokio::test]
async fn no_token_of_a_caller_is_in_a_log_at_trace_or_in_an_answer() {
    let spawned = setup()
        .set("telemetry.log", "trace")
        .set("cache.ttl", "1ms")
        .set("quota.limits", "4/1h")
        .spawn()
        .await;
    let (caller, admin) = (spawned.caller(), spawned.admin());
    let second = Caller::http2(caller.base());
    let own = token(&spawned.simulator).await;
    let mut shown = String::new();
    let asked = async |caller: &Caller, token: &str, n| {
        let answer = ask_as(caller, token, n).await;
        format!("{:?}{}", answer.headers, answer.text())
    };
    shown.push_str(&asked(&caller, &own, 1).await);
    shown.push_str(&asked(&second, &own, 2).await);
    shown.push_str(&asked(&second, "rubbish-that-is-secret-nonetheless", 1).await);
    for fault in [
        Fault::Cut,
        Fault::Rubbish,
        Fault::Status(StatusCode::SERVICE_UNAVAILABLE),
    ] {
        let plan = Plan::of(fault, Often::Times(1));
        spawned.simulator.set_faults("eu", &plan).unwrap();
        shown.push_str(&asked(&caller, &own, 1).await);
    }
    let malformed = [("authorization", "Bearer malformed-but secret")];
    shown.push_str(caller.ask_with(&[id(1)], &malformed).await.text());
    for target in ["/status", "/metrics", "/readyz?verbose", "/"] {
        shown.push_str(admin.fetch(target).await.text());
    }
    drop((caller, second, admin));
    let output = spawned.finish().await;
    assert!(output.contains("TRACE") && output.contains("a token that is new here"));
    let parts = own.split('.').skip(1).chain(["secret-nonetheless", "malformed-but"]);
    for part in parts {
        for text in [&output, &shown] {
            let line = text.lines().find(|line| line.contains(part));
            assert_eq!(line, None, "it holds {part}");
        }
    }
}

#[tokio::test]
async fn by_default_a_callers_token_is_dropped() {
    let running = Setup::new().start().await;
    let a = token(&running.simulator).await;
    assert_eq!(ask_as(&running.caller, &a, 1).await.status, StatusCode::OK);
    let answer = ask_as(&running.caller, "rubbish", 1).await;
    assert!(answer.field("cache-status").contains("; hit"), "{answer:?}");
    let issued: Vec<_> = running.simulator.token_requests();
    assert_eq!(tokens_used(&running.simulator), [issued[0].token_id.clone()]);
    running.finish().await;
}
