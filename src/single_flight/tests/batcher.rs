use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::time::Duration;

use tokio::time::Instant;

use super::fixture::{Fixture, answer, caller, pass, question};
use crate::attempt::{QueuePosition, Scarcity};
use crate::caller::Name;
use crate::scan::{Endpoint, Outcome, Request, SplitError, UpstreamProfile, UpstreamResponse};
use crate::single_flight::{BatchConfig, BatchWhen};

const MERGE: BatchConfig = BatchConfig {
    when: BatchWhen::Always,
    max_ids: NonZeroUsize::new(4).unwrap(),
    gather: Duration::ZERO,
};

fn fixture() -> Fixture {
    Fixture::with(Some(MERGE), UpstreamProfile::new(1000))
}

/// The answer of an upstream that knows two rows of each id, and lists them in an order of its own.
pub(super) fn rows(request: &Request) -> UpstreamResponse {
    let mut rows = String::new();
    for n in [1, 2] {
        let mut ids: Vec<_> = request.ids().collect();
        ids.reverse();
        for id in ids {
            let comma = if rows.is_empty() { "" } else { "," };
            write!(rows, "{comma}{{\"scanDefinitionId\":\"{id}\",\"n\":{n}.0}}").unwrap();
        }
    }
    answer(format!("{{\"@odata.context\":\"c\",\"value\":[{rows}]}}").leak())
}

