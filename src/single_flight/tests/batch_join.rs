//! How long a call waits for others; and requests for which the queue has no slot, and batches that
//! they join.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::fixture::{Fixture, MERGE, Reply, caller, no_slot, pass, request, rows};
use crate::BoxError;
use crate::attempt::{Attempt, Refusal, Scarcity};
use crate::caller::Caller;
use crate::scan::{Merging, Outcome, ServedResponse, UpstreamProfile};
use crate::single_flight::BatchConfig;

pub(super) type Response = JoinHandle<Result<ServedResponse, BoxError>>;

pub(super) fn fixture() -> Fixture {
    let merge = BatchConfig {
        when: Merging::On,
        max_ids: NonZeroUsize::new(3).unwrap(),
        gather: Duration::ZERO,
    };
    Fixture::with(merge, UpstreamProfile::new(1000))
}

/// A request that is in the queue and will get its slot in `seconds`.
pub(super) async fn with_slot(fixture: &mut Fixture, ids: &[&str], seconds: u64) -> (Response, Attempt, Reply) {
    let asked = fixture.ask_for(request(ids), caller("x", 30));
    let (attempt, reply) = fixture.waiting().await;
    let start = Instant::now() + Duration::from_secs(seconds);
    Arc::clone(&attempt.request).queues(attempt.position, start);
    (asked, attempt, reply)
}

/// A request that the queue has rejected.
async fn without_slot(fixture: &mut Fixture, ids: &[&str], deadline: u64) -> Response {
    let asked = fixture.ask_for(request(ids), caller("y", deadline));
    refuse(fixture).await;
    asked
}

