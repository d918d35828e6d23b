//! The loops of public clients, with another base address and nothing else.

use std::collections::BTreeSet;

use bytes::Bytes;
use defender_gateway::testing::scan::{Endpoint, Operation};
use http::Method;
use serde_json::{Value, json};

use crate::support::{Caller, Setup};

/// Fetches what a link names, which must be at the gateway.
async fn follow(caller: &Caller, method: Method, link: &str, body: Option<&Value>) -> Value {
    let target = link
        .strip_prefix(caller.base())
        .unwrap_or_else(|| panic!("it leads away: {link}"));
    let mut request = caller.request(method, target);
    if body.is_some() {
        request = request.header("content-type", "application/json");
    }
    let body = body.map(ToString::to_string).unwrap_or_default();
    let answer = caller.send(request.body(Bytes::from(body)).unwrap()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// As scripts do it that were written for machines:
/// `while url: …; url = page.get("@odata.nextLink")`.
async fn all_pages(caller: &Caller, method: Method, target: &str, body: Option<&Value>) -> Vec<Value> {
    let mut rows = Vec::new();
    let mut next = Some(format!("{}{target}", caller.base()));
    while let Some(link) = next {
        let page = follow(caller, method.clone(), &link, body).await;
        rows.extend(page["value"].as_array().unwrap().iter().cloned());
        let link = page.get("@odata.nextLink").or(page.get("@odata.nextlink"));
        next = link.and_then(Value::as_str).map(str::to_owned);
    }
    rows
}

fn ids(rows: &[Value], name: &str) -> BTreeSet<String> {
    rows.iter().map(|row| row[name].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn lists_are_read_page_by_page_whatever_the_links_look_like() {
    for link in ["present", "skip-token", "custom"] {
        let scenario = format!("[history]\nnext_link = {link:?}\npage_size = 20\n[[regions]]\nname = \"eu\"\n");
        let setup = Setup::new().simulator(|simulator| {
            *simulator = std::mem::take(simulator).with_scenario(&scenario).unwrap();
        });
        let running = setup.start().await;
        let list = Endpoint::latest(Operation::Definitions).template();
        // One client's whole list in one page, another's by the hundred, and one that says nothing.
        for (query, calls) in [("?pageSize=10000", 3), ("?pagesize=7", 8), ("", 3)] {
            let before = running.simulator.calls().len();
            let rows = all_pages(&running.caller, Method::GET, &format!("{list}{query}"), None).await;
            assert_eq!((rows.len(), ids(&rows, "id").len()), (55, 55), "{link} {query}");
            assert_eq!(running.simulator.calls().len(), before + calls, "{link} {query}");
        }
        let agents = Endpoint::latest(Operation::Agents).template();
        assert_eq!(all_pages(&running.caller, Method::GET, &agents, None).await.len(), 7);
        running.finish().await;
    }
}

#[tokio::test]
async fn history_is_read_page_by_page_with_the_same_body() {
    for link in ["present", "skip-token", "custom"] {
        let scenario = format!("[history]\nnext_link = {link:?}\npage_size = 20\n[[regions]]\nname = \"eu\"\n");
        let setup = Setup::new().simulator(|simulator| {
            *simulator = std::mem::take(simulator).with_scenario(&scenario).unwrap();
        });
        let running = setup.start().await;
        let list = Endpoint::latest(Operation::Definitions).template();
        let definitions = all_pages(&running.caller, Method::GET, &list, None).await;
        let wanted = ids(&definitions, "id");
        let body = json!({ "ScanDefinitionIds": wanted });
        let path = Endpoint::latest(Operation::HistoryByDefinition).template();
        let rows = all_pages(&running.caller, Method::POST, &path, Some(&body)).await;
        assert_eq!(ids(&rows, "scanDefinitionId"), wanted, "{link}");
        let sessions = ids(&rows, "sessionId");
        assert_eq!(sessions.len(), rows.len(), "{link}: no row is there twice");
        let body = json!({ "SessionIds": sessions });
        let path = Endpoint::latest(Operation::HistoryBySession).template();
        let rows = all_pages(&running.caller, Method::POST, &path, Some(&body)).await;
        assert_eq!(ids(&rows, "sessionId"), sessions, "{link}");
        running.finish().await;
    }
}
