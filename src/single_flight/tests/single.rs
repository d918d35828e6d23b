use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::fixture::{Fixture, answer, call, caller, failure, no_cache, no_slot, no_store, pass, root};
use crate::attempt::{Failure, RetryHint};
use crate::caller::Name;
use crate::scan::Outcome;
use crate::single_flight::Shared;
use crate::single_flight::error::FlightDropped;

#[tokio::test(start_paused = true)]
async fn equal_requests_share_one_call() {
    let mut fixture = Fixture::new();
    let first = fixture.ask(caller("x", 30));
    let second = fixture.ask(caller("y", 30));
    let (attempt, reply) = fixture.departed().await;
    let third = fixture.ask(caller("x", 30));
    let both = ["x", "y"].map(Name::new).to_vec();
    assert_eq!(attempt.request.cost_sharers(), Some(both));
    reply.send(Ok(answer("rows"))).unwrap();

    let first = first.await.unwrap().unwrap();
    assert_eq!((first.outcome, first.status.collapsed), (Outcome::Forwarded, false));
    assert_eq!((first.status.stored, first.status.ttl), (true, Some(30)));
    for joined in [second, third] {
        let joined = joined.await.unwrap().unwrap();
        assert_eq!((joined.outcome, joined.status.collapsed), (Outcome::Collapsed, true));
        assert_eq!(joined.answer.body, "rows");
    }
    assert_eq!(fixture.sink.kept(), ["rows"]);
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_joiners_share_one_call() {
    let mut fixture = Fixture::new();
    let asked: Vec<_> = (0..10_000).map(|n| fixture.ask(caller(&n.to_string(), 30))).collect();
    let (attempt, reply) = fixture.departed().await;
    assert_eq!(attempt.request.cost_sharers().map(|names| names.len()), Some(10_000));
    reply.send(Ok(answer("rows"))).unwrap();
    let mut bodies = BTreeSet::new();
    for asked in asked {
        bodies.insert(asked.await.unwrap().unwrap().answer.body.as_ptr() as usize);
    }
    assert_eq!(bodies.len(), 1, "the body is shared");
    fixture.nothing_is_left().await;
}

/// How far a call has come when its leader hangs up.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Point {
    BeforeItsTask,
    Waiting,
    Departed,
    Answered,
    Completed,
}

