//! What the upstream may send, through the whole gateway: its callers get right answers, or the
//! ones they had.

use http::{Method, StatusCode};

use defender_gateway::testing::sim::history::{Layout, Matching, NextLink};
use defender_gateway::testing::sim::{Fault, Often, Plan, Shape};

use crate::support::{Answer, Controls, PATH, Running, Setup, body, id, until};

/// Two spellings of one id in one call: the rows are those of both, and neither has none.
#[tokio::test]
async fn no_spelling_of_an_id_is_taken_for_one_without_rows() {
    let running = Setup::new()
        .simulator(|config| config.history.matching = Matching::Dotnet)
        .set("merge.known_rows", "10000")
        .start()
        .await;
    let rows = running.caller.ask(&[id(1)]).await.rows();
    assert!(rows > 0);
    let guid = id(1);
    for other in [
        format!("{{{guid}}}"),
        format!("({})", guid.to_uppercase()),
        guid.replace('-', ""),
        format!("urn:uuid:{guid}"),
        "{0x00000001,0x0000,0x4000,{0x80,0x00,0x00,0x00,0x00,0x00,0x00,0x01}}".to_owned(),
    ] {
        let both = running.caller.ask(&[&guid, &other]).await;
        assert_eq!(both.rows(), rows, "{other}");
        let alone = running.caller.ask(&[&other]).await;
        assert_eq!(alone.rows(), rows, "{other}: {:?}", alone.headers);
        assert_eq!(
            running.caller.ask(&[&other, &id(2)]).await.row_ids(),
            [id(1), id(2)],
            "{other}"
        );
    }
    running.finish().await;
}

/// What the gateway hands out works: page after page until the last, each asked for as it was
/// handed out.
#[tokio::test]
async fn every_link_leads_to_the_next_page_through_the_gateway() {
    for (next_link, version, method) in [
        (NextLink::Present, "", Method::POST),
        (NextLink::SkipToken, "", Method::POST),
        (NextLink::SkipToken, "v1.0/", Method::QUERY),
        (NextLink::Custom, "", Method::POST),
        (NextLink::Custom, "v1.0/", Method::QUERY),
    ] {
        let running = Setup::new()
            .simulator(|config| {
                config.history.next_link = next_link;
                config.history.page_size = 3;
            })
            .set("merge.enabled", "true")
            .start()
            .await;
        let ids = [id(1), id(2), id(3)];
        let whole = running.caller.send(
            running
                .caller
                .request(Method::POST, &format!("{PATH}?$top=3&$skip=0"))
                .header("content-type", "application/json")
                .body(body(&ids))
                .unwrap(),
        );
        let first = whole.await;
        let mut target = PATH.replace("/api/", &format!("/api/{version}"));
        let (mut rows, mut pages) = (Vec::new(), 0);
        loop {
            for round in 0..2 {
                let request = running.caller.request(method.clone(), &target);
                let request = request
                    .header("content-type", "application/json")
                    .body(body(&ids))
                    .unwrap();
                let answer = running.caller.send(request).await;
                assert_eq!(answer.status, StatusCode::OK, "{target}: {}", answer.text());
                let hit = answer.field("cache-status").starts_with("defender-gateway; hit");
                assert_eq!(hit, round == 1, "keyed with its query: {target}");
                if round == 1 {
                    let json = answer.json();
                    rows.extend(json["value"].as_array().unwrap().iter().cloned());
                    let link = json
                        .as_object()
                        .unwrap()
                        .iter()
                        .find(|(name, _)| name.to_lowercase().ends_with("nextlink"));
                    target = link.map_or(String::new(), |(_, link)| {
                        let link = link.as_str().unwrap();
                        let rest = link.strip_prefix(running.caller.base());
                        rest.unwrap_or_else(|| panic!("{link} leads around the gateway"))
                            .to_owned()
                    });
                }
            }
            pages += 1;
            if target.is_empty() {
                break;
            }
        }
        assert!(pages > 2, "{next_link:?}: nothing was tested");
        assert_eq!(first.json()["value"].as_array().unwrap()[..], rows[..3]);
        let mut once = rows.clone();
        once.dedup();
        assert_eq!(once.len(), rows.len(), "no row comes twice");
        let calls = running.simulator.calls();
        assert!(
            calls.iter().all(|call| call.operation.is_some() && call.ids.len() == 3),
            "{calls:?}"
        );
        assert_eq!(running.simulator.violations(), []);
        running.finish().await;
    }
}