#[tokio::test(start_paused = true)]
async fn pending_requests_are_batched_when_one_gets_its_slot() {
    let mut fixture = fixture();
    let asked = [vec!["a", "b"], vec!["b", "c"], vec!["d"], vec!["e"]];
    let served: Vec<_> = asked
        .iter()
        .map(|ids| fixture.ask_for(question(ids), caller(ids[0], 30)))
        .collect();
    let mut tries = Vec::new();
    for _ in 0..4 {
        tries.push(fixture.waiting().await);
    }
    // The third attempt is the first to get a slot. It takes the others as members in the order
    // they came; there is no room for the last.
    let (carrier, reply) = tries.remove(2);
    let united = carrier.request.bind();
    assert_eq!(united.ids().collect::<Vec<_>>(), ["a", "b", "c", "d"]);
    assert_eq!(
        carrier.request.cost_sharers(),
        Some(["a", "b", "d"].map(Name::new).to_vec())
    );
    fixture.settled().await;
    assert!(tries[0].1.is_closed() && tries[1].1.is_closed(), "they queue no longer");
    assert!(!tries[2].1.is_closed());
    assert_eq!(carrier.request.bind(), united, "another attempt asks the same");

    reply.send(Ok(rows(&united))).unwrap();
    let (last, reply) = tries.remove(2);
    reply.send(Ok(rows(&last.request.bind()))).unwrap();
    for ((ids, served), outcome) in asked.iter().zip(served).zip([
        (Outcome::Merged, true),
        (Outcome::Merged, true),
        (Outcome::Merged, false),
        (Outcome::Forwarded, false),
    ]) {
        let served = served.await.unwrap().unwrap();
        assert_eq!(served.answer.body, rows(&question(ids)).body);
        assert_eq!((served.outcome, served.status.collapsed), outcome);
        assert_eq!(served.status.detail.is_some(), outcome.0 == Outcome::Merged);
        assert!(served.status.stored);
    }
    assert_eq!(fixture.sink.kept().len(), 4);
    assert_eq!(
        (fixture.metrics.merged_calls(), fixture.metrics.merged_requests()),
        (1, 3)
    );
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn requests_whose_answers_cannot_be_split_are_never_batched() {
    let mut fixture = fixture();
    let with = |query: &str, version| Request::parse(version, Some(query), br#"{"ScanDefinitionIds":["x"]}"#).unwrap();
    let many: Vec<String> = (0..5).map(|n| n.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let others = [
        with("$top=1", Endpoint::HISTORY),
        with("$skip=0", Endpoint::HISTORY),
        with("", Endpoint::HISTORY_V1),
        question(&many),
    ];
    let mut asked: Vec<_> = others
        .iter()
        .map(|request| fixture.ask_for(request.clone(), caller("x", 30)))
        .collect();
    asked.push(fixture.ask(caller("y", 30)));
    for _ in 0..5 {
        let (attempt, reply) = fixture.waiting().await;
        let request = attempt.request.bind();
        assert!(others.contains(&request) || *request == question(&["a"]));
        reply.send(Ok(rows(&request))).unwrap();
    }
    for asked in asked {
        assert_eq!(asked.await.unwrap().unwrap().outcome, Outcome::Forwarded);
    }
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn two_spellings_of_one_id_are_never_asked_for_in_one_call() {
    const GUID: &str = "60c4aa2d-7f35-4b8f-9e0a-000000000a01";
    let hexadecimal = "{0x60c4aa2d,0x7f35,0x4b8f,{0x9e,0x0a,0x00,0x00,0x00,0x00,0x0a,0x01}}";
    let spellings = [
        GUID.replace('-', ""),
        format!("{{{GUID}}}"),
        format!("urn:uuid:{GUID}"),
        hexadecimal.into(),
    ];
    for (one, other) in spellings
        .iter()
        .map(|spelling| (GUID, &**spelling))
        .chain([("nightly", "Nightly"), ("x", "é")])
    {
        let mut fixture = fixture();
        let asked: Vec<_> = [vec![one, "b"], vec![other], vec!["b", "c"], vec![one]]
            .into_iter()
            .map(|ids| fixture.ask_for(question(&ids), caller(ids[0], 30)))
            .collect();
        let mut united = Vec::new();
        for _ in 0..4 {
            let (attempt, reply) = fixture.waiting().await;
            if !reply.is_closed() {
                let request = attempt.request.bind();
                assert!(request.is_whole(), "{request:?}");
                united.push(request.ids().map(str::to_owned).collect::<Vec<_>>());
                reply.send(Ok(rows(&request))).unwrap();
                fixture.settled().await;
            }
        }
        let mut first = vec![one, "b", "c"];
        first.sort_unstable();
        assert_eq!(united, [first, vec![other]], "{other}");
        for asked in asked {
            asked.await.unwrap().unwrap();
        }
        fixture.nothing_is_left().await;
    }
}

#[tokio::test(start_paused = true)]
async fn rows_that_spell_ids_otherwise_and_stand_on_lines_of_their_own_are_handed_out() {
    let mut fixture = fixture();
    let braced = "{60c4aa2d-7f35-4b8f-9e0a-000000000a01}";
    for _ in 0..5 {
        let asked = [braced, "b"].map(|id| fixture.ask_for(question(&[id]), caller(id, 30)));
        let (first, reply) = fixture.waiting().await;
        let _second = fixture.waiting().await;
        assert_eq!(first.request.bind().ids().len(), 2);
        fixture.settled().await;
        let mine = "{\"scanDefinitionId\": \"60C4AA2D7F354B8F9E0A000000000A01\"}";
        let other = "{\"scanDefinitionId\": \"b\"}";
        let body = format!("{{\n  \"value\": [\n    {mine},\n    {other},\n    {mine}\n  ],\n  \"took\": \"1\"\n}}\n");
        reply.send(Ok(answer(body.leak()))).unwrap();
        let expected = [format!("{mine},\n    {mine}"), other.to_owned()];
        for (asked, rows) in asked.into_iter().zip(expected) {
            let served = asked.await.unwrap().unwrap();
            assert_eq!(served.outcome, Outcome::Merged);
            assert_eq!(
                served.answer.body,
                format!("{{\n  \"value\": [\n    {rows}\n  ],\n  \"took\": \"1\"\n}}\n")
            );
        }
    }
    assert_eq!(fixture.metrics.resting(), None);
    fixture.nothing_is_left().await;
}

/// Batches `a` and `b`, answers with `united`, and checks that both ask alone at their old places.
async fn fail_batch(fixture: &mut Fixture, united: Option<UpstreamResponse>) {
    let (one, other) = (
        fixture.ask_for(question(&["a"]), caller("x", 300)),
        fixture.ask_for(question(&["b"]), caller("y", 300)),
    );
    let (first, reply) = fixture.waiting().await;
    let (second, _) = fixture.waiting().await;
    assert_eq!(first.request.bind().ids().len(), 2);
    fixture.settled().await;
    reply.send(united.ok_or_else(|| "lost".into())).map_err(drop).unwrap();
    let mut places: Vec<QueuePosition> = Vec::new();
    for _ in 0..2 {
        let (attempt, reply) = fixture.waiting().await;
        places.push(attempt.position);
        let request = attempt.request.bind();
        assert_eq!(request.ids().len(), 1, "alone");
        reply.send(Ok(rows(&request))).unwrap();
    }
    places.sort_unstable();
    assert_eq!(places, [first.position, second.position]);
    for (asked, id) in [(one, "a"), (other, "b")] {
        let served = asked.await.unwrap().unwrap();
        assert_eq!(served.outcome, Outcome::Forwarded);
        assert_eq!(served.answer.body, rows(&question(&[id])).body);
    }
    fixture.settled().await;
}

#[tokio::test(start_paused = true)]
async fn after_an_uncertain_split_all_ask_alone_once_at_their_old_places() {
    let united = question(&["a", "b"]);
    let status = |status: u16| {
        let mut answer = rows(&united);
        answer.status = status.try_into().unwrap();
        Some(answer)
    };
    for doubtful in [
        None,
        status(400),
        status(404),
        status(429),
        status(500),
        Some(answer(r#"{"value":[],"total":7}"#)),
        Some(answer(r#"{"value":[{"x":1}]}"#)),
        Some(answer(r#"{"value":[{"scanDefinitionId":"c"}]}"#)),
        Some(answer(r#"{"value":[],"@odata.count":0}"#)),
    ] {
        let mut fixture = fixture();
        fail_batch(&mut fixture, doubtful).await;
        assert_eq!(fixture.metrics.merged_calls(), 0);
        fixture.nothing_is_left().await;
    }
}

/// Asks for `a` and `b` at once, answers every call well, and returns how many calls that took.
async fn calls(fixture: &mut Fixture) -> usize {
    let asked = [
        fixture.ask_for(question(&["a"]), caller("x", 30)),
        fixture.ask_for(question(&["b"]), caller("y", 30)),
    ];
    let mut calls = 0;
    let mut tries = Vec::new();
    for _ in 0..2 {
        tries.push(fixture.waiting().await);
    }
    for (attempt, reply) in tries {
        if !reply.is_closed() {
            calls += 1;
            reply.send(Ok(rows(&attempt.request.bind()))).unwrap();
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
    let mut fixture = fixture();
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
    let asked = ["a", "b"].map(|id| fixture.ask_for(question(&[id]), caller(id, 300)));
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
    let mut fixture = fixture();
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
async fn members_are_answered_although_the_carriers_caller_hangs_up() {
    let mut fixture = fixture();
    let (one, other) = (
        fixture.ask_for(question(&["a"]), caller("x", 30)),
        fixture.ask_for(question(&["b"]), caller("y", 30)),
    );
    let (carrier, reply) = fixture.waiting().await;
    let united = carrier.request.bind();
    one.abort();
    fixture.settled().await;
    let joined = fixture.ask_for(question(&["b"]), caller("z", 1));
    pass(50).await;
    reply.send(Ok(rows(&united))).unwrap();
    for asked in [other, joined] {
        assert_eq!(asked.await.unwrap().unwrap().answer.body, rows(&question(&["b"])).body);
    }
    assert_eq!(fixture.sink.kept().len(), 2, "the carrier's own part is kept too");
    fixture.waiting().await;
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn members_of_a_carrier_that_dies_ask_alone() {
    let mut fixture = fixture();
    let one = fixture.ask_for(question(&["a"]), caller("x", 30));
    let other = fixture.ask_for(question(&["b"]), caller("y", 30));
    let (carrier, reply) = fixture.waiting().await;
    let (_, cancelled) = fixture.waiting().await;
    carrier.request.bind();
    fixture.settled().await;
    assert!(cancelled.is_closed());
    // The service below panics when its reply is dropped.
    drop((carrier, reply));
    assert!(one.await.unwrap_err().is_panic());
    let (request_alone, reply) = fixture.departed().await;
    reply.send(Ok(rows(&request_alone.request.bind()))).unwrap();
    assert_eq!(other.await.unwrap().unwrap().outcome, Outcome::Forwarded);
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn a_member_without_waiters_is_not_sent_again() {
    let mut fixture = fixture();
    let one = fixture.ask_for(question(&["a"]), caller("x", 30));
    let other = fixture.ask_for(question(&["b"]), caller("y", 30));
    let (carrier, reply) = fixture.waiting().await;
    fixture.waiting().await;
    carrier.request.bind();
    fixture.settled().await;
    other.abort();
    fixture.settled().await;
    reply.send(Ok(answer("not json"))).unwrap();
    let (request_alone, reply) = fixture.departed().await;
    assert_eq!(*request_alone.request.bind(), question(&["a"]));
    reply.send(Ok(rows(&question(&["a"])))).unwrap();
    one.await.unwrap().unwrap();
    fixture.nothing_is_left().await;
}

/// How long a caller's question for `id` waits before it asks for a slot.
async fn gather_delay(fixture: &mut Fixture, id: &str, name: &str, patience: u64) -> Duration {
    let start = Instant::now();
    let asked = fixture.ask_for(question(&[id]), caller(name, patience));
    let (_, reply) = fixture.departed().await;
    let waited = start.elapsed();
    reply.send(Ok(rows(&question(&[id])))).unwrap();
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
    let mut fixture = Fixture::with_slots(Some(merge), UpstreamProfile::new(1000), scarcity);
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

    let mut fixture = Fixture::with(Some(merge), UpstreamProfile::new(1000));
    for name in ["x", "y", "x"] {
        let waited = gather_delay(&mut fixture, "a", name, 30).await;
        assert_eq!(waited, Duration::ZERO, "slots are plenty");
    }
    fixture.nothing_is_left().await;
}

/// Answers every call until no request waits any more; returns the ids of each call.
async fn answer_all(fixture: &mut Fixture, answer: impl Fn(&Request) -> UpstreamResponse) -> Vec<Vec<String>> {
    let mut calls = Vec::new();
    while !fixture.tasks.is_empty() {
        let next = tokio::time::timeout(Duration::from_secs(3), fixture.calls.recv()).await;
        let Ok(Some((attempt, reply))) = next else { break };
        if reply.is_closed() {
            continue;
        }
        let request = attempt.request.bind();
        fixture.settled().await;
        calls.push(request.ids().map(str::to_owned).collect());
        reply.send(Ok(answer(&request))).unwrap();
        fixture.settled().await;
    }
    // Flights that became members are no longer queued.
    while let Ok((_, reply)) = fixture.calls.try_recv() {
        assert!(reply.is_closed());
    }
    calls
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_may_be_cut_off_is_followed_by_a_smaller_call_for_all() {
    let mut fixture = Fixture::with(Some(MERGE), UpstreamProfile::new(0));
    let asked = ["a", "b", "c", "d"].map(|id| fixture.ask_for(question(&[id]), caller(id, 300)));
    let calls = answer_all(&mut fixture, rows).await;
    // No answer has been longer than the first, so the second call asks for fewer ids. Nor is it
    // known yet that an answer to a single request holds two rows: one of them finds out, and that
    // is enough for the others.
    assert_eq!(calls[0], ["a", "b", "c", "d"]);
    assert_eq!(calls[1], ["a", "b", "c"]);
    assert!(calls.len() <= 5, "{calls:?}");
    for (asked, id) in asked.into_iter().zip(["a", "b", "c", "d"]) {
        assert_eq!(asked.await.unwrap().unwrap().answer.body, rows(&question(&[id])).body);
    }
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn where_every_answer_is_cut_off_all_ask_alone_in_the_end() {
    let mut fixture = fixture();
    let cut = |request: &Request| match request.ids().len() {
        1 => rows(request),
        _ => answer(r#"{"value":[],"@odata.nextLink":"https://x"}"#),
    };
    let asked = ["a", "b", "c"].map(|id| fixture.ask_for(question(&[id]), caller(id, 300)));
    let calls = answer_all(&mut fixture, cut).await;
    assert!(calls.len() <= 6, "{calls:?}");
    for (asked, id) in asked.into_iter().zip(["a", "b", "c"]) {
        assert_eq!(asked.await.unwrap().unwrap().answer.body, rows(&question(&[id])).body);
    }
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_made_while_a_call_covers_it_gets_its_answer() {
    let mut fixture = fixture();
    let asked = ["a", "b"].map(|id| fixture.ask_for(question(&[id]), caller(id, 30)));
    let (carrier, reply) = fixture.waiting().await;
    let united = carrier.request.bind();
    assert!(united.asks_for_all(), "an answer is cut off at the largest page only");
    pass(1).await;
    let late = fixture.ask_for(question(&["a", "b"]), caller("z", 30));
    let mut insisting = caller("z", 30);
    insisting.cache_directives.no_cache = true;
    fixture.settled().await;
    let later = fixture.ask_for(question(&["b"]), insisting);
    fixture.settled().await;
    reply.send(Ok(rows(&united))).unwrap();
    assert_eq!(
        late.await.unwrap().unwrap().answer.body,
        rows(&question(&["a", "b"])).body
    );
    for asked in asked {
        asked.await.unwrap().unwrap();
    }
    assert!(!later.is_finished(), "it insists on a call that leaves later");
    answer_all(&mut fixture, rows).await;
    assert_eq!(later.await.unwrap().unwrap().outcome, Outcome::Forwarded);
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn an_id_that_was_refused_alone_is_not_asked_for_in_a_batch() {
    let mut fixture = fixture();
    let asked = fixture.ask_for(question(&["unknown"]), caller("x", 30));
    let (_, reply) = fixture.departed().await;
    let mut refused = answer(r#"{"error":{"code":"ResourceNotFound"}}"#);
    refused.status = http::StatusCode::NOT_FOUND;
    reply.send(Ok(refused)).unwrap();
    asked.await.unwrap().unwrap();

    let asked = [["a", "unknown"], ["a", "b"], ["b", "c"]].map(|ids| fixture.ask_for(question(&ids), caller("x", 30)));
    let mut united = Vec::new();
    for _ in 0..3 {
        let (attempt, reply) = fixture.waiting().await;
        if !reply.is_closed() {
            let request = attempt.request.bind();
            united.push(request.ids().len());
            reply.send(Ok(rows(&request))).unwrap();
            fixture.settled().await;
        }
    }
    assert_eq!(united, [2, 3]);
    for asked in asked {
        asked.await.unwrap().unwrap();
    }
    fixture.nothing_is_left().await;
}
