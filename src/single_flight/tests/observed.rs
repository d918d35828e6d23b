//! What observers hear of a call.

use super::fixture::{Fixture, answer, caller};

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
