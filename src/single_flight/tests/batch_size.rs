//! How many ids share a call, and how long a call waits for others.

use std::time::Duration;

use tokio::time::Instant;

use super::fixture::{Fixture, MERGE, answer, caller, pass, request, rows};
use crate::attempt::Scarcity;
use crate::scan::{Request, UpstreamProfile};
use crate::single_flight::BatchConfig;

#[tokio::test(start_paused = true)]
async fn an_answer_that_may_be_cut_off_is_followed_by_a_smaller_call_for_all() {
    let mut fixture = Fixture::with(MERGE, UpstreamProfile::new(0));
    let asked = ["a", "b", "c", "d"].map(|id| fixture.ask_for(request(&[id]), caller(id, 300)));
    let calls = fixture.answer_all(rows).await;
    // No answer has been longer than the first, so the second call asks for fewer ids. Nor is it
    // known yet that an answer to a single request holds two rows: one of them finds out, and that
    // is enough for the others.
    assert_eq!(calls[0], ["a", "b", "c", "d"]);
    assert_eq!(calls[1], ["a", "b", "c"]);
    assert!(calls.len() <= 5, "{calls:?}");
    for (asked, id) in asked.into_iter().zip(["a", "b", "c", "d"]) {
        assert_eq!(asked.await.unwrap().unwrap().answer.body, rows(&request(&[id])).body);
    }
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn where_every_answer_is_cut_off_all_ask_alone_in_the_end() {
    let mut fixture = Fixture::batching();
    let cut = |request: &Request| match request.ids().len() {
        1 => rows(request),
        _ => answer(r#"{"value":[],"@odata.nextLink":"https://x"}"#),
    };
    let asked = ["a", "b", "c"].map(|id| fixture.ask_for(request(&[id]), caller(id, 300)));
    let calls = fixture.answer_all(cut).await;
    assert!(calls.len() <= 6, "{calls:?}");
    for (asked, id) in asked.into_iter().zip(["a", "b", "c"]) {
        assert_eq!(asked.await.unwrap().unwrap().answer.body, rows(&request(&[id])).body);
    }
    fixture.nothing_is_left().await;
}

/// How long a caller's request for `id` waits before it asks for a slot.
async fn gather_delay(fixture: &mut Fixture, id: &str, name: &str, patience: u64) -> Duration {
    let start = Instant::now();
    let asked = fixture.ask_for(request(&[id]), caller(name, patience));
    let (_, reply) = fixture.departed().await;
    let waited = start.elapsed();
    reply.send(Ok(rows(&request(&[id])))).unwrap();
    asked.await.unwrap().unwrap();
    waited
}

#[tokio::test(start_paused = true)]
async fn calls_wait_for_others_as_long_as_slots_are_scarce_and_only_where_there_is_some() {
    let merge = BatchConfig {
        gather: Duration::from_millis(5),
        ..MERGE
    };
    let scarcity = Scarcity {
        gather: Some(Duration::from_secs(1)),
        interval: Duration::from_secs(2),
    };
    let mut fixture = Fixture::with_slots(merge, UpstreamProfile::new(1000), scarcity);
    assert_eq!(gather_delay(&mut fixture, "a", "x", 30).await, Duration::ZERO, "alone");
    assert_eq!(
        gather_delay(&mut fixture, "b", "x", 30).await,
        Duration::ZERO,
        "still alone"
    );
    assert_eq!(gather_delay(&mut fixture, "c", "y", 30).await, scarcity.gather.unwrap());
    assert_eq!(
        gather_delay(&mut fixture, "d", "x", 0).await,
        Duration::ZERO,
        "wait=0 means now"
    );
    pass(5).await;
    assert_eq!(
        gather_delay(&mut fixture, "e", "y", 30).await,
        Duration::ZERO,
        "the other one is gone"
    );
    fixture.nothing_is_left().await;

    let mut fixture = Fixture::with(merge, UpstreamProfile::new(1000));
    for name in ["x", "y", "x"] {
        let waited = gather_delay(&mut fixture, "a", name, 30).await;
        assert_eq!(waited, Duration::ZERO, "slots are plenty");
    }
    fixture.nothing_is_left().await;
}
