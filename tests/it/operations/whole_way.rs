//! From nothing to a scanner: the list, its history, one session, its scanner.

use bytes::Bytes;
use defender_gateway::testing::scan::{Endpoint, Operation};
use http::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Caller, Setup};

/// One answer to each operation, each id taken from the answer before.
pub(super) async fn walk(caller: &Caller) -> Vec<Answer> {
    let post = async |operation, body: Value| {
        let request = caller
            .request(Method::POST, &Endpoint::latest(operation).template())
            .header("content-type", "application/json");
        caller.send(request.body(Bytes::from(body.to_string())).unwrap()).await
    };
    let get = async |operation, id: &str| {
        let template = Endpoint::latest(operation).template();
        caller.fetch(&template.replace("{id}", id)).await
    };
    let definitions = get(Operation::Definitions, "").await;
    let list = definitions.json()["value"].clone();
    let ids: Vec<_> = list.as_array().unwrap().iter().map(|one| one["id"].clone()).collect();
    let history = post(Operation::HistoryByDefinition, json!({ "ScanDefinitionIds": ids })).await;
    let row = history.json()["value"][0].clone();
    let session = post(Operation::HistoryBySession, json!({ "SessionIds": [row["sessionId"]] })).await;
    let definition_id = row["scanDefinitionId"].as_str().unwrap().to_owned();
    let definition = get(Operation::Definition, &definition_id).await;
    let agents = get(Operation::Agents, "").await;
    let agent_id = definition.json()["scannerAgent"]["id"].as_str().unwrap().to_owned();
    let agent = get(Operation::Agent, &agent_id).await;
    assert_eq!(session.json()["value"][0]["scanDefinitionId"], row["scanDefinitionId"]);
    assert_eq!(definition.json()["id"], definition_id);
    assert_eq!(agent.json()["id"], agent_id);
    vec![definitions, history, session, definition, agents, agent]
}

#[tokio::test]
async fn each_operation_leads_to_the_next() {
    let running = Setup::new().start().await;
    for answer in walk(&running.caller).await {
        assert_eq!(answer.status, 200);
        assert!(
            answer.field("cache-status").starts_with("defender-gateway; "),
            "{answer:?}"
        );
        assert!(answer.field("ratelimit").contains("r="), "{answer:?}");
        assert!(answer.field("ratelimit-policy").contains("q=100"), "{answer:?}");
        assert!(!answer.field("x-request-id").is_empty());
    }
    let metrics = running.admin.fetch("/metrics").await;
    let metrics = String::from_utf8(metrics.body.to_vec()).unwrap();
    for operation in Operation::ALL {
        let label = format!("operation=\"{}\"", operation.declaration().name);
        let counted = metrics.lines().any(|line| {
            line.starts_with("defender_gateway_requests_total{") && line.contains(&label) && !line.ends_with(" 0")
        });
        assert!(counted, "{label}");
    }
    running.finish().await;
}

#[tokio::test]
async fn who_has_an_answer_already_gets_304() {
    let running = Setup::new().start().await;
    let path = Endpoint::latest(Operation::Definitions).template();
    let first = running.caller.fetch(&path).await;
    let tag = first.field("etag").to_owned();
    let ask = async |known: &str| {
        let request = running
            .caller
            .request(Method::GET, &path)
            .header("if-none-match", known);
        running.caller.send(request.body(Bytes::new()).unwrap()).await
    };
    let same = ask(&tag).await;
    assert_eq!((same.status.as_u16(), same.body.len()), (304, 0));
    assert_eq!(same.field("etag"), tag);
    assert!(same.field("cache-status").contains("hit"), "{same:?}");
    assert!(
        same.headers.get("content-length").is_none() && same.headers.get("content-type").is_none(),
        "{same:?}"
    );
    let other = ask("\"x\"").await;
    assert_eq!((other.status.as_u16(), &other.body), (200, &first.body));
    // Answers to requests with a body have none (RFC 9110 §13.1.2 is about GET and HEAD).
    let history = running.caller.ask(&["x"]).await;
    assert!(history.headers.get("etag").is_none());
    running.finish().await;
}
