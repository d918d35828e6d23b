//! Who joins a call fares no worse than if it had asked alone.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use super::fixture::{Fixture, MERGE, answer, caller, no_cache, no_slot, pass, request, root, rows};
use crate::BoxError;
use crate::attempt::{Delivery, Failure, RetryHint, Scarcity};
use crate::caller::Name;
use crate::scan::{Merging, Outcome, UpstreamProfile, UpstreamResponse};
use crate::single_flight::BatchConfig;

fn of_status(status: u16) -> UpstreamResponse {
    UpstreamResponse {
        status: StatusCode::from_u16(status).unwrap(),
        ..answer("")
    }
}

/// What comes back when the leader had no time for another attempt.
fn out_of_time(status: u16) -> BoxError {
    Failure {
        delivery: Delivery::Answered,
        again: RetryHint::WhenAllowed,
        answer: Some(of_status(status)),
        source: "no time is left".into(),
    }
    .into()
}

#[tokio::test(start_paused = true)]
async fn an_answer_for_want_of_time_goes_only_to_those_who_have_none_left() {
    for (status, mut fixture) in [(429, Fixture::new()), (503, Fixture::new()), (429, Fixture::batching())] {
        let hasty = fixture.ask(caller("x", 0));
        let (_, reply) = fixture.departed().await;
        let others = [1, 20, 30].map(|wait| fixture.ask(caller("y", wait)));
        fixture.settled().await;
        pass(2).await;
        reply.send(Err(out_of_time(status))).map_err(drop).unwrap();
        let (attempt, reply) = fixture.departed().await;
        assert_eq!(attempt.caller.deadline, Instant::now() + Duration::from_secs(28));
        reply.send(Ok(rows(&request(&["a"])))).unwrap();
        let served = hasty.await.unwrap().unwrap();
        assert_eq!(
            (served.answer.status.as_u16(), served.outcome),
            (status, Outcome::Forwarded)
        );
        for (asked, expected) in others.into_iter().zip([status, 200, 200]) {
            assert_eq!(asked.await.unwrap().unwrap().answer.status, expected);
        }
        fixture.nothing_is_left().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_for_want_of_time_is_followed_by_few_calls() {
    let mut fixture = Fixture::new();
    let mut asked = vec![fixture.ask(caller("x", 0))];
    let mut calls = 0;
    while let Ok(Some((attempt, reply))) = tokio::time::timeout(Duration::from_secs(1), fixture.calls.recv()).await {
        attempt.request.bind();
        // Always somebody with more time.
        asked.push(fixture.ask(caller("y", 100 + calls)));
        fixture.settled().await;
        reply.send(Err(out_of_time(429))).map_err(drop).unwrap();
        calls += 1;
    }
    assert_eq!(calls, 5);
    for asked in asked {
        assert_eq!(asked.await.unwrap().unwrap().answer.status, 429);
    }
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn each_name_is_refused_by_the_queue_itself() {
    let mut fixture = Fixture::new();
    let asked = ["x", "y", "y", "z"].map(|name| fixture.ask(caller(name, 0)));
    fixture.settled().await;
    for name in ["x", "y", "z"] {
        let (attempt, reply) = fixture.waiting().await;
        assert_eq!(attempt.caller.name, Name::new(name));
        fixture.settled().await;
        reply.send(Err(no_slot())).map_err(drop).unwrap();
    }
    for asked in asked {
        assert_eq!(root(&asked.await.unwrap().unwrap_err()), "no slot in time");
    }
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn whose_time_ends_before_the_call_leaves_asks_the_queue_itself() {
    for (queued_before, has_slot) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut fixture = Fixture::new();
        let patient = fixture.ask(caller("x", 600));
        let (attempt, in_queue) = fixture.waiting().await;
        let queue = || Arc::clone(&attempt.request).queues(attempt.position, Instant::now() + Duration::from_mins(8));
        if queued_before {
            queue();
        }
        let start = Instant::now();
        let hasty = fixture.ask(caller("y", 20));
        fixture.settled().await;
        if !queued_before {
            assert!(fixture.calls.try_recv().is_err(), "the call may leave in time");
            queue();
        }
        let (own, reply) = fixture.waiting().await;
        assert_eq!((own.caller.name.as_str(), start.elapsed()), ("y", Duration::ZERO));
        if has_slot {
            own.request.bind();
            reply.send(Ok(rows(&request(&["a"])))).unwrap();
            assert_eq!(hasty.await.unwrap().unwrap().outcome, Outcome::Forwarded);
        } else {
            reply.send(Err(no_slot())).map_err(drop).unwrap();
            assert_eq!(root(&hasty.await.unwrap().unwrap_err()), "no slot in time");
            assert!(!in_queue.is_closed(), "the patient one keeps its place");
            attempt.request.bind();
            in_queue.send(Ok(rows(&request(&["a"])))).unwrap();
        }
        let outcome = if has_slot {
            Outcome::Collapsed
        } else {
            Outcome::Forwarded
        };
        assert_eq!(patient.await.unwrap().unwrap().outcome, outcome);
        fixture.nothing_is_left().await;
    }
}

#[tokio::test(start_paused = true)]
async fn whose_time_is_over_before_the_call_has_left_asks_the_queue_itself() {
    for (predicted, expected) in [(None, 2010), (Some(1), 3000)] {
        let mut fixture = Fixture::new();
        let patient = fixture.ask(caller("x", 30));
        let (attempt, in_queue) = fixture.waiting().await;
        if let Some(seconds) = predicted {
            let start = Instant::now() + Duration::from_secs(seconds);
            Arc::clone(&attempt.request).queues(attempt.position, start);
        }
        let start = Instant::now();
        let all = [2, 2, 2].map(|wait| fixture.ask(caller("y", wait)));
        let (_, refused) = fixture.waiting().await;
        assert_eq!(start.elapsed(), Duration::from_millis(expected));
        refused.send(Err(no_slot())).map_err(drop).unwrap();
        for asked in all {
            assert_eq!(root(&asked.await.unwrap().unwrap_err()), "no slot in time");
        }
        attempt.request.bind();
        in_queue.send(Ok(answer("rows"))).unwrap();
        assert_eq!(patient.await.unwrap().unwrap().outcome, Outcome::Forwarded);
        fixture.nothing_is_left().await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_longer_for_the_answer_than_a_call_may_take_asks_the_queue_itself() {
    let mut fixture = Fixture::new();
    let leader = fixture.ask(caller("x", 500));
    let (_, slow) = fixture.departed().await;
    let start = Instant::now();
    let joiner = fixture.ask(caller("y", 2));
    let (_, reply) = fixture.departed().await;
    assert_eq!(start.elapsed(), Duration::from_mins(1));
    reply.send(Ok(answer("rows"))).unwrap();
    joiner.await.unwrap().unwrap();
    slow.send(Ok(answer("rows"))).unwrap();
    leader.await.unwrap().unwrap();
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn two_that_will_not_wait_share_a_call_that_leaves_at_once() {
    let mut fixture = Fixture::new();
    let asked = [fixture.ask(caller("x", 0)), fixture.ask(caller("y", 0))];
    fixture.settled().await;
    let (attempt, reply) = fixture.waiting().await;
    Arc::clone(&attempt.request).queues(attempt.position, Instant::now());
    attempt.request.bind();
    fixture.settled().await;
    reply.send(Ok(answer("rows"))).unwrap();
    for asked in asked {
        asked.await.unwrap().unwrap();
    }
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn who_will_not_wait_does_not_wait_for_company() {
    let merge = BatchConfig {
        gather: Duration::from_millis(5),
        ..MERGE
    };
    let scarcity = Scarcity {
        gather: Some(Duration::from_secs(2)),
        interval: Duration::from_secs(2),
    };
    for wait in [0, 1] {
        let mut fixture = Fixture::with_slots(merge, UpstreamProfile::new(1000), scarcity);
        for (name, id) in [("x", "b"), ("z", "c")] {
            let asked = fixture.ask_for(request(&[id]), caller(name, 0));
            let (_, reply) = fixture.departed().await;
            reply.send(Ok(rows(&request(&[id])))).unwrap();
            asked.await.unwrap().unwrap();
        }
        let start = Instant::now();
        let gathers = fixture.ask(caller("x", 30));
        fixture.settled().await;
        assert!(fixture.calls.try_recv().is_err());
        let hasty = fixture.ask(caller("y", wait));
        let (attempt, reply) = fixture.departed().await;
        assert_eq!((attempt.caller.name.as_str(), start.elapsed()), ("y", Duration::ZERO));
        pass(1).await;
        reply.send(Ok(rows(&request(&["a"])))).unwrap();
        for asked in [gathers, hasty] {
            assert_eq!(asked.await.unwrap().unwrap().answer.body, rows(&request(&["a"])).body);
        }
        fixture.nothing_is_left().await;
    }
}

#[tokio::test(start_paused = true)]
async fn whose_own_turn_comes_clearly_before_takes_it_and_all_are_answered() {
    let scarcity = Scarcity {
        gather: None,
        interval: Duration::from_secs(2),
    };
    let merge = BatchConfig {
        when: Merging::Off,
        ..MERGE
    };
    // Its own turn comes in 5 s.
    for (predicted, begins) in [(8, false), (9, false), (10, true), (480, true)] {
        let mut fixture = Fixture::with_slots(merge, UpstreamProfile::new(0), scarcity);
        let greedy = fixture.ask(caller("greedy", 600));
        let (attempt, reply) = fixture.waiting().await;
        let start = Instant::now() + Duration::from_secs(predicted);
        Arc::clone(&attempt.request).queues(attempt.position, start);
        let mut others = vec![fixture.ask(caller("soon", 600)), fixture.ask(caller("other", 600))];
        let (attempt, reply) = if begins {
            let (own, own_reply) = fixture.waiting().await;
            assert_eq!(own.caller.name, Name::new("soon"));
            Arc::clone(&own.request).queues(own.position, Instant::now() + Duration::from_secs(5));
            others.extend(["greedy", "soon", "other"].map(|name| fixture.ask(no_cache(caller(name, 600)))));
            (own, own_reply)
        } else {
            (attempt, reply)
        };
        fixture.settled().await;
        attempt.request.bind();
        reply.send(Ok(rows(&request(&["a"])))).unwrap();
        for asked in others.into_iter().chain([greedy]) {
            asked.await.unwrap().unwrap();
        }
        // Only that of the greedy one is left, and it is given up.
        while let Ok((_, given_up)) = fixture.calls.try_recv() {
            assert!(given_up.is_closed());
        }
        fixture.nothing_is_left().await;
    }
}
