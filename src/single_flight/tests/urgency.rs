//! Equal requests of which one is more urgent.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::batch_join::Response;
use super::fixture::{Fixture, Reply, answer, caller, no_cache, pass, rows};
use crate::BoxError;
use crate::attempt::{Asked, Attempt, Delivery, Failure, RetryHint};
use crate::caller::{Caller, Urgency};
use crate::scan::{Merging, Outcome, UpstreamProfile};
use crate::single_flight::BatchConfig;
use crate::single_flight::tests::fixture::{MERGE, request};
use crate::telemetry::trace;

pub(super) fn at(level: u8, seconds: u64) -> Caller {
    Caller {
        urgency: Urgency::new(level).unwrap(),
        ..caller(&format!("u={level}"), seconds)
    }
}

#[tokio::test(start_paused = true)]
async fn an_urgent_request_is_not_held_up_by_a_patient_one_and_its_answer_serves_both() {
    let mut fixture = Fixture::new();
    let patient = fixture.ask(at(7, 600));
    let (_, in_queue) = fixture.waiting().await;
    let urgent = fixture.ask(at(0, 5));
    let (attempt, reply) = fixture.departed().await;
    assert_eq!(attempt.caller.urgency, Urgency::new(0).unwrap());
    let joined = fixture.ask(at(7, 600));
    fixture.settled().await;
    assert!(in_queue.is_closed(), "it gives its place back");
    reply.send(Ok(rows(&request(&["a"])))).unwrap();
    for (asked, outcome) in [
        (urgent, Outcome::Forwarded),
        (joined, Outcome::Collapsed),
        (patient, Outcome::Collapsed),
    ] {
        let served = asked.await.unwrap().unwrap();
        assert_eq!((served.outcome, served.status.ttl), (outcome, Some(30)));
        assert_eq!(served.status.collapsed, outcome == Outcome::Collapsed);
    }
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn the_answer_to_a_patient_request_serves_an_urgent_one_that_may_use_it() {
    for wants_fresh in [false, true] {
        let mut fixture = Fixture::new();
        let patient = fixture.ask(at(7, 600));
        let (attempt, reply) = fixture.waiting().await;
        let urgent = fixture.ask(at(0, 5));
        let (_, in_queue) = fixture.waiting().await;
        attempt.request.bind();
        tokio::time::advance(Duration::from_millis(1)).await;
        let fresh = wants_fresh.then(|| fixture.ask(no_cache(at(0, 5))));
        fixture.settled().await;
        assert!(in_queue.is_closed(), "it waits for the answer");
        let own = fixture.calls.try_recv();
        assert_eq!(own.is_ok(), wants_fresh);
        reply.send(Ok(rows(&request(&["a"])))).unwrap();
        assert_eq!(patient.await.unwrap().unwrap().outcome, Outcome::Forwarded);
        assert_eq!(urgent.await.unwrap().unwrap().outcome, Outcome::Collapsed);
        if let (Some(fresh), Ok((attempt, reply))) = (fresh, own) {
            assert!(!fresh.is_finished(), "its answer has to be younger");
            attempt.request.bind();
            reply.send(Ok(rows(&request(&["a"])))).unwrap();
            assert_eq!(fresh.await.unwrap().unwrap().outcome, Outcome::Forwarded);
        }
        fixture.nothing_is_left().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_urgent_request_without_a_slot_is_told_at_once_and_leaves_the_patient_one_alone() {
    let mut fixture = Fixture::new();
    let patient = fixture.ask(at(7, 600));
    let (attempt, reply) = fixture.waiting().await;
    for _ in 0..9 {
        let urgent = fixture.ask(at(0, 5));
        let (_, refused) = fixture.waiting().await;
        refused.send(Err("no turn in time".into())).map_err(drop).unwrap();
        assert!(urgent.await.unwrap().is_err());
    }
    let joined = fixture.ask(at(7, 30));
    fixture.settled().await;
    assert!(!reply.is_closed());
    attempt.request.bind();
    reply.send(Ok(rows(&request(&["a"])))).unwrap();
    assert_eq!(patient.await.unwrap().unwrap().outcome, Outcome::Forwarded);
    assert_eq!(joined.await.unwrap().unwrap().outcome, Outcome::Collapsed);
    fixture.nothing_is_left().await;
}

/// The queue's error when the caller's requests fill it.
fn no_room() -> BoxError {
    Failure {
        delivery: Delivery::NoSlot,
        again: RetryHint::Never,
        answer: None,
        source: "as many wait as may".into(),
    }
    .into()
}

#[tokio::test(start_paused = true)]
async fn an_urgent_request_without_a_slot_is_answered_by_the_patient_one_that_leaves_in_time() {
    for (leaves_in, is_answered) in [(4, true), (6, false)] {
        let mut fixture = Fixture::new();
        let patient = fixture.ask(at(7, 600));
        let (attempt, reply) = fixture.waiting().await;
        let start = Instant::now() + Duration::from_secs(leaves_in);
        Arc::clone(&attempt.request).queues(attempt.position, start);
        let urgent = fixture.ask(at(0, 5));
        let (_, refused) = fixture.waiting().await;
        refused.send(Err(no_room())).map_err(drop).unwrap();
        fixture.settled().await;
        assert_eq!(urgent.is_finished(), !is_answered, "told at once if at all");
        pass(leaves_in).await;
        attempt.request.bind();
        reply.send(Ok(rows(&request(&["a"])))).unwrap();
        assert_eq!(patient.await.unwrap().unwrap().outcome, Outcome::Forwarded);
        assert_eq!(urgent.await.unwrap().is_ok(), is_answered);
        fixture.nothing_is_left().await;
    }
}

/// A patient request whose slot comes now, with its attempt and reply, and an equal urgent one for
/// which the queue had no room.
async fn behind_a_patient_one(fixture: &mut Fixture) -> (Response, Attempt, Reply, Response) {
    let patient = fixture.ask(at(7, 600));
    let (attempt, reply) = fixture.waiting().await;
    Arc::clone(&attempt.request).queues(attempt.position, Instant::now());
    let urgent = fixture.ask(at(0, 5));
    let (_, refused) = fixture.waiting().await;
    refused.send(Err(no_room())).map_err(drop).unwrap();
    fixture.settled().await;
    (patient, attempt, reply, urgent)
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_an_equal_one_does_not_ask_for_a_slot_when_others_end() {
    let mut fixture = Fixture::new();
    let (patient, attempt, reply, urgent) = behind_a_patient_one(&mut fixture).await;
    let other = fixture.ask_for(request(&["b"]), at(0, 5));
    let (_, answered) = fixture.departed().await;
    answered.send(Ok(rows(&request(&["b"])))).unwrap();
    other.await.unwrap().unwrap();
    fixture.settled().await;
    assert!(fixture.calls.try_recv().is_err(), "the patient one answers it");
    attempt.request.bind();
    reply.send(Ok(rows(&request(&["a"])))).unwrap();
    for asked in [patient, urgent] {
        asked.await.unwrap().unwrap();
    }
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn an_urgent_request_that_waited_for_a_patient_one_in_vain_asks_for_a_slot_again() {
    let mut fixture = Fixture::new();
    let (patient, attempt, reply, urgent) = behind_a_patient_one(&mut fixture).await;
    attempt.request.bind();
    reply.send(Err("lost".into())).map_err(drop).unwrap();
    assert!(patient.await.unwrap().is_err());
    let start = Instant::now();
    let (again, refused) = fixture.waiting().await;
    assert_eq!(start.elapsed(), Duration::ZERO, "as soon as it is known");
    assert_eq!(
        again.position.asked(),
        Asked::Ended,
        "its caller has not sent another request"
    );
    refused.send(Err(no_room())).map_err(drop).unwrap();
    assert!(urgent.await.unwrap().is_err(), "nobody is left to wait for");
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn the_trace_of_an_attempt_without_an_answer_ends_although_another_call_answers() {
    let mut fixture = Fixture::new();
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let fields = [(
        http::HeaderName::from_static("traceparent"),
        traceparent.parse().unwrap(),
    )];
    let context = trace::read(&fields.into_iter().collect()).unwrap();
    let patient = fixture.ask(Caller {
        trace: trace::Trace::Passing(Arc::new(context)),
        ..at(7, 600)
    });
    let (attempt, _throttled) = fixture.departed().await;
    assert!(matches!(attempt.request.trace(), trace::Call::Passing(_)));
    Arc::clone(&attempt.request).queues(attempt.position, Instant::now() + Duration::from_mins(1));
    let urgent = fixture.ask(at(0, 5));
    let (_, reply) = fixture.departed().await;
    reply.send(Ok(rows(&request(&["a"])))).unwrap();
    urgent.await.unwrap().unwrap();
    patient.await.unwrap().unwrap();
    assert!(matches!(attempt.request.trace(), trace::Call::None), "it has ended");
    drop(attempt);
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn a_response_that_is_no_answer_serves_only_who_asked_for_it() {
    let mut fixture = Fixture::new();
    let patient = fixture.ask(at(7, 600));
    let (before, given_back) = fixture.waiting().await;
    let urgent = fixture.ask(at(0, 5));
    let (_, failed) = fixture.departed().await;
    fixture.settled().await;
    assert!(given_back.is_closed());
    let mut down = answer("");
    down.status = http::StatusCode::SERVICE_UNAVAILABLE;
    failed.send(Ok(down)).unwrap();
    assert_eq!(urgent.await.unwrap().unwrap().answer.status, 503);
    let (attempt, reply) = fixture.departed().await;
    assert_eq!(attempt.position.order(), before.position.order(), "its old place");
    reply.send(Ok(rows(&request(&["a"])))).unwrap();
    assert_eq!(patient.await.unwrap().unwrap().answer.status, 200);
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn who_is_as_urgent_joins_and_so_does_everybody_once_the_call_has_left() {
    let mut fixture = Fixture::new();
    let mut asked = vec![fixture.ask(at(4, 30)), fixture.ask(at(4, 30)), fixture.ask(at(5, 30))];
    let (_, reply) = fixture.departed().await;
    asked.push(fixture.ask(at(0, 30)));
    fixture.settled().await;
    reply.send(Ok(answer("rows"))).unwrap();
    for asked in asked {
        assert_eq!(asked.await.unwrap().unwrap().answer.body, "rows");
    }
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn where_requests_may_be_merged_both_leave_in_one_call_whoever_gets_the_slot() {
    for urgent_first in [true, false] {
        let merge = BatchConfig {
            when: Merging::On,
            ..MERGE
        };
        let mut fixture = Fixture::with(merge, UpstreamProfile::new(1000));
        let asked = [fixture.ask(at(7, 600)), fixture.ask(at(0, 5))];
        let mut tries = [fixture.waiting().await, fixture.waiting().await];
        tries.sort_by_key(|(attempt, _)| (attempt.caller.urgency == Urgency::new(0).unwrap()) != urgent_first);
        let [(attempt, reply), (other, in_queue)] = tries;
        assert_eq!(attempt.request.bind().unwrap().ids().len(), 1);
        fixture.settled().await;
        assert!(in_queue.is_closed() && other.request.bind().is_none());
        tokio::time::advance(Duration::from_secs(1)).await;
        reply.send(Ok(rows(&request(&["a"])))).unwrap();
        for asked in asked {
            assert_eq!(asked.await.unwrap().unwrap().answer.body, rows(&request(&["a"])).body);
        }
        fixture.nothing_is_left().await;
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_joins_a_call_that_left_before_one_that_is_answered() {
    let mut fixture = Fixture::new();
    let first = fixture.ask(at(7, 600));
    let (_, slow) = fixture.departed().await;
    pass(1).await;
    let second = fixture.ask(no_cache(at(0, 5)));
    let (_, quick) = fixture.departed().await;
    quick.send(Ok(rows(&request(&["a"])))).unwrap();
    second.await.unwrap().unwrap();
    let third = fixture.ask(at(7, 600));
    let (_, latest) = fixture.departed().await;
    for (asked, reply) in [(first, slow), (third, latest)] {
        reply.send(Ok(rows(&request(&["a"])))).unwrap();
        assert_eq!(asked.await.unwrap().unwrap().outcome, Outcome::Forwarded);
    }
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn whose_time_is_up_before_an_equal_call_is_answered_waits_for_the_answer() {
    let mut fixture = Fixture::new();
    let (patient, attempt, reply, urgent) = behind_a_patient_one(&mut fixture).await;
    attempt.request.bind();
    pass(20).await;
    fixture.settled().await;
    assert!(fixture.calls.try_recv().is_err(), "it needs no slot");
    reply.send(Ok(rows(&request(&["a"])))).unwrap();
    for asked in [patient, urgent] {
        asked.await.unwrap().unwrap();
    }
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_has_left_can_be_joined_again_when_a_later_one_ends_without_an_answer() {
    for hangs_up in [true, false] {
        let mut fixture = Fixture::new();
        let first = fixture.ask(caller("x", 30));
        let (_, reply) = fixture.departed().await;
        let fresh = fixture.ask(no_cache(caller("y", 30)));
        let (_, refused) = fixture.waiting().await;
        if hangs_up {
            fresh.abort();
        } else {
            refused.send(Err("no slot".into())).map_err(drop).unwrap();
        }
        fixture.settled().await;
        let joins = fixture.ask(caller("z", 30));
        fixture.settled().await;
        reply.send(Ok(answer("rows"))).unwrap();
        first.await.unwrap().unwrap();
        assert_eq!(joins.await.unwrap().unwrap().outcome, Outcome::Collapsed);
        fixture.nothing_is_left().await;
    }
}
