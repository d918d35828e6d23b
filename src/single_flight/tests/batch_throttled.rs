//! Batches whose call waits for a slot again after a 429.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::batch_join::{Recorded, Response, fixture, with_slot};
use super::fixture::{Fixture, Reply, answer, caller, no_slot, pass, request, rows};
use crate::attempt::Attempt;
use crate::caller::Name;
use crate::scan::{Outcome, UpstreamResponse};

/// A call for `a` that has left and carries members, whose callers wait so many seconds: its own
/// request, its attempt and reply, and theirs.
pub(super) async fn carried<const N: usize>(
    fixture: &mut Fixture,
    members: [(&str, u64); N],
) -> (Response, Attempt, Reply, [Response; N]) {
    let (owner, carrier, reply) = with_slot(fixture, &["a"], 0).await;
    let members = members.map(|(id, wait)| fixture.ask_for(request(&[id]), caller(id, wait)));
    for _ in &members {
        fixture.waiting().await;
    }
    assert_eq!(carrier.request.bind().unwrap().ids().len(), 1 + N);
    fixture.settled().await;
    (owner, carrier, reply, members)
}

#[tokio::test(start_paused = true)]
async fn members_of_a_throttled_call_that_gets_no_other_slot_share_the_next_one() {
    let mut fixture = fixture();
    for round in 0..5 {
        let (owner, carrier, reply, asked) = carried(&mut fixture, [("b", 300), ("c", 300)]).await;
        // A 429 came, and the pause is longer than its leader may wait.
        let (send, mut refusals) = mpsc::unbounded_channel();
        carrier.request.refused(Box::new(Recorded(send, "told")));
        reply.send(Err(no_slot())).map_err(drop).unwrap();
        assert_eq!(refusals.recv().await, Some("withdrawn"), "the queue is asked again");
        fixture.settled().await;
        let (mut refused, mut waiting) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let (attempt, reply) = fixture.waiting().await;
            let is_owner = attempt.caller.name == Name::new("x");
            if is_owner { &mut refused } else { &mut waiting }.push((attempt, reply));
        }
        for (_, reply) in refused {
            reply.send(Err(no_slot())).map_err(drop).unwrap();
        }
        assert!(owner.await.unwrap().is_err(), "round {round}");
        pass(60).await;
        let (carrier, reply) = waiting.remove(0);
        let united = carrier.request.bind().unwrap();
        assert_eq!(united.ids().len(), 2, "round {round}: one call for both");
        reply.send(Ok(rows(&united))).unwrap();
        for asked in asked {
            assert_eq!(asked.await.unwrap().unwrap().outcome, Outcome::Merged);
        }
        fixture.settled().await;
    }
    assert_eq!(fixture.metrics.resting(), None);
    fixture.nothing_is_left().await;
}

/// The queue has a place again for a call that was throttled: its next slot comes in `seconds`.
async fn pauses(fixture: &mut Fixture, carrier: &Attempt, seconds: u64) {
    let start = Instant::now() + Duration::from_secs(seconds);
    Arc::clone(&carrier.request).queues(carrier.position, start);
    fixture.settled().await;
}

