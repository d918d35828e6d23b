//! What observers hear of a call.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::fixture::{Fixture, answer, caller, no_cache, no_store};
use crate::attempt::Attempt;

#[tokio::test(start_paused = true)]
async fn a_call_that_has_left_is_not_said_to_wait_when_somebody_joins_it() {
    let mut fixture = Fixture::new();
    let first = fixture.ask(caller("x", 30));
    let (_attempt, reply) = fixture.departed().await;
    assert_eq!(fixture.sink.heard(), ["left"]);
    let second = fixture.ask(caller("y", 30));
    fixture.settled().await;
    assert_eq!(fixture.sink.heard(), ["left", "gone"]);
    reply.send(Ok(answer("rows"))).unwrap();
    for asked in [first, second] {
        asked.await.unwrap().unwrap();
    }
    assert_eq!(fixture.sink.heard(), ["gone"]);
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn nobody_has_to_hear_of_a_call_whose_answer_is_never_shared() {
    let mut fixture = Fixture::new();
    let first = fixture.ask(caller("x", 30));
    let (_attempt, reply) = fixture.departed().await;
    assert_eq!(fixture.sink.heard(), ["left"]);
    let insists = fixture.ask(no_cache(no_store(caller("y", 30))));
    let (_other, other_reply) = fixture.departed().await;
    let joins = fixture.ask(no_store(caller("z", 30)));
    fixture.settled().await;
    reply.send(Ok(answer("rows"))).unwrap();
    first.await.unwrap().unwrap();
    assert_eq!(fixture.sink.heard(), ["gone"]);
    other_reply.send(Ok(answer("rows"))).unwrap();
    for asked in [insists, joins] {
        asked.await.unwrap().unwrap();
    }
    assert!(fixture.sink.heard().is_empty());
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_follows_soon_is_not_said_to_wait() {
    let mut fixture = Fixture::new();
    let asked = fixture.ask(caller("x", 60));
    let (attempt, reply) = fixture.departed().await;
    assert_eq!(fixture.sink.heard(), ["left"]);
    let queues = |start| Arc::clone(&attempt.request).queues(attempt.position, start);
    let soon = Instant::now() + Attempt::GRACE;
    for start in [Instant::now(), soon] {
        queues(start);
        attempt.request.bind();
        assert!(fixture.sink.heard().is_empty());
    }
    queues(soon + Duration::from_millis(1));
    assert_eq!(fixture.sink.heard(), ["waits"]);
    attempt.request.bind();
    assert_eq!(fixture.sink.heard(), ["left"]);
    reply.send(Ok(answer("rows"))).unwrap();
    asked.await.unwrap().unwrap();
    fixture.nothing_is_left().await;
}