/// Rejects the next request that asks the queue.
async fn refuse(fixture: &mut Fixture) {
    let (_, reply) = fixture.waiting().await;
    reply.send(Err(no_slot())).map_err(drop).unwrap();
    fixture.settled().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_without_a_slot_joins_the_batch_of_one_with_a_slot() {
    let mut fixture = fixture();
    let (asked, carrier, reply) = with_slot(&mut fixture, &["a"], 5).await;
    let joiners = [
        without_slot(&mut fixture, &["b"], 30).await,
        without_slot(&mut fixture, &["c"], 6).await,
    ];
    pass(5).await;
    let united = carrier.request.bind().unwrap();
    assert_eq!(united.ids().collect::<Vec<_>>(), ["a", "b", "c"]);
    reply.send(Ok(rows(&united))).unwrap();
    asked.await.unwrap().unwrap();
    for (joiner, ids) in joiners.into_iter().zip([["b"], ["c"]]) {
        let served = joiner.await.unwrap().unwrap();
        assert_eq!(served.outcome, Outcome::Merged);
        assert_eq!(served.answer.body, rows(&request(&ids)).body);
    }
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_count_on_a_batch_is_refused_at_once() {
    let mut fixture = fixture();
    assert!(without_slot(&mut fixture, &["b"], 30).await.await.unwrap().is_err());
    let (asked, carrier, reply) = with_slot(&mut fixture, &["a"], 5).await;
    let start = Instant::now();
    let too_early = without_slot(&mut fixture, &["b"], 4).await;
    let no_room = without_slot(&mut fixture, &["b", "c", "d"], 30).await;
    for refused in [too_early, no_room] {
        assert!(refused.await.unwrap().is_err());
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(carrier.request.bind().unwrap().ids().len(), 1);
    reply.send(Ok(rows(&request(&["a"])))).unwrap();
    asked.await.unwrap().unwrap();
    fixture.nothing_is_left().await;
}

/// A refusal that records whether it was told or withdrawn.
#[derive(Debug)]
pub(super) struct Recorded(pub(super) mpsc::UnboundedSender<&'static str>, pub(super) &'static str);

impl Refusal for Recorded {
    fn withdraw(mut self: Box<Self>) {
        self.1 = "withdrawn";
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        let _ = self.0.send(self.1);
    }
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_the_same_as_one_without_a_slot_asks_the_queue_itself() {
    let mut fixture = fixture();
    let (asked, carrier, reply) = with_slot(&mut fixture, &["a"], 5).await;
    let refused = without_slot(&mut fixture, &["b"], 30).await;
    let [namesake, other] = ["y", "z"].map(|name| fixture.ask_for(request(&["b"]), caller(name, 40)));
    let (own, own_reply) = fixture.waiting().await;
    assert_eq!(own.caller.name.as_str(), "z");
    let united = own.request.bind().unwrap();
    own_reply.send(Ok(rows(&united))).unwrap();
    for asked in [refused, namesake, other] {
        assert_eq!(asked.await.unwrap().unwrap().answer.body, rows(&request(&["b"])).body);
    }
    if let Some(request) = carrier.request.bind() {
        reply.send(Ok(rows(&request))).unwrap();
    }
    asked.await.unwrap().unwrap();
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn the_queues_refusal_does_not_count_if_each_of_its_callers_has_something_else() {
    for (other, told) in [(true, "withdrawn"), (false, "told")] {
        let mut fixture = Fixture::new();
        let (send, mut refusals) = mpsc::unbounded_channel();
        let asked = [true, other].map(|has_fallback| {
            fixture.ask(Caller {
                has_fallback,
                ..caller("x", 30)
            })
        });
        let (attempt, reply) = fixture.waiting().await;
        fixture.settled().await;
        attempt.request.refused(Box::new(Recorded(send, "told")));
        reply.send(Err(no_slot())).map_err(drop).unwrap();
        for asked in asked {
            assert!(asked.await.unwrap().is_err());
        }
        assert_eq!(refusals.recv().await, Some(told));
        fixture.nothing_is_left().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_queues_refusal_counts_only_if_somebody_is_told() {
    let mut fixture = fixture();
    let (send, mut refusals) = mpsc::unbounded_channel();
    let (asked, carrier, reply) = with_slot(&mut fixture, &["a"], 5).await;
    let joiners = [("b", 30), ("c", 4)].map(|(id, wait)| fixture.ask_for(request(&[id]), caller(id, wait)));
    for _ in &joiners {
        let (attempt, reply) = fixture.waiting().await;
        attempt.request.refused(Box::new(Recorded(send.clone(), "told")));
        reply.send(Err(no_slot())).map_err(drop).unwrap();
    }
    fixture.settled().await;
    let [joins, is_told] = joiners;
    assert!(is_told.await.unwrap().is_err(), "no call leaves in its time");
    let mut ends = [refusals.recv().await, refusals.recv().await];
    ends.sort_unstable();
    assert_eq!(ends, [Some("told"), Some("withdrawn")]);
    let united = carrier.request.bind().unwrap();
    reply.send(Ok(rows(&united))).unwrap();
    for asked in [asked, joins] {
        assert_eq!(asked.await.unwrap().unwrap().outcome, Outcome::Merged);
    }
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn a_slot_given_up_goes_to_a_request_that_waited_to_join_a_batch() {
    let mut fixture = fixture();
    let (owner, _carrier, _reply) = with_slot(&mut fixture, &["a"], 5).await;
    let joiner = without_slot(&mut fixture, &["b"], 30).await;
    assert!(!joiner.is_finished());
    owner.abort();
    let (_, reply) = fixture.departed().await;
    reply.send(Ok(rows(&request(&["b"])))).unwrap();
    assert_eq!(joiner.await.unwrap().unwrap().outcome, Outcome::Forwarded);
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_was_put_off_is_not_counted_on_any_more() {
    let mut fixture = fixture();
    let (asked, carrier, reply) = with_slot(&mut fixture, &["a"], 5).await;
    let start = Instant::now() + Duration::from_secs(20);
    Arc::clone(&carrier.request).queues(carrier.position, start);
    let refused = without_slot(&mut fixture, &["b"], 10).await;
    assert!(refused.is_finished(), "told at once");
    assert!(refused.await.unwrap().is_err());
    carrier.request.bind();
    reply.send(Ok(rows(&request(&["a"])))).unwrap();
    asked.await.unwrap().unwrap();
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_left_out_of_a_batch_asks_the_queue_again() {
    let mut fixture = fixture();
    let (first, carrier, reply) = with_slot(&mut fixture, &["a", "b"], 5).await;
    let (second, _other, other_reply) = with_slot(&mut fixture, &["c"], 8).await;
    // Two calls have room enough, but not once they are united.
    let joiners = [
        without_slot(&mut fixture, &["d", "e"], 30).await,
        without_slot(&mut fixture, &["f"], 30).await,
    ];
    assert_eq!(carrier.request.bind().unwrap().ids().len(), 3);
    fixture.settled().await;
    assert!(other_reply.is_closed(), "a member of the batch");
    // One of them gets no slot again, and no other call to join; the other one does.
    refuse(&mut fixture).await;
    let (attempt, last) = fixture.departed().await;
    last.send(Ok(rows(&attempt.request.bind().unwrap()))).unwrap();
    reply.send(Ok(rows(&request(&["a", "b", "c"])))).unwrap();
    for asked in [first, second] {
        assert_eq!(asked.await.unwrap().unwrap().outcome, Outcome::Merged);
    }
    let mut outcomes = Vec::new();
    for joiner in joiners {
        outcomes.push(joiner.await.unwrap().ok().map(|served| served.outcome));
    }
    outcomes.sort_by_key(Option::is_some);
    assert_eq!(outcomes, [None, Some(Outcome::Forwarded)]);
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_does_not_come_ends_with_the_queues_own_refusal() {
    let mut fixture = fixture();
    let (owner, _carrier, reply) = with_slot(&mut fixture, &["a"], 5).await;
    let start = Instant::now();
    let joiner = without_slot(&mut fixture, &["b"], 7).await;
    // The slot does not come when it was predicted.
    refuse(&mut fixture).await;
    assert_eq!(start.elapsed(), Duration::from_secs(7));
    assert!(joiner.await.unwrap().is_err());
    reply.send(Ok(rows(&request(&["a"])))).unwrap();
    owner.await.unwrap().unwrap();
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
