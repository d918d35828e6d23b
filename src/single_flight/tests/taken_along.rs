//! Equal requests that the call of one of them took along, and that call brings no answer.

use std::sync::Arc;

use http::StatusCode;
use tokio::time::Instant;

use super::batch_join::Response;
use super::fixture::{Fixture, RecordingSink, Reply, answer, failure, no_slot, pass, rows};
use super::urgency::at;
use crate::BoxError;
use crate::attempt::{Attempt, RetryHint};
use crate::caller::Name;
use crate::scan::{Outcome, UpstreamResponse};
use crate::single_flight::batcher::BatchMember;
use crate::single_flight::flight::Flight;
use crate::single_flight::tests::fixture::request;

/// Equal requests, each more urgent than the one before and with this much time, and what the first
/// of them sends and is told. It has taken the others along.
async fn taken_along(fixture: &mut Fixture, seconds: &[u64]) -> (Vec<Response>, Attempt, Reply) {
    let (mut asked, mut queued) = (Vec::new(), Vec::new());
    for (level, seconds) in (0..seconds.len()).rev().zip(seconds) {
        asked.push(fixture.ask(at(u8::try_from(level).unwrap(), *seconds)));
        queued.push(fixture.waiting().await);
    }
    let (attempt, reply) = queued.remove(0);
    attempt.request.bind().unwrap();
    fixture.settled().await;
    assert!(
        queued.iter().all(|(_, given_back)| given_back.is_closed()),
        "they give their places back"
    );
    (asked, attempt, reply)
}

fn unavailable() -> UpstreamResponse {
    UpstreamResponse {
        status: StatusCode::SERVICE_UNAVAILABLE,
        ..answer("")
    }
}

fn outcomes() -> [Result<UpstreamResponse, BoxError>; 3] {
    [
        Err(failure(RetryHint::Never)),
        Err(failure(RetryHint::OtherHost)),
        Ok(unavailable()),
    ]
}

#[tokio::test(start_paused = true)]
async fn whose_time_is_over_when_the_call_fails_is_told_so_and_makes_no_call() {
    for outcome in outcomes() {
        let mut fixture = Fixture::new();
        let is_response = outcome.is_ok();
        let (asked, _attempt, reply) = taken_along(&mut fixture, &[20; 8]).await;
        pass(45).await;
        reply.send(outcome).unwrap();
        fixture.settled().await;
        for (nth, asked) in asked.into_iter().enumerate() {
            assert!(asked.is_finished(), "{nth} is told at once");
            let told = asked.await.unwrap();
            assert_eq!(told.is_ok(), is_response);
            if let Ok(served) = told {
                assert_eq!(served.answer.status, StatusCode::SERVICE_UNAVAILABLE);
                assert_eq!(served.outcome == Outcome::Collapsed, nth > 0);
            }
        }
        fixture.nothing_is_left().await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_still_has_time_when_the_call_fails_asks_again_in_one_call() {
    for outcome in outcomes() {
        let mut fixture = Fixture::new();
        let (asked, _attempt, reply) = taken_along(&mut fixture, &[20, 20, 600, 20, 600, 20]).await;
        pass(45).await;
        reply.send(outcome).unwrap();
        fixture.settled().await;
        let ended: Vec<bool> = asked.iter().map(Response::is_finished).collect();
        assert_eq!(ended, [true, true, false, true, false, true]);
        let (again, reply) = fixture.waiting().await;
        let (_, given_back) = fixture.waiting().await;
        again.request.bind().unwrap();
        fixture.settled().await;
        assert!(given_back.is_closed());
        reply.send(Ok(rows(&request(&["a"])))).unwrap();
        for asked in asked.into_iter().skip(2).step_by(2) {
            assert_eq!(asked.await.unwrap().unwrap().answer.status, StatusCode::OK);
        }
        fixture.nothing_is_left().await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_joined_one_that_was_taken_along_and_still_has_time_asks_again() {
    let mut fixture = Fixture::new();
    let (asked, _attempt, reply) = taken_along(&mut fixture, &[20, 20]).await;
    let joined = fixture.ask(at(0, 600));
    fixture.settled().await;
    pass(45).await;
    reply.send(Err(failure(RetryHint::OtherHost))).unwrap();
    for asked in asked {
        assert!(asked.await.unwrap().is_err());
    }
    let (_, reply) = fixture.departed().await;
    reply.send(Ok(rows(&request(&["a"])))).unwrap();
    assert_eq!(joined.await.unwrap().unwrap().answer.status, StatusCode::OK);
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn only_whose_time_has_long_been_over_is_left_behind_by_a_retry_that_leaves_now() {
    for (waited, leaves) in [(4, false), (8, true)] {
        let mut fixture = Fixture::new();
        let (mut asked, attempt, reply) = taken_along(&mut fixture, &[20, 2, 20]).await;
        pass(waited).await;
        Arc::clone(&attempt.request).queues(attempt.position, Instant::now());
        attempt.request.bind().unwrap();
        fixture.settled().await;
        let own = fixture.calls.try_recv();
        assert_eq!(own.is_ok(), leaves, "after {waited} s");
        if let Ok((attempt, refused)) = own {
            assert_eq!(attempt.caller.name, Name::new("u=1"));
            refused.send(Err(no_slot())).map_err(drop).unwrap();
            assert!(asked.remove(1).await.unwrap().is_err());
        }
        assert!(fixture.calls.try_recv().is_err(), "the others wait for the retry");
        reply.send(Ok(rows(&request(&["a"])))).unwrap();
        for asked in asked {
            assert_eq!(asked.await.unwrap().unwrap().answer.status, StatusCode::OK);
        }
        fixture.nothing_is_left().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_flight_that_took_others_along_joins_no_batch_that_left_before() {
    let start = Instant::now();
    let flight = || {
        let sink = Arc::<RecordingSink>::default();
        Flight::new(Arc::new(request(&["a"])), None, sink, &Arc::new(at(0, 60)), start)
    };
    let ((first, _, _first_told), (other, _, _other_told)) = (flight(), flight());
    first.start(start);
    let sender = other.take_equal_sender(start).unwrap();
    let other = BatchMember {
        flight: Arc::new(other),
        stored: None,
        sender,
    };
    first.take_along(vec![other]);
    pass(1).await;
    first.wait_again(Instant::now(), Some(Instant::now()));
    assert!(first.take_result_sender(start, None).is_none());
    assert!(first.take_result_sender(Instant::now(), None).is_some());
}
