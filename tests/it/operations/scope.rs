//! Which calls count together, over replicas with a store.

use std::time::Duration;

use bytes::Bytes;
use defender_gateway::testing::scan::{Endpoint, Operation};
use defender_gateway::testing::sim::{Fault, Often, Plan, Scope, Shape};
use http::Method;
use serde_json::{Value, json};

use crate::support::redis::Redis;
use crate::support::{Answer, Caller, Controls, Setup};

/// Calls an hour.
const LIMIT: usize = 6;

/// Asks one operation of `caller`, willing to wait for a second.
async fn ask(caller: &Caller, operation: Operation, ids: &[String]) -> Answer {
    let path = Endpoint::latest(operation).template().replace("{id}", &ids[0]);
    let (method, body) = match operation {
        Operation::HistoryByDefinition => (Method::POST, json!({ "ScanDefinitionIds": ids }).to_string()),
        Operation::HistoryBySession => (Method::POST, json!({ "SessionIds": ids }).to_string()),
        _ => (Method::GET, String::new()),
    };
    let mut request = caller.request(method, &path).header("prefer", "wait=1");
    if !body.is_empty() {
        request = request.header("content-type", "application/json");
    }
    caller.send(request.body(Bytes::from(body)).unwrap()).await
}

/// Two gateways that share a quota of so few calls that none comes back while the test runs, and
/// how many calls of each operation reached the upstream. It refuses what it counts as too many.
async fn calls_by_operation(scope: Scope, word: &str) -> Vec<usize> {
    let redis = Redis::start().await;
    let limit = format!("{LIMIT}/1h");
    let setup = || {
        Setup::new()
            .limits(Shape::SlidingLog, &[&limit])
            .simulator(|simulator| simulator.scope = scope)
            .set("quota.scope", word)
            .set("quota.burst", &LIMIT.to_string())
            .set("quota.pacing", "none")
            .set("cache.ttl", "0s")
            .set("store.url", &redis.url())
    };
    let one = setup().start().await;
    let other = setup().start_at(&one.simulator.config_toml()).await;
    // Without pacing there is no bucket to show, once the store has said what is left.
    let is_known = |status: &Value| status["quota"]["pace"].is_null();
    one.until_status("a word from the store", is_known).await;
    other.until_status("a word from the store", is_known).await;
    let ids = ["0f0e0d0c-0000-4000-8000-000000000001".to_owned()];
    let mut calls = Vec::new();
    for operation in Operation::ALL {
        let before = one.simulator.calls().len();
        for turn in 0..LIMIT + 2 {
            let caller = if turn % 2 == 0 { &one.caller } else { &other.caller };
            let answer = ask(caller, operation, &ids).await;
            let status = answer.status;
            if status == 429 {
                let detail = answer.json()["detail"].as_str().unwrap().to_owned();
                let name = operation.declaration().name;
                let alone = detail.ends_with(&format!("; this quota is that of the operation {name} alone"));
                assert_eq!(alone, scope == Scope::Operation, "{detail}");
            }
            assert!([200, 404, 429].contains(&status.as_u16()), "{operation:?}: {status}");
        }
        calls.push(one.simulator.calls().len() - before);
    }
    let refused = one
        .upstream_statuses()
        .iter()
        .filter(|status| **status == Some(429))
        .count();
    assert_eq!(refused, 0, "the upstream counts as the gateways do");
    other.leave().await;
    one.finish().await;
    calls
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_count_each_operation_by_itself_where_the_upstream_does() {
    let calls = calls_by_operation(Scope::Operation, "operation").await;
    assert!(
        calls.iter().all(|count| (LIMIT - 1..=LIMIT).contains(count)),
        "{calls:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_count_all_operations_together_unless_told_otherwise() {
    let calls = calls_by_operation(Scope::All, "all").await;
    let sum: usize = calls.iter().sum();
    assert!((LIMIT - 1..=LIMIT).contains(&sum), "{calls:?}");
}

#[tokio::test]
async fn the_quota_of_each_operation_is_shown_and_above_them_the_longest_pause() {
    let spawned = Setup::new().set("quota.scope", "operation").spawn().await;
    let pause = Fault::Throttle(Duration::from_mins(5));
    spawned
        .simulator
        .set_faults_everywhere(&Plan::of(pause, Often::Times(1)));
    let ids = ["0f0e0d0c-0000-4000-8000-000000000001".to_owned()];
    assert_eq!(ask(&spawned.caller(), Operation::Definitions, &ids).await.status, 429);
    let status = spawned.admin().fetch("/status").await.json();
    let quota = &status["quota"];
    let of = |operation: Operation| &quota["operations"][operation.declaration().name];
    assert!(of(Operation::Definitions)["paused_until_s"].is_number(), "{quota}");
    assert_eq!(of(Operation::Definitions)["windows"][0]["remaining"], 99, "{quota}");
    assert!(
        of(Operation::HistoryByDefinition)["paused_until_s"].is_null(),
        "{quota}"
    );
    assert_eq!(of(Operation::HistoryByDefinition)["windows"], quota["windows"]);
    assert_eq!(quota["windows"][0]["used"], 0, "{quota}");
    assert!(quota["paused_until_s"].as_f64() > Some(200.0), "{quota}");
    spawned.finish().await;
}
