//! Shared and kept against alone, byte by byte, for every operation.

use bytes::Bytes;
use defender_gateway::testing::scan::{Endpoint, Operation};
use futures_util::future::join_all;
use http::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Caller, Setup};

/// A request: an operation, an id for its path, a query, and a body.
type Request = (Operation, String, &'static str, Option<Value>);

async fn ask(caller: &Caller, (operation, id, query, body): &Request) -> Answer {
    let target = Endpoint::latest(*operation).template().replace("{id}", id);
    let method = if body.is_some() { Method::POST } else { Method::GET };
    let mut request = caller.request(method, &format!("{target}{query}"));
    if body.is_some() {
        request = request.header("content-type", "application/json");
    }
    let body = body.as_ref().map(ToString::to_string).unwrap_or_default();
    caller.send(request.body(Bytes::from(body)).unwrap()).await
}

/// Requests about what the tenant has, some of which overlap.
async fn requests(caller: &Caller) -> Vec<Request> {
    let list = ask(caller, &(Operation::Definitions, String::new(), "", None))
        .await
        .json();
    let agents = ask(caller, &(Operation::Agents, String::new(), "", None)).await.json();
    let id = |list: &Value, nth: usize| list["value"][nth]["id"].as_str().unwrap().to_owned();
    let definitions: Vec<_> = (0..8).map(|nth| id(&list, nth)).collect();
    let history = (
        Operation::HistoryByDefinition,
        String::new(),
        "",
        Some(json!({ "ScanDefinitionIds": definitions })),
    );
    let rows = ask(caller, &history).await.json();
    let sessions: Vec<_> = rows["value"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["sessionId"].clone())
        .collect();
    let get = |operation, id: String, query| (operation, id, query, None);
    let mut all = vec![
        get(Operation::Definitions, String::new(), ""),
        get(Operation::Definitions, String::new(), "?pagesize=5"),
        get(Operation::Definitions, String::new(), "?$top=5&$skip=2"),
        get(Operation::Agents, String::new(), ""),
        get(Operation::Agents, String::new(), "?x=1"),
        get(Operation::Agent, "unknown-1".into(), ""),
    ];
    for nth in 0..4 {
        all.push(get(Operation::Definition, id(&list, nth), ""));
        all.push(get(Operation::Agent, id(&agents, nth), ""));
        let some = &definitions[nth..nth + 3];
        all.push((
            Operation::HistoryByDefinition,
            String::new(),
            "",
            Some(json!({ "ScanDefinitionIds": some })),
        ));
        let some = &sessions[nth * 2..nth * 2 + 3];
        all.push((
            Operation::HistoryBySession,
            String::new(),
            "",
            Some(json!({ "SessionIds": some })),
        ));
        all.push((
            Operation::HistoryBySession,
            String::new(),
            "?$top=1",
            Some(json!({ "SessionIds": some })),
        ));
    }
    all
}

/// How many calls there may be, and how long one may wait for others.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Slots {
    /// Hardly anything waits, so hardly anything is merged.
    Plenty,
    /// One call a tenth of a second: what waits is merged.
    Scarce,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shared_and_kept_answers_are_those_that_each_would_have_got_alone() {
    compare(Slots::Plenty).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn merged_answers_are_those_that_each_would_have_got_alone() {
    compare(Slots::Scarce).await;
}

async fn compare(slots: Slots) {
    for scenario in [
        "",
        "[history]\nlayout = \"pretty\"\nenvelope = \"reversed\"\n",
        "[history]\nlayout = \"spaced\"\nentity = \"wrapped\"\norder = \"by-id\"\n",
        "[history]\nrunning = true\nsecrets = true\n",
        "[history]\ncasing = \"documented\"\nsession_top = \"refused\"\ntrimmed_times = true\n",
    ] {
        let setup = |merge: &str| {
            let setup = Setup::new().simulator(|simulator| {
                *simulator = std::mem::take(simulator)
                    .with_scenario(&format!("{scenario}[[regions]]\nname = \"eu\"\n"))
                    .unwrap();
                simulator.limits = vec!["100000/1m".parse().unwrap()];
            });
            let (limits, burst) = match (slots, merge) {
                (Slots::Scarce, "true") => ("10/1s", "1"),
                _ => ("100000/1m", "100"),
            };
            setup
                .set("quota.limits", limits)
                .set("quota.burst", burst)
                .set("queue.max_wait", "1m")
                .set("merge.enabled", merge)
                .set("merge.known_rows", "1000")
                .set("merge.gather", "20ms")
        };
        let alone = setup("false").set("cache.ttl", "0s").start().await;
        let shared = setup("true").set("cache.ttl", "1h").start().await;
        // The two simulators hold the same.
        let requests = requests(&alone.caller).await;
        let mut expected = Vec::new();
        for request in &requests {
            expected.push(ask(&alone.caller, request).await);
        }
        // Twice: first they meet, then they are kept.
        for _ in 0..2 {
            let asked = requests.iter().map(|request| ask(&shared.caller, request));
            for ((got, expected), request) in join_all(asked).await.iter().zip(&expected).zip(&requests) {
                assert_eq!(got.status, expected.status, "{scenario} {request:?}");
                assert_eq!(got.field("content-type"), expected.field("content-type"));
                if got.status == 200 {
                    // Links lead to the gateway that was asked.
                    let text = |answer: &Answer, caller: &Caller| {
                        String::from_utf8_lossy(&answer.body).replace(caller.base(), "")
                    };
                    let (got, expected) = (text(got, &shared.caller), text(expected, &alone.caller));
                    assert_eq!(got, expected, "{scenario} {request:?}");
                }
            }
        }
        let (one, other) = (shared.simulator.calls().len(), alone.simulator.calls().len());
        assert!(one < other, "{one} of {other}");
        if slots == Slots::Scarce {
            let metrics = shared.admin.fetch("/metrics").await;
            let metrics = String::from_utf8(metrics.body.to_vec()).unwrap();
            let count = |name: &str| -> u64 {
                let line = metrics.lines().find_map(|line| line.strip_prefix(name));
                line.unwrap().trim().parse().unwrap()
            };
            let calls = count("defender_gateway_merged_calls_total ");
            let requests = count("defender_gateway_merged_requests_total ");
            // Shared calls ask with `$top`, so where it is refused sessions are asked for alone.
            let least = if scenario.contains("session_top") { 1 } else { 2 };
            assert!(
                calls >= least && requests > calls,
                "{requests} requests by {calls} calls"
            );
        }
        alone.finish().await;
        shared.finish().await;
    }
}
