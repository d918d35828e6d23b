//! Batches that fail, are cut off or cannot be split, and when batching is paused.

use std::time::Duration;

use super::fixture::{Fixture, MERGE, answer, caller, pass, request, rows};
use crate::attempt::Asked;
use crate::scan::{Endpoint, Outcome, Request, Rows, SplitError, UpstreamProfile, UpstreamResponse};

/// Batches `a` and `b`, answers with `united`, and checks that both ask alone at their old places.
async fn fail_batch(fixture: &mut Fixture, united: Option<UpstreamResponse>) {
    let (one, other) = (
        fixture.ask_for(request(&["a"]), caller("x", 300)),
        fixture.ask_for(request(&["b"]), caller("y", 300)),
    );
    let (first, reply) = fixture.waiting().await;
    let (second, _) = fixture.waiting().await;
    assert_eq!(first.request.bind().unwrap().ids().len(), 2);
    fixture.settled().await;
    reply.send(united.ok_or_else(|| "lost".into())).map_err(drop).unwrap();
    let mut places = Vec::new();
    for _ in 0..2 {
        let (attempt, reply) = fixture.waiting().await;
        places.push(attempt.position.order());
        assert_eq!(attempt.position.asked(), Asked::Ended);
        let request = attempt.request.bind().unwrap();
        assert_eq!(request.ids().len(), 1, "alone");
        reply.send(Ok(rows(&request))).unwrap();
    }
    places.sort_unstable();
    assert_eq!(places, [first.position.order(), second.position.order()]);
    for (asked, id) in [(one, "a"), (other, "b")] {
        let served = asked.await.unwrap().unwrap();
        assert_eq!(served.outcome, Outcome::Forwarded);
        assert_eq!(served.answer.body, rows(&request(&[id])).body);
    }
    fixture.settled().await;
}