/// A query that the caller made up is refused as before, and so is every path but the operation's.
#[tokio::test]
async fn a_link_opens_no_other_way() {
    let running = Setup::new().start().await;
    let send = async |target: &str| {
        let request = running
            .caller
            .request(Method::POST, target)
            .header("content-type", "application/json");
        running.caller.send(request.body(body(&[id(1)])).unwrap()).await
    };
    for query in ["$filter=x", "page=2", "=1", "$top=0"] {
        assert_eq!(
            send(&format!("{PATH}?{query}")).await.status,
            StatusCode::BAD_REQUEST,
            "{query}"
        );
    }
    let sibling = PATH.replace("GetScanHistoryByScanDefinitionId", "BatchDelete");
    for target in [
        format!("{sibling}?$skiptoken=x"),
        format!("{PATH}/../BatchDelete?$skiptoken=x"),
        format!("{PATH}/x?$skiptoken=x&defender-gateway-link"),
    ] {
        assert_eq!(send(&target).await.status, StatusCode::NOT_FOUND, "{target}");
    }
    assert_eq!(running.simulator.calls().len(), 0);
    // The upstream itself says what it thinks of a token that it has not given.
    let refused = send(&format!("{PATH}?$skiptoken=nonsense&@evil=//x")).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    let calls = running.simulator.calls();
    assert_eq!((calls.len(), &*calls[0].path), (1, PATH));
    assert_eq!(running.simulator.violations(), []);
    running.finish().await;
}

async fn stale(running: &Running) -> Answer {
    let first = running.caller.ask(&[id(1)]).await;
    until("the answer to be stale", async || {
        let asked = running
            .caller
            .ask_with(&[id(1)], &[("cache-control", "only-if-cached")])
            .await;
        (asked.status == StatusCode::GATEWAY_TIMEOUT).then_some(())
    })
    .await;
    first
}

#[tokio::test]
async fn rubbish_of_every_kind_displaces_no_good_answer() {
    let page = |status| Fault::Status(StatusCode::from_u16(status).unwrap());
    for rubbish in [
        Fault::Rubbish,
        Fault::Portal,
        Fault::Empty,
        Fault::ErrorInOk,
        Fault::WrongType,
        page(502),
        page(408),
        page(520),
    ] {
        let running = Setup::new()
            .set("cache.ttl", "1s")
            .set("cache.stale_while_revalidate", "0s")
            .start()
            .await;
        let first = stale(&running).await;
        running
            .simulator
            .set_faults("eu", &Plan::of(rubbish, Often::Always))
            .unwrap();
        for _ in 0..3 {
            let served = running.caller.ask(&[id(1)]).await;
            assert_eq!(
                (served.status, &served.body),
                (StatusCode::OK, &first.body),
                "{rubbish:?}"
            );
            assert!(
                served.field("cache-status").contains("detail=stale-if-error"),
                "{:?}",
                served.headers
            );
        }
        let calls = running.simulator.calls().len();
        assert!(
            calls <= 3,
            "{rubbish:?}: once, and perhaps once more at another host, but not at every request: {calls}"
        );
        running.finish().await;
    }
}

#[tokio::test]
async fn an_age_that_the_answer_came_with_counts() {
    let age = std::time::Duration::from_secs(20);
    let running = Setup::new()
        .simulator(|config| config.history.age = Some(age))
        .start()
        .await;
    let aged = |answer: &Answer| answer.field("age").parse::<u64>().unwrap();
    let forwarded = running.caller.ask(&[id(1)]).await;
    assert!(forwarded.field("cache-status").contains("fwd=miss"));
    assert_eq!(
        (aged(&forwarded), forwarded.headers.get_all("age").iter().count()),
        (20, 1)
    );
    let hit = running.caller.ask(&[id(1)]).await;
    assert!(hit.field("cache-status").starts_with("defender-gateway; hit"));
    assert_eq!(hit.headers.get_all("age").iter().count(), 1);
    assert!(aged(&hit) >= 20, "{:?}", hit.headers);
    // A caller that wants nothing older gets nothing older from memory.
    let calls = running.simulator.calls().len();
    running
        .caller
        .ask_with(&[id(1)], &[("cache-control", "max-age=19")])
        .await;
    assert_eq!(running.simulator.calls().len(), calls + 1);
    running.finish().await;
}

/// Pretty-printed answers, three times and more: merging does not rest.
#[tokio::test]
async fn merging_goes_on_whatever_the_layout() {
    let running = Setup::new()
        .simulator(|config| config.history.layout = Layout::Crlf)
        .region("eu", 10)
        // While slots are plenty, each call leaves by itself.
        .limits(Shape::SlidingLog, &["1/1s"])
        .set("merge.enabled", "true")
        .set("merge.known_rows", "10000")
        .start()
        .await;
    let mut merged = 0;
    for round in 0..5 {
        let answers = running.caller.ask_each(round * 10..round * 10 + 4).await;
        for (n, answer) in answers.iter().enumerate() {
            assert_eq!(answer.row_ids(), [id(round * 10 + n)]);
            assert!(answer.text().contains("\r\n"), "{}", answer.text());
            merged += usize::from(answer.field("cache-status").contains("merged"));
        }
    }
    assert!(merged >= 15, "{merged} of 20");
    let status = running.status().await;
    assert!(status["merge"]["rests_for_s"].is_null(), "{}", status["merge"]);
    running.finish().await;
}
