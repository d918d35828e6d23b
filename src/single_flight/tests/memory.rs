//! The memory of the parts of an answer to a batch.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::batch_join;
use super::batch_throttled::carried;
use super::fixture::{Fixture, answer, caller, pass, request, rows};
use crate::BoxError;
use crate::attempt::{Delivery, Failure, RetryHint};
use crate::memory::{AnswerMemory, Exhausted, LARGE_ANSWER, MemoryBudget};
use crate::scan::{Outcome, Request, ServedResponse, UpstreamResponse};
use crate::telemetry::log;

/// As long as the answer to one id.
const LONG: usize = LARGE_ANSWER + 10_000;

/// A row for each id.
fn long_rows(request: &Request) -> UpstreamResponse {
    let text = "x".repeat(LONG - 60);
    let row = |id: &str| format!(r#"{{"scanDefinitionId":"{id}","text":"{text}"}}"#);
    let rows: Vec<_> = request.ids().map(row).collect();
    answer(format!(r#"{{"value":[{}]}}"#, rows.join(",")).leak())
}

fn memory() -> AnswerMemory {
    AnswerMemory {
        small: MemoryBudget::new(LARGE_ANSWER),
        // For one answer and a half.
        large: MemoryBudget::new(LONG * 3 / 2),
    }
}

type Asked = JoinHandle<Result<ServedResponse, BoxError>>;

/// Two requests that one call has answered, of which one has its part.
async fn merged(fixture: &mut Fixture) -> (ServedResponse, Asked) {
    let carrier = fixture.ask_for(request(&["a"]), caller("x", 60));
    let (attempt, reply) = fixture.waiting().await;
    let member = fixture.ask_for(request(&["b"]), caller("y", 60));
    let _waiting = fixture.waiting().await;
    let united = attempt.request.bind().unwrap();
    assert_eq!(united.ids().len(), 2);
    reply.send(Ok(long_rows(&united))).unwrap();
    let served = carrier.await.unwrap().unwrap();
    assert_eq!(served.answer.body, long_rows(&request(&["a"])).body);
    // What the cache keeps are copies.
    fixture.sink.0.lock().unwrap().clear();
    fixture.settled().await;
    (served, member)
}

#[tokio::test(start_paused = true)]
async fn a_member_gets_its_part_when_there_is_memory_for_it() {
    let memory = memory();
    let mut fixture = Fixture::with_memory(memory.clone());
    let (first, member) = merged(&mut fixture).await;
    assert!(memory.large.holds(&first.answer.body) && !member.is_finished());
    assert!(memory.large.is_wanted(), "callers who do not read are told to go");
    drop(first);
    let served = member.await.unwrap().unwrap();
    assert_eq!(served.answer.body, long_rows(&request(&["b"])).body);
    assert!(memory.large.holds(&served.answer.body));
    drop(served);
    fixture.sink.0.lock().unwrap().clear();
    assert_eq!(memory.large.left(), memory.large.bytes());
}

fn lacks_memory(result: &Result<ServedResponse, BoxError>) -> bool {
    let error = result.as_ref().unwrap_err();
    let exhausted = log::causes(error.as_ref()).find_map(|cause| cause.downcast_ref::<Exhausted>());
    exhausted.is_some()
}

#[tokio::test(start_paused = true)]
async fn a_member_without_memory_in_time_is_told_so_and_costs_no_other_call() {
    let mut fixture = Fixture::with_memory(memory());
    let (_first, member) = merged(&mut fixture).await;
    pass(5).await;
    assert!(lacks_memory(&member.await.unwrap()));
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_in_front_of_a_part_gets_the_memory_of_the_whole() {
    let memory = AnswerMemory {
        large: MemoryBudget::new(LONG * 4),
        ..memory()
    };
    let mut fixture = Fixture::with_memory(memory.clone());
    let carrier = fixture.ask_for(request(&["a"]), caller("x", 60));
    let (attempt, reply) = fixture.waiting().await;
    let member = fixture.ask_for(request(&["b"]), caller("y", 60));
    let _waiting = fixture.waiting().await;
    let whole = long_rows(&attempt.request.bind().unwrap());
    let body = memory.large.try_reserve(whole.body.len()).unwrap().hold(whole.body);
    // The answer to another call grows, while this one is here.
    let large = Arc::clone(&memory.large);
    let other = async move { timeout(Duration::from_secs(6), large.reserve(LONG * 3)).await };
    let other = fixture.tasks.spawn("test", other);
    fixture.settled().await;
    reply.send(Ok(UpstreamResponse { body, ..whole })).unwrap();
    let served = carrier.await.unwrap().unwrap();
    assert_eq!(served.answer.body, long_rows(&request(&["a"])).body);
    assert!(memory.large.holds(&served.answer.body) && !other.is_finished());
    drop(served);
    fixture.sink.0.lock().unwrap().clear();
    assert!(lacks_memory(&member.await.unwrap()));
    assert!(other.await.unwrap().is_ok(), "it needs not give up");
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_joined_from_rows_that_had_come_is_counted() {
    for released_after in [0, 4, 6] {
        let memory = memory();
        let others = memory.large.try_reserve(LONG);
        let mut fixture = Fixture::with_memory(memory.clone());
        let carrier = fixture.ask_for(request(&["a"]), caller("x", 60));
        let (attempt, reply) = fixture.waiting().await;
        let member = fixture.ask_for(request(&["b"]), caller("y", 60));
        let _waiting = fixture.waiting().await;
        *fixture.sink.1.lock().unwrap() = Some(long_rows(&request(&["b"])));
        let sent = attempt.request.bind().unwrap();
        assert_eq!(sent.ids().collect::<Vec<_>>(), ["a"]);
        reply.send(Ok(rows(&sent))).unwrap();
        carrier.await.unwrap().unwrap();
        pass(released_after).await;
        fixture.settled().await;
        drop(others);
        let served = member.await.unwrap();
        assert!(
            if released_after > 5 {
                lacks_memory(&served)
            } else {
                memory.large.holds(&served.unwrap().answer.body)
            },
            "{released_after}"
        );
        fixture.sink.0.lock().unwrap().clear();
        assert_eq!(memory.large.left(), memory.large.bytes());
        fixture.nothing_is_left().await;
    }
}

#[tokio::test(start_paused = true)]
async fn small_parts_are_counted_too() {
    let memory = memory();
    let mut fixture = Fixture::with_memory(memory.clone());
    let carrier = fixture.ask_for(request(&["a"]), caller("x", 60));
    let (attempt, reply) = fixture.waiting().await;
    let member = fixture.ask_for(request(&["b"]), caller("y", 60));
    let _waiting = fixture.waiting().await;
    let united = attempt.request.bind().unwrap();
    reply.send(Ok(rows(&united))).unwrap();
    carrier.await.unwrap().unwrap();
    let served = member.await.unwrap().unwrap();
    let taken = memory.small.bytes() - memory.small.left();
    let parts = fixture.sink.kept();
    assert_eq!(
        (taken, parts.len()),
        (2 * served.answer.body.len(), 2),
        "the call's own part too"
    );
}

/// There was no memory for the call, which did not leave.
fn did_not_leave(again: RetryHint) -> BoxError {
    Failure {
        delivery: Delivery::NotSent,
        again,
        answer: None,
        source: Exhausted { of: "calls" }.into(),
    }
    .into()
}

#[tokio::test(start_paused = true)]
async fn members_of_a_call_without_memory_in_its_leaders_time_share_the_next_one() {
    let mut fixture = batch_join::fixture();
    for round in 0..4 {
        let (owner, _carrier, reply, asked) = carried(&mut fixture, [("b", 300), ("c", 300)]).await;
        pass(32).await;
        reply.send(Err(did_not_leave(RetryHint::Once))).map_err(drop).unwrap();
        assert!(lacks_memory(&owner.await.unwrap()), "round {round}");
        let (next, reply) = fixture.waiting().await;
        let (_, also) = fixture.waiting().await;
        let united = next.request.bind().unwrap();
        assert_eq!(united.ids().len(), 2, "round {round}: one call for both");
        fixture.settled().await;
        assert!(also.is_closed());
        reply.send(Ok(rows(&united))).unwrap();
        for asked in asked {
            assert_eq!(asked.await.unwrap().unwrap().outcome, Outcome::Merged);
        }
        fixture.settled().await;
    }
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn who_joined_a_call_without_memory_in_its_leaders_time_makes_another() {
    let mut fixture = Fixture::new();
    let hasty = fixture.ask(caller("x", 0));
    let (_, reply) = fixture.departed().await;
    let patient = fixture.ask(caller("y", 60));
    fixture.settled().await;
    pass(1).await;
    reply.send(Err(did_not_leave(RetryHint::Once))).map_err(drop).unwrap();
    assert!(lacks_memory(&hasty.await.unwrap()));
    let (next, reply) = fixture.departed().await;
    reply.send(Ok(rows(&next.request.bind().unwrap()))).unwrap();
    assert_eq!(patient.await.unwrap().unwrap().answer.body, rows(&request(&["a"])).body);
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn calls_that_did_not_leave_say_nothing_about_merging() {
    let mut fixture = Fixture::batching();
    for round in 0..4 {
        let asked = ["a", "b"].map(|id| fixture.ask_for(request(&[id]), caller(id, 300)));
        let (first, reply) = fixture.waiting().await;
        let _second = fixture.waiting().await;
        assert_eq!(first.request.bind().unwrap().ids().len(), 2, "round {round}");
        fixture.settled().await;
        reply.send(Err(did_not_leave(RetryHint::Never))).map_err(drop).unwrap();
        assert_eq!(fixture.answer_all(rows).await.len(), 2, "round {round}: each alone");
        for asked in asked {
            asked.await.unwrap().unwrap();
        }
    }
    assert_eq!(fixture.metrics.resting(), None);
    fixture.nothing_is_left().await;
}