#[tokio::test(start_paused = true)]
async fn members_of_a_throttled_call_wait_as_long_as_their_own_callers_may() {
    let mut fixture = fixture();
    for round in 0..6 {
        let (owner, carrier, reply, members) = carried(&mut fixture, [("b", 5), ("c", 300)]).await;
        pauses(&mut fixture, &carrier, 60).await;
        let [hasty, patient] = members;
        let mut tries = [fixture.waiting().await, fixture.waiting().await];
        tries.sort_by_key(|(attempt, _)| attempt.caller.deadline);
        let [(_, refused), (attempt, in_queue)] = tries;
        refused.send(Err(no_slot())).map_err(drop).unwrap();
        Arc::clone(&attempt.request).queues(attempt.position, Instant::now() + Duration::from_secs(62));
        assert!(hasty.await.unwrap().is_err(), "round {round}: told at once");
        pass(60).await;
        let united = carrier.request.bind().unwrap();
        assert_eq!(
            united.ids().collect::<Vec<_>>(),
            ["a", "c"],
            "round {round}: they share the next call"
        );
        fixture.settled().await;
        assert!(in_queue.is_closed());
        reply.send(Ok(rows(&united))).unwrap();
        for asked in [owner, patient] {
            assert_eq!(asked.await.unwrap().unwrap().outcome, Outcome::Merged);
        }
    }
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn a_joiner_of_a_member_does_not_wait_for_a_call_that_queues_again() {
    let mut fixture = fixture();
    let (owner, carrier, reply) = with_slot(&mut fixture, &["a"], 0).await;
    let member = fixture.ask_for(request(&["b"]), caller("y", 300));
    fixture.waiting().await;
    let joiner = fixture.ask_for(request(&["b"]), caller("z", 2));
    assert_eq!(carrier.request.bind().unwrap().ids().len(), 2);
    fixture.settled().await;
    pass(3).await;
    fixture.settled().await;
    let start = Instant::now();
    pauses(&mut fixture, &carrier, 60).await;
    let (attempt, _in_queue) = fixture.waiting().await;
    Arc::clone(&attempt.request).queues(attempt.position, start + Duration::from_secs(62));
    // It asks the queue itself.
    let (_, refused) = fixture.waiting().await;
    refused.send(Err(no_slot())).map_err(drop).unwrap();
    assert!(joiner.await.unwrap().is_err());
    assert_eq!(start.elapsed(), Duration::ZERO);
    let united = carrier.request.bind().unwrap();
    reply.send(Ok(rows(&united))).unwrap();
    for asked in [owner, member] {
        assert_eq!(asked.await.unwrap().unwrap().outcome, Outcome::Merged);
    }
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn a_throttled_batch_takes_no_slot_for_nobody() {
    let mut fixture = fixture();
    let (owner, carrier, reply, [member]) = carried(&mut fixture, [("b", 300)]).await;
    pauses(&mut fixture, &carrier, 60).await;
    let (_, in_queue) = fixture.waiting().await;
    for asked in [owner, member] {
        asked.abort();
    }
    fixture.settled().await;
    assert!(reply.is_closed() && in_queue.is_closed(), "nobody wants the next slot");
    assert!(carrier.request.bind().is_none());
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn a_member_whose_time_is_long_over_leaves_a_batch_whose_next_slot_is_free() {
    let mut fixture = fixture();
    let (owner, carrier, reply, [member]) = carried(&mut fixture, [("b", 5)]).await;
    // Sign-in takes its time to fail, and the slot is still there.
    for is_over in [false, true] {
        pass(6).await;
        Arc::clone(&carrier.request).queues(carrier.position, Instant::now());
        assert_eq!(carrier.request.bind().unwrap().ids().len(), if is_over { 1 } else { 2 });
    }
    let (_, refused) = fixture.waiting().await;
    refused.send(Err(no_slot())).map_err(drop).unwrap();
    assert!(member.await.unwrap().is_err());
    reply.send(Ok(rows(&request(&["a"])))).unwrap();
    assert_eq!(owner.await.unwrap().unwrap().outcome, Outcome::Forwarded);
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn the_others_stay_in_a_batch_that_a_member_leaves() {
    let mut fixture = fixture();
    let (owner, carrier, reply, [over, kept]) = carried(&mut fixture, [("b", 2), ("c", 300)]).await;
    pass(8).await;
    Arc::clone(&carrier.request).queues(carrier.position, Instant::now());
    let united = carrier.request.bind().unwrap();
    assert_eq!(united.ids().collect::<Vec<_>>(), ["a", "c"]);
    let (_, refused) = fixture.waiting().await;
    refused.send(Err(no_slot())).map_err(drop).unwrap();
    assert!(over.await.unwrap().is_err());
    assert!(fixture.calls.try_recv().is_err(), "the other waits for the retry");
    reply.send(Ok(rows(&united))).unwrap();
    for asked in [owner, kept] {
        assert_eq!(asked.await.unwrap().unwrap().outcome, Outcome::Merged);
    }
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn a_429_past_the_leaders_time_says_nothing_about_merging() {
    let mut fixture = fixture();
    for round in 0..4 {
        let (owner, _carrier, reply, members) = carried(&mut fixture, [("b", 300), ("c", 300)]).await;
        let throttled = UpstreamResponse {
            status: StatusCode::TOO_MANY_REQUESTS,
            ..answer("{}")
        };
        reply.send(Ok(throttled)).unwrap();
        assert_eq!(owner.await.unwrap().unwrap().answer.status, 429);
        let (carrier, reply) = fixture.waiting().await;
        fixture.waiting().await;
        let united = carrier.request.bind().unwrap();
        assert_eq!(united.ids().len(), 2, "round {round}: the members share the next call");
        reply.send(Ok(rows(&united))).unwrap();
        for member in members {
            assert_eq!(member.await.unwrap().unwrap().outcome, Outcome::Merged);
        }
    }
    assert_eq!(fixture.metrics.resting(), None);
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_whose_next_slot_is_free_stays_together() {
    let mut fixture = fixture();
    let (owner, carrier, reply, [member]) = carried(&mut fixture, [("b", 300)]).await;
    pauses(&mut fixture, &carrier, 0).await;
    let united = carrier.request.bind().unwrap();
    assert_eq!(united.ids().len(), 2);
    reply.send(Ok(rows(&united))).unwrap();
    for asked in [owner, member] {
        assert_eq!(asked.await.unwrap().unwrap().outcome, Outcome::Merged);
    }
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn a_throttled_request_without_another_slot_joins_a_batch() {
    let mut fixture = fixture();
    let (throttled, attempt, reply) = with_slot(&mut fixture, &["a"], 0).await;
    attempt.request.bind();
    let (owner, carrier, other) = with_slot(&mut fixture, &["b"], 5).await;
    reply.send(Err(no_slot())).map_err(drop).unwrap();
    fixture.settled().await;
    pass(5).await;
    let united = carrier.request.bind().unwrap();
    assert_eq!(united.ids().collect::<Vec<_>>(), ["a", "b"]);
    other.send(Ok(rows(&united))).unwrap();
    for asked in [throttled, owner] {
        assert_eq!(asked.await.unwrap().unwrap().outcome, Outcome::Merged);
    }
    fixture.nothing_is_left().await;
}
