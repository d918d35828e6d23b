//! Questions that the queue has no slot for, and calls that take them along.

use std::num::NonZeroUsize;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::batcher::rows;
use super::bench::{Bench, Reply, caller, pass, question};
use crate::BoxError;
use crate::attempt::{Again, Delivery, Failure, Try};
use crate::scan::{Outcome, Served, UpstreamProfile};
use crate::single_flight::BatchConfig;

type Asked = JoinHandle<Result<Served, BoxError>>;

fn bench() -> Bench {
    let merge = BatchConfig {
        max_ids: NonZeroUsize::new(3).unwrap(),
        gather: Duration::ZERO,
    };
    Bench::with(Some(merge), UpstreamProfile::new(1000))
}

/// What the queue says when it has no slot in time.
fn no_slot() -> BoxError {
    Failure {
        delivery: Delivery::Unsent,
        again: Again::InCompany,
        answer: None,
        source: "no slot in time".into(),
    }
    .into()
}

/// A question that has a place in the queue, its slot to come in `seconds`.
async fn with_slot(bench: &mut Bench, ids: &[&str], seconds: u64) -> (Asked, Try, Reply) {
    let asked = bench.ask_for(question(ids), caller("x", 30));
    let (attempt, reply) = bench.waiting().await;
    let start = Instant::now() + Duration::from_secs(seconds);
    attempt.load.queues(attempt.place, start);
    (asked, attempt, reply)
}

/// A question that the queue has refused.
async fn without_slot(bench: &mut Bench, ids: &[&str], deadline: u64) -> Asked {
    let asked = bench.ask_for(question(ids), caller("y", deadline));
    refuse(bench).await;
    asked
}

/// Refuses whoever asks the queue next.
async fn refuse(bench: &mut Bench) {
    let (_, reply) = bench.waiting().await;
    reply.send(Err(no_slot())).map_err(drop).unwrap();
    bench.settled().await;
}

#[tokio::test(start_paused = true)]
async fn who_has_no_slot_comes_along_with_who_has_one() {
    let mut bench = bench();
    let (asked, carrier, reply) = with_slot(&mut bench, &["a"], 5).await;
    let riders = [
        without_slot(&mut bench, &["b"], 30).await,
        without_slot(&mut bench, &["c"], 6).await,
    ];
    pass(5).await;
    let united = carrier.load.request();
    assert_eq!(united.ids().collect::<Vec<_>>(), ["a", "b", "c"]);
    reply.send(Ok(rows(&united))).unwrap();
    asked.await.unwrap().unwrap();
    for (rider, ids) in riders.into_iter().zip([["b"], ["c"]]) {
        let served = rider.await.unwrap().unwrap();
        assert_eq!(served.outcome, Outcome::Merged);
        assert_eq!(served.answer.body, rows(&question(&ids)).body);
    }
    bench.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn who_cannot_count_on_a_lift_is_refused_at_once() {
    let mut bench = bench();
    assert!(without_slot(&mut bench, &["b"], 30).await.await.unwrap().is_err());
    let (asked, carrier, reply) = with_slot(&mut bench, &["a"], 5).await;
    let start = Instant::now();
    let too_early = without_slot(&mut bench, &["b"], 4).await;
    let no_room = without_slot(&mut bench, &["b", "c", "d"], 30).await;
    for refused in [too_early, no_room] {
        assert!(refused.await.unwrap().is_err());
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(carrier.load.request().ids().len(), 1);
    reply.send(Ok(rows(&question(&["a"])))).unwrap();
    asked.await.unwrap().unwrap();
    bench.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_its_owner_gives_up_is_there_for_who_waited_for_a_lift() {
    let mut bench = bench();
    let (owner, _carrier, _reply) = with_slot(&mut bench, &["a"], 5).await;
    let rider = without_slot(&mut bench, &["b"], 30).await;
    assert!(!rider.is_finished());
    owner.abort();
    let (_, reply) = bench.departed().await;
    reply.send(Ok(rows(&question(&["b"])))).unwrap();
    assert_eq!(rider.await.unwrap().unwrap().outcome, Outcome::Forwarded);
    bench.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn who_is_left_behind_asks_the_queue_again() {
    let mut bench = bench();
    let (first, carrier, reply) = with_slot(&mut bench, &["a", "b"], 5).await;
    let (second, _other, other_reply) = with_slot(&mut bench, &["c"], 8).await;
    // Room enough in two calls, but in neither of them once they go together.
    let riders = [
        without_slot(&mut bench, &["d", "e"], 30).await,
        without_slot(&mut bench, &["f"], 30).await,
    ];
    assert_eq!(carrier.load.request().ids().len(), 3);
    bench.settled().await;
    assert!(other_reply.is_closed(), "taken aboard");
    // One finds no slot again, and nobody else to count on; the other one does.
    refuse(&mut bench).await;
    let (attempt, last) = bench.departed().await;
    last.send(Ok(rows(&attempt.load.request()))).unwrap();
    reply.send(Ok(rows(&question(&["a", "b", "c"])))).unwrap();
    for asked in [first, second] {
        assert_eq!(asked.await.unwrap().unwrap().outcome, Outcome::Merged);
    }
    let mut outcomes = Vec::new();
    for rider in riders {
        outcomes.push(rider.await.unwrap().ok().map(|served| served.outcome));
    }
    outcomes.sort_by_key(Option::is_some);
    assert_eq!(outcomes, [None, Some(Outcome::Forwarded)]);
    bench.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn a_lift_that_does_not_come_ends_with_the_queues_own_refusal() {
    let mut bench = bench();
    let (owner, _carrier, reply) = with_slot(&mut bench, &["a"], 5).await;
    let start = Instant::now();
    let rider = without_slot(&mut bench, &["b"], 7).await;
    // The slot does not come when it was said to.
    refuse(&mut bench).await;
    assert_eq!(start.elapsed(), Duration::from_secs(7));
    assert!(rider.await.unwrap().is_err());
    reply.send(Ok(rows(&question(&["a"])))).unwrap();
    owner.await.unwrap().unwrap();
    bench.nothing_is_left().await;
}
