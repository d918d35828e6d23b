//! What is kept, by what, and for how long.

use std::time::Duration;

use bytes::Bytes;
use defender_gateway::testing::scan::{Endpoint, Operation, route};
use defender_gateway::testing::sim::{CallRecord, EntityForm, Shape};
use futures_util::future::join_all;
use http::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Caller, Running, Setup};

fn path(operation: Operation) -> String {
    Endpoint::latest(operation).template()
}

/// The calls for an operation. The simulator has names of its own for them.
fn calls(running: &Running, operation: Operation) -> Vec<CallRecord> {
    let is_for = |call: &CallRecord| route(&call.path).is_some_and(|target| target.endpoint.operation == operation);
    running.simulator.calls().into_iter().filter(is_for).collect()
}

async fn sessions(caller: &Caller, ids: &[&str]) -> Answer {
    let request = caller
        .request(Method::POST, &path(Operation::HistoryBySession))
        .header("content-type", "application/json");
    let body = json!({ "SessionIds": ids }).to_string();
    caller.send(request.body(Bytes::from(body)).unwrap()).await
}

/// The ids of all sessions of the first definition, the newest first.
async fn session_ids(caller: &Caller) -> Vec<String> {
    let list = caller.fetch(&path(Operation::Definitions)).await.json();
    let id = list["value"][0]["id"].as_str().unwrap().to_owned();
    let rows = caller.ask(&[id]).await.json();
    let rows = rows["value"].as_array().unwrap().iter();
    rows.map(|row| row["sessionId"].as_str().unwrap().to_owned()).collect()
}

/// For how long an answer is fresh, in seconds.
fn fresh_for(answer: &Answer) -> u64 {
    let said = answer.field("cache-status");
    let ttl = said.split("ttl=").nth(1).unwrap_or_else(|| panic!("{said}"));
    ttl.split(';').next().unwrap().trim().parse().unwrap()
}

#[tokio::test]
async fn a_thousand_callers_that_list_make_one_call() {
    let running = Setup::new().set("cache.ttl", "1h").start().await;
    let list = path(Operation::Definitions);
    for _ in 0..10 {
        let answers = join_all((0..100).map(|_| running.caller.fetch(&list))).await;
        assert!(answers.iter().all(|answer| answer.status == 200));
    }
    assert_eq!(calls(&running, Operation::Definitions).len(), 1);
    // Another query is another request, and goes upstream as it is.
    let paged = running
        .caller
        .fetch(&format!("{list}?pageSize=3&x='%20y'"))
        .await
        .json();
    assert_eq!(paged["value"].as_array().unwrap().len(), 3);
    let asked = calls(&running, Operation::Definitions);
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[1].query.as_deref(), Some("pageSize=3&x='%20y'"));
    running.finish().await;
}

#[tokio::test]
async fn an_entity_is_answered_from_a_fresh_list_as_the_upstream_would_answer() {
    for form in [EntityForm::Bare, EntityForm::Wrapped] {
        let setup = Setup::new().set("cache.ttl", "1h");
        let running = setup
            .simulator(|simulator| simulator.history.entity = form)
            .start()
            .await;
        for (list, entity) in [
            (Operation::Definitions, Operation::Definition),
            (Operation::Agents, Operation::Agent),
        ] {
            let all = running.caller.fetch(&path(list)).await.json();
            let target = |nth: usize| path(entity).replace("{id}", all["value"][nth]["id"].as_str().unwrap());
            // The first one shows the form.
            let first = running.caller.fetch(&target(0)).await;
            assert!(first.field("cache-status").contains("fwd=miss"), "{first:?}");
            let before = calls(&running, entity).len();
            let listed = running.caller.fetch(&target(1)).await;
            assert!(listed.field("cache-status").contains("hit"), "{listed:?}");
            assert!(listed.headers.contains_key("age"), "{listed:?}");
            assert_eq!(calls(&running, entity).len(), before);
            let request = running
                .caller
                .request(Method::GET, &target(1))
                .header("cache-control", "no-cache");
            let own = running.caller.send(request.body(Bytes::new()).unwrap()).await;
            assert_eq!(calls(&running, entity).len(), before + 1);
            assert_eq!(own.body, listed.body, "{form:?}");
            // With a query it is another request.
            running.caller.fetch(&format!("{}?$select=id", target(2))).await;
            assert_eq!(calls(&running, entity).len(), before + 2);
        }
        running.finish().await;
    }
}

#[tokio::test]
async fn finished_sessions_are_kept_for_hours_and_running_ones_are_not() {
    let setup = Setup::new().set("merge.known_rows", "1000");
    let running = setup
        .simulator(|simulator| simulator.history.running = true)
        .start()
        .await;
    let ids = session_ids(&running.caller).await;
    let both = sessions(&running.caller, &[&ids[0], &ids[1]]).await;
    assert_eq!(both.json()["value"].as_array().unwrap().len(), 2);
    assert!(fresh_for(&both) <= 30, "one of them still runs: {both:?}");
    // The rows were kept by id, each for its own time.
    let finished = sessions(&running.caller, &[&ids[1]]).await;
    assert!(finished.field("cache-status").contains("hit"), "{finished:?}");
    assert!(fresh_for(&finished) > 19_000, "{finished:?}");
    let still = sessions(&running.caller, &[&ids[0]]).await;
    assert!(fresh_for(&still) <= 30, "{still:?}");
    assert_eq!(still.json()["value"][0]["scanStatus"], Value::from("InProgress"));
    assert_eq!(calls(&running, Operation::HistoryBySession).len(), 1);
    let unknown = sessions(&running.caller, &["01decc497f4b4ec49a5fc4e12597f8c8"]).await;
    assert!(
        fresh_for(&unknown) <= 30,
        "what has no rows has not finished: {unknown:?}"
    );
    running.finish().await;
}

#[tokio::test]
async fn sessions_that_wait_together_share_a_call() {
    // While slots are plenty, each call leaves by itself.
    let setup = Setup::new()
        .limits(Shape::SlidingLog, &["1/1s"])
        .set("merge.enabled", "true")
        .set("merge.known_rows", "1000");
    let running = setup.start().await;
    let ids = session_ids(&running.caller).await;
    assert!(ids.len() >= 2, "{ids:?}");
    let asked = ids.iter().map(|id| async {
        let answer = sessions(&running.caller, &[id]).await;
        assert_eq!(answer.json()["value"][0]["sessionId"], Value::from(id.as_str()));
    });
    join_all(asked).await;
    let calls = calls(&running, Operation::HistoryBySession);
    assert!(calls.len() < ids.len(), "{calls:?}");
    assert!(calls.iter().any(|call| call.ids.len() > 1), "{calls:?}");
    running.finish().await;
}

#[tokio::test]
async fn what_is_kept_for_hours_is_configured() {
    let setup = Setup::new().set("cache.finished_ttl", "0s").set("cache.ttl", "10m");
    let running = setup.start().await;
    let ids = session_ids(&running.caller).await;
    let finished = sessions(&running.caller, &[&ids[1]]).await;
    let ttl = Duration::from_secs(fresh_for(&finished));
    assert!(
        ttl <= Duration::from_mins(10) && ttl > Duration::from_mins(8),
        "never shorter than ttl: {ttl:?}"
    );
    running.finish().await;
}