#[tokio::test(start_paused = true)]
async fn followers_are_answered_wherever_the_leader_hangs_up() {
    for point in [
        Point::BeforeItsTask,
        Point::Waiting,
        Point::Departed,
        Point::Answered,
        Point::Completed,
    ] {
        let mut fixture = Fixture::new();
        let mut leader: Option<BoxFuture<'static, _>> = Some(fixture.flights.call(call(caller("leader", 30))).boxed());
        // It makes no difference whether the leader was polled.
        if point != Point::BeforeItsTask {
            assert!(leader.as_mut().unwrap().now_or_never().is_none());
        }
        let followers: Vec<_> = (0..3).map(|_| fixture.ask(caller("follower", 30))).collect();
        let mut hang_up = |now: Point| {
            if now == point {
                leader = None;
            }
        };
        hang_up(Point::BeforeItsTask);
        let (attempt, reply) = fixture.waiting().await;
        hang_up(Point::Waiting);
        fixture.settled().await;
        attempt.request.bind();
        hang_up(Point::Departed);
        fixture.settled().await;
        reply.send(Ok(answer("rows"))).unwrap();
        hang_up(Point::Answered);
        fixture.settled().await;
        hang_up(Point::Completed);
        for follower in followers {
            assert_eq!(follower.await.unwrap().unwrap().answer.body, "rows", "{point:?}");
        }
        assert_eq!(fixture.sink.kept(), ["rows"], "{point:?}");
        fixture.nothing_is_left().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_without_waiters_gives_up_its_place() {
    let mut fixture = Fixture::new();
    let (one, other) = (fixture.ask(caller("x", 30)), fixture.ask(caller("y", 30)));
    let (_, reply) = fixture.waiting().await;
    one.abort();
    fixture.settled().await;
    assert!(!reply.is_closed(), "somebody still wants it");
    other.abort();
    fixture.settled().await;
    assert!(reply.is_closed(), "its place in the queue is given up");

    let again = fixture.ask(caller("x", 30));
    let (_, reply) = fixture.departed().await;
    reply.send(Ok(answer("rows"))).unwrap();
    again.await.unwrap().unwrap();
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_has_left_is_finished_and_kept_for_later() {
    let mut fixture = Fixture::new();
    let asked = fixture.ask(caller("x", 30));
    let (_, reply) = fixture.departed().await;
    let left = Instant::now();
    asked.abort();
    pass(3).await;
    reply.send(Ok(answer("rows"))).unwrap();
    fixture.settled().await;
    assert_eq!(*fixture.sink.0.lock().unwrap(), [(Bytes::from("rows"), left)]);
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn a_deadline_is_about_leaving_not_about_arriving() {
    let mut fixture = Fixture::new();
    let leader = fixture.ask(caller("x", 30));
    let joiner = fixture.ask(caller("y", 2));
    let (_, reply) = fixture.departed().await;
    pass(59).await;
    reply.send(Ok(answer("rows"))).unwrap();
    assert_eq!(joiner.await.unwrap().unwrap().answer.body, "rows");
    leader.await.unwrap().unwrap();
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn a_joiner_does_not_wait_for_a_call_that_queues_again() {
    let mut fixture = Fixture::new();
    let leader = fixture.ask(caller("x", 500));
    let (attempt, reply) = fixture.departed().await;
    let [early, hasty] = [1, 4].map(|seconds| fixture.ask(caller("y", seconds)));
    fixture.settled().await;
    pass(2).await;
    // A 429 came, and the pause lasts for half a minute.
    let start = Instant::now();
    Arc::clone(&attempt.request).queues(attempt.position, start + Duration::from_secs(30));
    // They ask the queue themselves, first for the one and then for the one with more time.
    for asked in [early, hasty] {
        let (_, refused) = fixture.waiting().await;
        refused.send(Err(no_slot())).map_err(drop).unwrap();
        assert_eq!(root(&asked.await.unwrap().unwrap_err()), "no slot in time");
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
    let fresh = fixture.ask(no_cache(caller("z", 60)));
    fixture.settled().await;
    pass(30).await;
    attempt.request.bind();
    reply.send(Ok(answer("rows"))).unwrap();
    leader.await.unwrap().unwrap();
    assert_eq!(fresh.await.unwrap().unwrap().outcome, Outcome::Collapsed);
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_queues_again_for_nobody_gives_up_its_place() {
    for hangs_up_before in [true, false] {
        let mut fixture = Fixture::new();
        let asked = fixture.ask(caller("x", 500));
        let (attempt, reply) = fixture.departed().await;
        if hangs_up_before {
            asked.abort();
            fixture.settled().await;
            assert!(!reply.is_closed(), "it has left");
        }
        let start = Instant::now() + Duration::from_secs(30);
        Arc::clone(&attempt.request).queues(attempt.position, start);
        if !hangs_up_before {
            asked.abort();
        }
        fixture.settled().await;
        assert!(reply.is_closed(), "nobody wants the next slot");
        assert!(attempt.request.bind().is_none());
        fixture.nothing_is_left().await;
    }
}

#[tokio::test(start_paused = true)]
async fn no_cache_joins_a_call_that_waits_but_not_one_that_has_left() {
    let mut fixture = Fixture::new();
    let first = fixture.ask(caller("x", 30));
    let early = fixture.ask(no_cache(caller("y", 30)));
    let (_, first_reply) = fixture.departed().await;
    let late = fixture.ask(no_cache(caller("y", 30)));
    let (_, second_reply) = fixture.departed().await;
    let newest = fixture.ask(caller("z", 30));

    first_reply.send(Ok(answer("old"))).unwrap();
    assert_eq!(first.await.unwrap().unwrap().answer.body, "old");
    assert_eq!(early.await.unwrap().unwrap().answer.body, "old");
    assert_eq!(
        fixture.single_flight.flight_table.len(),
        1,
        "the later flight can still be joined"
    );
    second_reply.send(Ok(answer("new"))).unwrap();
    assert_eq!(late.await.unwrap().unwrap().answer.body, "new");
    assert_eq!(newest.await.unwrap().unwrap().answer.body, "new");
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_the_leader_is_not_a_refusal_of_those_with_more_time() {
    let mut fixture = Fixture::new();
    let leader = fixture.ask(caller("x", 5));
    let same = fixture.ask(caller("x", 5));
    let middling = fixture.ask(caller("x", 20));
    let most = fixture.ask(caller("x", 30));
    let (first, reply) = fixture.waiting().await;
    reply
        .send(Err("no turn before the deadline".into()))
        .map_err(drop)
        .unwrap();
    for refused in [leader, same] {
        assert_eq!(
            root(&refused.await.unwrap().unwrap_err()),
            "no turn before the deadline"
        );
    }
    let (second, reply) = fixture.departed().await;
    assert_eq!(second.caller.deadline, Instant::now() + Duration::from_secs(30));
    assert!(second.position > first.position, "not in the place of somebody else");
    reply.send(Ok(answer("rows"))).unwrap();
    assert_eq!(middling.await.unwrap().unwrap().outcome, Outcome::Collapsed);
    assert_eq!(most.await.unwrap().unwrap().outcome, Outcome::Forwarded);
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn a_limit_on_the_leaders_name_does_not_concern_others() {
    let mut fixture = Fixture::new();
    let greedy = fixture.ask(caller("greedy", 30));
    let modest = fixture.ask(caller("modest", 5));
    let (_, reply) = fixture.waiting().await;
    reply.send(Err("greedy has too many".into())).map_err(drop).unwrap();
    assert!(greedy.await.unwrap().is_err());
    let (attempt, reply) = fixture.departed().await;
    assert_eq!(attempt.caller.name, Name::new("modest"));
    reply.send(Ok(answer("rows"))).unwrap();
    modest.await.unwrap().unwrap();
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_all_waiters_costs_few_attempts() {
    let mut fixture = Fixture::new();
    let asked: Vec<_> = (0..100).map(|n| fixture.ask(caller(&n.to_string(), 30))).collect();
    let mut tries = 0;
    while let Some((_, reply)) = tokio::time::timeout(Duration::from_secs(1), fixture.calls.recv())
        .await
        .ok()
        .flatten()
    {
        reply.send(Err("queue full".into())).map_err(drop).unwrap();
        tries += 1;
    }
    assert_eq!(tries, 5);
    for asked in asked {
        assert_eq!(root(&asked.await.unwrap().unwrap_err()), "queue full");
    }
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_call_is_made_once_more_for_all_others_together() {
    for second in ["rows", ""] {
        let mut fixture = Fixture::new();
        let leader = fixture.ask(caller("leader", 30));
        let others: Vec<_> = (0..10).map(|n| fixture.ask(caller(&n.to_string(), 30))).collect();
        let (_, reply) = fixture.departed().await;
        reply.send(Err(failure(RetryHint::Once))).map_err(drop).unwrap();
        assert_eq!(root(&leader.await.unwrap().unwrap_err()), "connection lost");
        let (_, reply) = fixture.departed().await;
        let result = if second.is_empty() {
            Err(failure(RetryHint::Once))
        } else {
            Ok(answer(second))
        };
        reply.send(result).map_err(drop).unwrap();
        for other in others {
            assert_eq!(other.await.unwrap().is_ok(), !second.is_empty());
        }
        fixture.nothing_is_left().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_would_repeat_goes_to_all_waiters() {
    let mut fixture = Fixture::new();
    let asked: Vec<_> = (0..3).map(|n| fixture.ask(caller(&n.to_string(), 30))).collect();
    let (_, reply) = fixture.departed().await;
    reply.send(Err(failure(RetryHint::Never))).map_err(drop).unwrap();
    for asked in asked {
        let error = asked.await.unwrap().unwrap_err();
        let shared: &Shared = error.downcast_ref().unwrap();
        assert_eq!(shared.find::<Failure>().unwrap().again, RetryHint::Never);
    }
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn waiters_of_a_call_that_panicked_get_an_error() {
    let mut fixture = Fixture::new();
    let asked = fixture.ask(caller("x", 30));
    let (_, reply) = fixture.departed().await;
    let joined = fixture.ask(caller("y", 30));
    fixture.settled().await;
    // The service below panics when its reply is dropped.
    drop(reply);
    // The request that drove the call panics itself, where panics are counted.
    assert!(asked.await.unwrap_err().is_panic());
    assert!(joined.await.unwrap().unwrap_err().is::<FlightDropped>());
    let again = fixture.ask(caller("x", 30));
    let (_, reply) = fixture.departed().await;
    reply.send(Ok(answer("rows"))).unwrap();
    again.await.unwrap().unwrap();
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_not_stored_only_if_no_waiter_allows_it() {
    for (with_other, kept) in [(false, 0), (true, 1)] {
        let mut fixture = Fixture::new();
        let asked = fixture.ask(no_store(caller("x", 30)));
        let other = with_other.then(|| fixture.ask(caller("y", 30)));
        let (_, reply) = fixture.departed().await;
        reply.send(Ok(answer("rows"))).unwrap();
        assert_eq!(asked.await.unwrap().unwrap().status.stored, with_other);
        if let Some(other) = other {
            other.await.unwrap().unwrap();
        }
        assert_eq!(fixture.sink.kept().len(), kept);
        fixture.nothing_is_left().await;
    }
}