#[tokio::test(start_paused = true)]
async fn after_an_uncertain_split_all_ask_alone_once_at_their_old_places() {
    let united = request(&["a", "b"]);
    let status = |status: u16| {
        let mut answer = rows(&united);
        answer.status = status.try_into().unwrap();
        Some(answer)
    };
    for doubtful in [
        None,
        status(400),
        status(404),
        status(500),
        Some(answer(r#"{"value":[],"total":7}"#)),
        Some(answer(r#"{"value":[{"x":1}]}"#)),
        Some(answer(r#"{"value":[{"scanDefinitionId":"c"}]}"#)),
        Some(answer(r#"{"value":[],"@odata.count":0}"#)),
    ] {
        let mut fixture = Fixture::batching();
        fail_batch(&mut fixture, doubtful).await;
        assert_eq!(fixture.metrics.merged_calls(), 0);
        fixture.nothing_is_left().await;
    }
}

/// Asks for `a` and `b` at once, answers every call well, and returns how many calls that took.
async fn calls(fixture: &mut Fixture) -> usize {
    let asked = [
        fixture.ask_for(request(&["a"]), caller("x", 30)),
        fixture.ask_for(request(&["b"]), caller("y", 30)),
    ];
    let mut calls = 0;
    let mut tries = Vec::new();
    for _ in 0..2 {
        tries.push(fixture.waiting().await);
    }
    for (attempt, reply) in tries {
        if !reply.is_closed() {
            calls += 1;
            reply.send(Ok(rows(&attempt.request.bind().unwrap()))).unwrap();
            fixture.settled().await;
        }
    }
    for asked in asked {
        asked.await.unwrap().unwrap();
    }
    calls
}

#[tokio::test(start_paused = true)]
async fn repeated_split_errors_switch_merging_off_for_a_while() {
    let mut fixture = Fixture::batching();
    for _ in 0..2 {
        fail_batch(&mut fixture, Some(answer(r#"{"value":[],"total":7}"#))).await;
    }
    assert_eq!(
        calls(&mut fixture).await,
        1,
        "two doubts are no pattern, and a good answer clears them"
    );
    for _ in 0..3 {
        fail_batch(&mut fixture, Some(answer(r#"{"value":[],"total":7}"#))).await;
    }
    assert_eq!(calls(&mut fixture).await, 2, "merging rests");
    let resting = fixture.metrics.resting();
    assert!(
        resting.is_some_and(|(left, split_error)| left <= Duration::from_mins(10) && split_error == SplitError::Shape)
    );
    pass(599).await;
    assert_eq!(calls(&mut fixture).await, 2);
    pass(2).await;
    fail_batch(&mut fixture, Some(answer(r#"{"value":[],"total":7}"#))).await;
    assert_eq!(calls(&mut fixture).await, 2, "one more doubt is enough");
    pass(601).await;
    assert_eq!(calls(&mut fixture).await, 1);
    assert_eq!(fixture.metrics.resting(), None);
    fixture.nothing_is_left().await;
}

/// Batches `a` and `b` in a call that fails, and lets both fail alone too.
async fn outage(fixture: &mut Fixture) {
    let asked = ["a", "b"].map(|id| fixture.ask_for(request(&[id]), caller(id, 300)));
    for _ in 0..4 {
        let (attempt, reply) = fixture.waiting().await;
        if !reply.is_closed() {
            attempt.request.bind();
            fixture.settled().await;
            let mut down = answer("");
            down.status = http::StatusCode::SERVICE_UNAVAILABLE;
            reply.send(Ok(down)).unwrap();
        }
        fixture.settled().await;
    }
    for asked in asked {
        asked.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_does_not_pause_batching_but_failures_of_batches_only_do() {
    let mut fixture = Fixture::batching();
    for _ in 0..9 {
        outage(&mut fixture).await;
    }
    assert_eq!(fixture.metrics.resting(), None);
    assert_eq!(calls(&mut fixture).await, 1);
    for _ in 0..3 {
        fail_batch(&mut fixture, None).await;
    }
    assert!(
        fixture
            .metrics
            .resting()
            .is_some_and(|(_, split_error)| split_error == SplitError::Failed)
    );
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn members_of_a_carrier_that_dies_ask_alone() {
    let mut fixture = Fixture::batching();
    let one = fixture.ask_for(request(&["a"]), caller("x", 30));
    let other = fixture.ask_for(request(&["b"]), caller("y", 30));
    let (carrier, reply) = fixture.waiting().await;
    let (_, cancelled) = fixture.waiting().await;
    carrier.request.bind();
    fixture.settled().await;
    assert!(cancelled.is_closed());
    // The service below panics when its reply is dropped.
    drop((carrier, reply));
    assert!(one.await.unwrap_err().is_panic());
    let (request_alone, reply) = fixture.departed().await;
    reply.send(Ok(rows(&request_alone.request.bind().unwrap()))).unwrap();
    assert_eq!(other.await.unwrap().unwrap().outcome, Outcome::Forwarded);
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn a_member_without_waiters_is_not_sent_again() {
    let mut fixture = Fixture::batching();
    let one = fixture.ask_for(request(&["a"]), caller("x", 30));
    let other = fixture.ask_for(request(&["b"]), caller("y", 30));
    let (carrier, reply) = fixture.waiting().await;
    fixture.waiting().await;
    carrier.request.bind();
    fixture.settled().await;
    other.abort();
    fixture.settled().await;
    reply.send(Ok(answer("not json"))).unwrap();
    let (request_alone, reply) = fixture.departed().await;
    assert_eq!(*request_alone.request.bind().unwrap(), request(&["a"]));
    reply.send(Ok(rows(&request(&["a"])))).unwrap();
    one.await.unwrap().unwrap();
    fixture.nothing_is_left().await;
}

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

/// Defender's answer to a request for an id that it does not know.
fn not_found() -> UpstreamResponse {
    UpstreamResponse {
        status: http::StatusCode::NOT_FOUND,
        ..answer(r#"{"error":{"code":"NotFound","message":"no such definition"}}"#)
    }
}

/// The answer of an upstream whose pages hold one row, unless all are asked for.
fn page(request: &Request) -> UpstreamResponse {
    if request.asks_for_all() {
        return rows(request);
    }
    let id = request.ids().next().unwrap();
    let row = format!(r#"{{"scanDefinitionId":"{id}","n":1.0}}"#);
    answer(format!(r#"{{"value":[{row}],"@odata.nextLink":"https://x"}}"#).leak())
}

#[tokio::test(start_paused = true)]
async fn who_might_get_fewer_rows_alone_gets_no_more_from_a_batch() {
    let profile = UpstreamProfile::new(1);
    let known = Request::all(Endpoint::HISTORY, ["1", "2", "3", "4", "5"]).unwrap();
    profile.learn(&known, &Rows::split(&known, &rows(&known).body).unwrap());
    let mut fixture = Fixture::with(MERGE, profile);
    let asked = ["a", "b"].map(|id| fixture.ask_for(request(&[id]), caller(id, 300)));
    let (carrier, reply) = fixture.waiting().await;
    let united = carrier.request.bind().unwrap();
    assert_eq!(united.ids().len(), 2);
    pass(1).await;
    let late = fixture.ask_for(request(&["a", "b"]), caller("z", 300));
    fixture.settled().await;
    reply.send(Ok(page(&united))).unwrap();
    fixture.answer_all(page).await;
    for (asked, ids) in asked.into_iter().chain([late]).zip([&["a"][..], &["b"], &["a", "b"]]) {
        assert_eq!(asked.await.unwrap().unwrap().answer.body, page(&request(ids)).body);
    }
    fixture.nothing_is_left().await;
}

/// Asks for these ids alone, and answers with this status.
async fn answer_alone(fixture: &mut Fixture, ids: &[&str], status: u16) {
    let asked = fixture.ask_for(request(ids), caller("x", 30));
    let (attempt, reply) = fixture.departed().await;
    let mut response = rows(&attempt.request.bind().unwrap());
    if status != 200 {
        response = not_found();
        response.status = status.try_into().unwrap();
    }
    reply.send(Ok(response)).unwrap();
    asked.await.unwrap().unwrap();
    fixture.settled().await;
}

#[tokio::test(start_paused = true)]
async fn a_rejected_request_keeps_itself_out_of_batches_and_not_its_ids() {
    let mut fixture = Fixture::batching();
    answer_alone(&mut fixture, &["a", "b", "gone"], 404).await;
    assert_eq!(calls(&mut fixture).await, 1, "a and b may be as good as any");
    let asked = [
        fixture.ask_for(request(&["a", "b", "gone"]), caller("x", 30)),
        fixture.ask_for(request(&["c"]), caller("y", 30)),
    ];
    assert_eq!(fixture.answer_all(rows).await.len(), 2, "it would be rejected again");
    for asked in asked {
        asked.await.unwrap().unwrap();
    }
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn a_rejected_id_is_merged_again_once_it_has_been_answered_alone() {
    let mut fixture = Fixture::batching();
    answer_alone(&mut fixture, &["a"], 404).await;
    assert_eq!(calls(&mut fixture).await, 2, "and here it is answered");
    assert_eq!(calls(&mut fixture).await, 1);
    fixture.nothing_is_left().await;
}

/// Asks for these sets of ids at once, where the upstream does not know ids that begin with `gone`;
/// returns the ids of each call.
async fn ask_where_some_are_gone(fixture: &mut Fixture, sets: &[&[&str]]) -> Vec<Vec<String>> {
    let asked: Vec<_> = sets
        .iter()
        .map(|ids| fixture.ask_for(request(ids), caller(ids[0], 300)))
        .collect();
    let calls = fixture.answer_all(|request| {
        if request.ids().any(|id| id.starts_with("gone")) {
            not_found()
        } else {
            rows(request)
        }
    });
    let calls = calls.await;
    for asked in asked {
        asked.await.unwrap().unwrap();
    }
    calls
}

#[tokio::test(start_paused = true)]
async fn an_id_that_varying_rejected_requests_share_is_found_out_and_merging_goes_on() {
    let mut fixture = Fixture::batching();
    for shared in ["b", "c"] {
        let calls = ask_where_some_are_gone(&mut fixture, &[&[shared, "gone"], &["x"]]).await;
        assert_eq!(calls.len(), 3, "{calls:?}");
    }
    for shared in ["d", "e", "f"] {
        let calls = ask_where_some_are_gone(&mut fixture, &[&[shared, "gone"], &["x"], &["b"]]).await;
        assert_eq!(calls.len(), 2, "it asks alone, and the others share a call: {calls:?}");
    }
    assert_eq!(fixture.metrics.resting(), None);
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn batches_that_were_rejected_because_of_a_member_do_not_pause_batching() {
    let mut fixture = Fixture::batching();
    for gone in ["gone1", "gone2", "gone3", "gone4"] {
        let calls = ask_where_some_are_gone(&mut fixture, &[&[gone], &["x"]]).await;
        assert_eq!(calls.len(), 3, "{calls:?}");
    }
    assert_eq!(fixture.metrics.resting(), None);
    for _ in 0..3 {
        fail_batch(&mut fixture, Some(not_found())).await;
    }
    let resting = fixture.metrics.resting();
    assert!(resting.is_some_and(|(_, split_error)| split_error == SplitError::Refused));
    fixture.nothing_is_left().await;
}
