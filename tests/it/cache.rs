//! Answers that are kept.

use http::StatusCode;

use defender_gateway::testing::sim::{Fault, Often, Plan, Shape};

use crate::support::{Controls, Running, Setup, id, until};

/// Waits until the answer in memory is too old to be given for itself.
async fn stale(running: &Running, ids: &[String]) {
    until("the answer to be stale", async || {
        let asked = running
            .caller
            .ask_with(ids, &[("cache-control", "only-if-cached")])
            .await;
        (asked.status == StatusCode::GATEWAY_TIMEOUT).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_answer_is_fresh_for_its_time_and_then_renewed_in_the_background() {
    let running = Setup::new()
        .set("cache.ttl", "1s")
        .set("cache.stale_while_revalidate", "1m")
        .start()
        .await;
    let request = [id(1)];
    let first = running.caller.ask(&request).await;
    assert_eq!(running.caller.ask(&request).await.body, first.body);
    running.simulator.scan().await;
    // Stale for a moment, but nobody waits; soon the newer row is there.
    until("the newer row", async || {
        let answer = running.caller.ask(&request).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert!(
            answer.field("cache-status").starts_with("defender-gateway; hit"),
            "{:?}",
            answer.headers
        );
        (answer.rows() == first.rows() + 1).then_some(())
    })
    .await;
    running.finish().await;
}

#[tokio::test]
async fn no_cache_asks_again_no_store_keeps_nothing_and_only_if_cached_never_asks() {
    let running = Setup::new().start().await;
    let ask = async |n, directive| running.caller.ask_with(&[id(n)], &[("cache-control", directive)]).await;
    let refused = ask(1, "only-if-cached").await;
    assert_eq!((refused.status.as_u16(), &*refused.error_code()), (504, "NotCached"));
    assert_eq!(running.simulator.calls().len(), 0);

    assert_eq!(ask(1, "no-store").await.status, StatusCode::OK);
    assert_eq!(ask(1, "only-if-cached").await.status, StatusCode::GATEWAY_TIMEOUT);

    let stored = running.caller.ask(&[id(1)]).await;
    assert!(
        stored.field("cache-status").contains("; stored"),
        "{:?}",
        stored.headers
    );
    assert_eq!(ask(1, "only-if-cached").await.body, stored.body);

    running.simulator.scan().await;
    let renewed = ask(1, "no-cache").await;
    assert_eq!(renewed.rows(), stored.rows() + 1);
    assert_eq!(running.caller.ask(&[id(1)]).await.body, renewed.body);
    assert_eq!(running.simulator.calls().len(), 3);
    running.finish().await;
}

#[tokio::test]
async fn when_the_upstream_fails_an_old_answer_is_better_than_none() {
    let running = Setup::new()
        .set("cache.ttl", "1s")
        .set("cache.stale_while_revalidate", "0s")
        .set("cache.stale_if_error", "10m")
        .start()
        .await;
    let first = running.caller.ask(&[id(1)]).await;
    stale(&running, &[id(1)]).await;
    let broken = Fault::Status(StatusCode::INTERNAL_SERVER_ERROR);
    running
        .simulator
        .set_faults("eu", &Plan::of(broken, Often::Always))
        .unwrap();
    let stale = running.caller.ask(&[id(1)]).await;
    assert_eq!((stale.status, &stale.body), (StatusCode::OK, &first.body));
    assert!(
        stale.field("cache-status").contains("detail=stale-if-error"),
        "{:?}",
        stale.headers
    );
    assert!(stale.field("age").parse::<u64>().unwrap() >= 1);
    running.finish().await;
}

#[tokio::test]
async fn when_the_quota_is_spent_an_old_answer_is_better_than_a_refusal() {
    let running = Setup::new()
        .limits(Shape::SlidingLog, &["1/1h"])
        .set("cache.ttl", "1s")
        .set("cache.stale_while_revalidate", "0s")
        .start()
        .await;
    let first = running.caller.ask(&[id(1)]).await;
    stale(&running, &[id(1)]).await;
    let stale = running.caller.ask(&[id(1)]).await;
    assert_eq!((stale.status, &stale.body), (StatusCode::OK, &first.body));
    assert_eq!(running.caller.ask(&[id(2)]).await.status, StatusCode::TOO_MANY_REQUESTS);
    running.finish().await;
}

#[tokio::test]
async fn versions_and_pages_are_entries_of_their_own() {
    use crate::support::{PATH, body};
    let running = Setup::new().start().await;
    let versioned = PATH.replace("/api/", "/api/v1.0/");
    let targets = [
        PATH.to_owned(),
        versioned,
        format!("{PATH}?$top=1"),
        format!("{PATH}?$skip=1"),
        format!("{PATH}?$top=1&$skip=1"),
    ];
    for round in 0..2 {
        for target in &targets {
            let request = running.caller.request(http::Method::POST, target);
            let request = request.header("content-type", "application/json").body(body(&[id(1)]));
            let answer = running.caller.send(request.unwrap()).await;
            let hit = answer.field("cache-status").starts_with("defender-gateway; hit");
            assert_eq!((answer.status, hit), (StatusCode::OK, round == 1), "{target}");
        }
    }
    // The same pages, written in another way.
    for target in [format!("{PATH}?%24top=1"), format!("{PATH}?$skip=1&$top=1")] {
        let request = running.caller.request(http::Method::POST, &target);
        let request = request.header("content-type", "application/json").body(body(&[id(1)]));
        let answer = running.caller.send(request.unwrap()).await;
        assert!(
            answer.field("cache-status").contains("; hit"),
            "{target}: {:?}",
            answer.headers
        );
    }
    assert_eq!(running.simulator.calls().len(), targets.len());
    running.finish().await;
}

#[tokio::test]
async fn after_a_paced_start_a_stale_answer_is_renewed_as_soon_as_it_is_asked_for() {
    let running = Setup::new()
        .set("quota.on_unknown_past", "paced")
        .set("cache.ttl", "1s")
        .set("cache.stale_while_revalidate", "1h")
        .start()
        .await;
    let request = [id(1)];
    let first = running.caller.ask(&request).await;
    running.simulator.scan().await;
    // The bucket holds a tenth of what it can hold, and half of it would take minutes; 99 of 100
    // calls are left.
    until("the newer row", async || {
        let answer = running.caller.ask(&request).await;
        assert!(
            answer.field("cache-status").starts_with("defender-gateway; hit"),
            "{:?}",
            answer.headers
        );
        (answer.rows() == first.rows() + 1).then_some(())
    })
    .await;
    running.finish().await;
}
