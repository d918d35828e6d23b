//! Batches whose answers can be split among their members.

use super::fixture::{Fixture, answer, caller, pass, request, rows};
use crate::caller::Name;
use crate::scan::{Endpoint, Outcome, Request};

#[tokio::test(start_paused = true)]
async fn pending_requests_are_batched_when_one_gets_its_slot() {
    let mut fixture = Fixture::batching();
    let asked = [vec!["a", "b"], vec!["b", "c"], vec!["d"], vec!["e"]];
    let served: Vec<_> = asked
        .iter()
        .map(|ids| fixture.ask_for(request(ids), caller(ids[0], 30)))
        .collect();
    let mut tries = Vec::new();
    for _ in 0..4 {
        tries.push(fixture.waiting().await);
    }
    // The third attempt is the first to get a slot. It takes the others as members in the order
    // they came; there is no room for the last.
    let (carrier, reply) = tries.remove(2);
    let united = carrier.request.bind().unwrap();
    assert_eq!(united.ids().collect::<Vec<_>>(), ["a", "b", "c", "d"]);
    assert_eq!(
        carrier.request.cost_sharers(),
        Some(["a", "b", "d"].map(Name::new).to_vec())
    );
    fixture.settled().await;
    assert!(tries[0].1.is_closed() && tries[1].1.is_closed(), "they queue no longer");
    assert!(!tries[2].1.is_closed());
    assert_eq!(carrier.request.bind().unwrap(), united, "another attempt asks the same");

    reply.send(Ok(rows(&united))).unwrap();
    let (last, reply) = tries.remove(2);
    reply.send(Ok(rows(&last.request.bind().unwrap()))).unwrap();
    for ((ids, served), outcome) in asked.iter().zip(served).zip([
        (Outcome::Merged, true),
        (Outcome::Merged, true),
        (Outcome::Merged, false),
        (Outcome::Forwarded, false),
    ]) {
        let served = served.await.unwrap().unwrap();
        assert_eq!(served.answer.body, rows(&request(ids)).body);
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
async fn a_flight_that_is_taken_along_in_the_moment_of_its_own_slot_gives_the_slot_back() {
    let mut fixture = Fixture::batching();
    let served = ["a", "b"].map(|id| fixture.ask_for(request(&[id]), caller(id, 30)));
    let (carrier, reply) = fixture.waiting().await;
    let (member, _own_reply) = fixture.waiting().await;
    let united = carrier.request.bind().unwrap();
    assert_eq!(united.ids().collect::<Vec<_>>(), ["a", "b"]);
    // The member's slot comes before the member knows.
    assert_eq!(member.request.bind(), None);
    assert_eq!(member.request.cost_sharers(), Some(Vec::new()), "nobody pays for it");
    reply.send(Ok(rows(&united))).unwrap();
    for served in served {
        assert_eq!(served.await.unwrap().unwrap().outcome, Outcome::Merged);
    }
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn a_flight_whose_last_waiter_leaves_in_the_moment_of_its_slot_gives_the_slot_back() {
    let mut fixture = Fixture::batching();
    let asked = fixture.ask_for(request(&["a"]), caller("x", 30));
    let (attempt, _reply) = fixture.waiting().await;
    asked.abort();
    assert!(asked.await.unwrap_err().is_cancelled());
    assert_eq!(attempt.request.bind(), None);
    assert_eq!(attempt.request.cost_sharers(), Some(Vec::new()), "nobody pays for it");
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn requests_whose_answers_cannot_be_split_are_never_batched() {
    let mut fixture = Fixture::batching();
    let with = |query: &str, version| Request::parse(version, Some(query), br#"{"ScanDefinitionIds":["x"]}"#).unwrap();
    let many: Vec<String> = (0..5).map(|n| n.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let others = [
        with("$top=1", Endpoint::HISTORY),
        with("$skip=0", Endpoint::HISTORY),
        with("", Endpoint::HISTORY_V1),
        request(&many),
    ];
    let mut asked: Vec<_> = others
        .iter()
        .map(|request| fixture.ask_for(request.clone(), caller("x", 30)))
        .collect();
    asked.push(fixture.ask(caller("y", 30)));
    for _ in 0..5 {
        let (attempt, reply) = fixture.waiting().await;
        let bound = attempt.request.bind().unwrap();
        assert!(others.contains(&bound) || *bound == request(&["a"]));
        reply.send(Ok(rows(&bound))).unwrap();
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
        let mut fixture = Fixture::batching();
        let asked: Vec<_> = [vec![one, "b"], vec![other], vec!["b", "c"], vec![one]]
            .into_iter()
            .map(|ids| fixture.ask_for(request(&ids), caller(ids[0], 30)))
            .collect();
        let mut united = Vec::new();
        for _ in 0..4 {
            let (attempt, reply) = fixture.waiting().await;
            if !reply.is_closed() {
                let request = attempt.request.bind().unwrap();
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
    let mut fixture = Fixture::batching();
    let braced = "{60c4aa2d-7f35-4b8f-9e0a-000000000a01}";
    for _ in 0..5 {
        let asked = [braced, "b"].map(|id| fixture.ask_for(request(&[id]), caller(id, 30)));
        let (first, reply) = fixture.waiting().await;
        let _second = fixture.waiting().await;
        assert_eq!(first.request.bind().unwrap().ids().len(), 2);
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

#[tokio::test(start_paused = true)]
async fn members_are_answered_although_the_carriers_caller_hangs_up() {
    let mut fixture = Fixture::batching();
    let (one, other) = (
        fixture.ask_for(request(&["a"]), caller("x", 30)),
        fixture.ask_for(request(&["b"]), caller("y", 30)),
    );
    let (carrier, reply) = fixture.waiting().await;
    let united = carrier.request.bind().unwrap();
    one.abort();
    fixture.settled().await;
    let joined = fixture.ask_for(request(&["b"]), caller("z", 1));
    pass(50).await;
    reply.send(Ok(rows(&united))).unwrap();
    for asked in [other, joined] {
        assert_eq!(asked.await.unwrap().unwrap().answer.body, rows(&request(&["b"])).body);
    }
    assert_eq!(fixture.sink.kept().len(), 2, "the carrier's own part is kept too");
    fixture.waiting().await;
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_made_while_a_call_covers_it_gets_its_answer() {
    let mut fixture = Fixture::batching();
    let asked = ["a", "b"].map(|id| fixture.ask_for(request(&[id]), caller(id, 30)));
    let (carrier, reply) = fixture.waiting().await;
    let united = carrier.request.bind().unwrap();
    assert!(united.asks_for_all(), "an answer is cut off at the largest page only");
    pass(1).await;
    let late = fixture.ask_for(request(&["a", "b"]), caller("z", 30));
    let mut insisting = caller("z", 30);
    insisting.cache_directives.no_cache = true;
    fixture.settled().await;
    let later = fixture.ask_for(request(&["b"]), insisting);
    fixture.settled().await;
    reply.send(Ok(rows(&united))).unwrap();
    assert_eq!(
        late.await.unwrap().unwrap().answer.body,
        rows(&request(&["a", "b"])).body
    );
    for asked in asked {
        asked.await.unwrap().unwrap();
    }
    assert!(!later.is_finished(), "it insists on a call that leaves later");
    fixture.answer_all(rows).await;
    assert_eq!(later.await.unwrap().unwrap().outcome, Outcome::Forwarded);
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn who_would_make_a_batch_too_large_is_passed_over() {
    let mut fixture = Fixture::batching();
    let asked = [&["a", "b"][..], &["c", "d", "e"], &["f"]].map(|ids| fixture.ask_for(request(ids), caller("x", 30)));
    let (carrier, reply) = fixture.waiting().await;
    let united = carrier.request.bind().unwrap();
    assert_eq!(united.ids().collect::<Vec<_>>(), ["a", "b", "f"]);
    fixture.settled().await;
    reply.send(Ok(rows(&united))).unwrap();
    fixture.answer_all(rows).await;
    for asked in asked {
        asked.await.unwrap().unwrap();
    }
    fixture.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn an_id_that_was_refused_alone_is_not_asked_for_in_a_batch() {
    let mut fixture = Fixture::batching();
    let asked = fixture.ask_for(request(&["unknown"]), caller("x", 30));
    let (_, reply) = fixture.departed().await;
    let mut refused = answer(r#"{"error":{"code":"ResourceNotFound"}}"#);
    refused.status = http::StatusCode::NOT_FOUND;
    reply.send(Ok(refused)).unwrap();
    asked.await.unwrap().unwrap();

    let asked = [["a", "unknown"], ["a", "b"], ["b", "c"]].map(|ids| fixture.ask_for(request(&ids), caller("x", 30)));
    let mut united = Vec::new();
    for _ in 0..3 {
        let (attempt, reply) = fixture.waiting().await;
        if !reply.is_closed() {
            let request = attempt.request.bind().unwrap();
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
