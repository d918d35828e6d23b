//! The memory of the parts of an answer to a batch.

use tokio::task::JoinHandle;

use super::fixture::{Fixture, answer, caller, pass, request, rows};
use crate::BoxError;
use crate::memory::{AnswerMemory, LARGE_ANSWER, MemoryBudget};
use crate::scan::{Request, ServedResponse, UpstreamResponse};

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

#[tokio::test(start_paused = true)]
async fn a_member_without_memory_asks_alone() {
    let mut fixture = Fixture::with_memory(memory());
    let (_first, member) = merged(&mut fixture).await;
    pass(15).await;
    let (attempt, reply) = fixture.departed().await;
    assert_eq!(attempt.request.bind().unwrap().ids().collect::<Vec<_>>(), ["b"]);
    reply.send(Ok(rows(&request(&["b"])))).unwrap();
    member.await.unwrap().unwrap();
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
    assert_eq!(taken, served.answer.body.len());
}
