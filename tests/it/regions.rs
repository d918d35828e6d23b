//! The nearest region answers; when it fails, the next one does, and callers do not notice.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::StatusCode;
use serde_json::Value;

use defender_gateway::testing::sim::{Fault, Often, Plan};

use crate::support::{Controls, Running, Setup, id};

fn selected(status: &Value) -> String {
    let regions = status["regions"].as_array().unwrap();
    let found = regions.iter().find(|region| region["selected"] == true);
    found
        .map_or("none", |region| region["name"].as_str().unwrap())
        .to_owned()
}

/// Enough quota that it does not matter.
fn three() -> Setup {
    Setup::new()
        .region("far", 150)
        .region("near", 10)
        .region("middle", 60)
        .limits(sim::Shape::SlidingLog, &["10000/1h"])
}

/// Asks one new request after the other, while `act` acts; every one must be answered well.
async fn while_asked<T>(running: &Running, act: impl AsyncFnOnce(&AtomicUsize) -> T) -> T {
    let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let asking = async {
        for n in 0.. {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            let answer = running.caller.ask(&[id(n)]).await;
            assert_eq!(answer.status, StatusCode::OK, "request {n}: {}", answer.text());
            answered.fetch_add(1, Ordering::SeqCst);
        }
    };
    let acting = async {
        let done = act(&answered).await;
        stop.store(true, Ordering::SeqCst);
        done
    };
    tokio::join!(asking, acting).1
}

async fn more(answered: &AtomicUsize, count: usize) {
    let goal = answered.load(Ordering::SeqCst) + count;
    let look = async || (answered.load(Ordering::SeqCst) >= goal).then_some(());
    crate::support::until("further answers", look).await;
}

fn last_region(running: &Running) -> String {
    running.simulator.calls().last().unwrap().region.clone()
}

#[tokio::test]
async fn the_nearest_is_used_when_it_goes_the_next_one_and_when_it_is_back_it_is_used_again() {
    let running = three().start().await;
    running
        .until_status("the nearest", |status| selected(status) == "near")
        .await;
    while_asked(&running, async |answered| {
        more(answered, 5).await;
        assert_eq!(last_region(&running), "near");

        running.simulator.shut("near").await.unwrap();
        more(answered, 5).await;
        assert_eq!(last_region(&running), "middle");
        // At first it has only lost a connection. The next one that is tried tells.
        let health = |status: &Value| -> Vec<bool> {
            let regions = status["regions"].as_array().unwrap().iter();
            regions.map(|region| region["healthy"] == true).collect()
        };
        let left = |status: &Value| health(status) == [true, false, true] && selected(status) == "middle";
        running.until_status("that it is gone", left).await;

        running.simulator.open("near").await.unwrap();
        running
            .until_status("its return", |status| selected(status) == "near")
            .await;
        more(answered, 5).await;
        assert_eq!(last_region(&running), "near");
    })
    .await;
    let used: BTreeSet<_> = running.simulator.calls().into_iter().map(|call| call.region).collect();
    assert_eq!(
        used,
        BTreeSet::from(["near".into(), "middle".into()]),
        "the far one was never needed"
    );
    running.finish().await;
}

#[tokio::test]
async fn cut_connections_are_noticed_by_nobody() {
    let running = three().start().await;
    running
        .until_status("the nearest", |status| selected(status) == "near")
        .await;
    while_asked(&running, async |answered| {
        for _ in 0..3 {
            more(answered, 5).await;
            running.simulator.cut_connections().await;
        }
        more(answered, 5).await;
    })
    .await;
    running.finish().await;
}

#[tokio::test]
async fn a_black_hole_is_left_after_the_attempts_time() {
    let running = three().set("defender.timeout", "1s").start().await;
    running
        .until_status("the nearest", |status| selected(status) == "near")
        .await;
    while_asked(&running, async |answered| {
        more(answered, 3).await;
        running
            .simulator
            .set_faults("near", &Plan::of(Fault::BlackHole, Often::Always))
            .unwrap();
        more(answered, 3).await;
        assert_eq!(last_region(&running), "middle");
    })
    .await;
    running.finish().await;
}

#[tokio::test]
async fn without_any_region_callers_are_told_and_afterwards_all_is_well() {
    let running = three().start().await;
    let names = ["near", "middle", "far"];
    for name in names {
        running.simulator.shut(name).await.unwrap();
    }
    let answer = running.caller.ask(&[id(1)]).await;
    assert_eq!(
        (answer.status.as_u16(), &*answer.error_code()),
        (502, "UpstreamUnreachable")
    );
    assert_eq!(
        running.admin.fetch("/readyz").await.status,
        StatusCode::OK,
        "an honest refusal is an answer"
    );
    let used = running.status().await["quota"]["windows"][0]["used"].clone();
    assert_eq!(used, 0, "what was never sent costs nothing");
    for name in names {
        running.simulator.open(name).await.unwrap();
    }
    assert_eq!(running.caller.ask(&[id(1)]).await.status, StatusCode::OK);
    running.finish().await;
}

#[tokio::test]
async fn a_pinned_region_is_the_only_one() {
    let running = three().set("defender.region", "far").start().await;
    assert_eq!(running.caller.ask(&[id(1)]).await.status, StatusCode::OK);
    assert_eq!(last_region(&running), "far");
    assert_eq!(running.status().await["regions"].as_array().unwrap().len(), 1);
    running.finish().await;
}

#[tokio::test]
async fn a_timeout_is_told_as_one() {
    let setup = Setup::new().set("defender.timeout", "1s").set("queue.max_wait", "1s");
    let running = setup.start().await;
    running
        .simulator
        .set_faults("eu", &Plan::of(Fault::BlackHole, Often::Always))
        .unwrap();
    let answer = running.caller.ask(&[id(1)]).await;
    assert_eq!(
        (answer.status.as_u16(), &*answer.error_code()),
        (504, "UpstreamTimeout")
    );
    assert!(running.simulator.elapsed() < Duration::from_secs(25));
    running.finish().await;
}

#[tokio::test]
async fn nobody_waits_long_for_a_region_that_went_silent() {
    // Nothing is known of it, or it has answered before.
    for answers in [0, 30] {
        let running = three().start().await;
        running
            .until_status("the nearest", |status| selected(status) == "near")
            .await;
        for n in 0..answers {
            assert_eq!(running.caller.ask(&[id(1000 + n)]).await.status, StatusCode::OK);
        }
        running
            .simulator
            .set_faults("near", &Plan::of(Fault::BlackHole, Often::Always))
            .unwrap();
        let before = running.simulator.calls().len();
        let asked = (0..30).map(|n| {
            let caller = &running.caller;
            async move {
                let begun = tokio::time::Instant::now();
                let answer = caller.ask(&[id(n)]).await;
                assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
                begun.elapsed()
            }
        });
        let slowest = futures_util::future::join_all(asked).await.into_iter().max().unwrap();
        let calls = running.simulator.calls().split_off(before);
        let at = |region: &str| calls.iter().filter(|call| call.region == region).count();
        println!(
            "after {answers} answers: the slowest of 30 took {slowest:?}; {} calls",
            calls.len()
        );
        assert!(at("middle") >= 30, "each is answered by the next one");
        assert!(at("near") <= 30, "and asked there once more, at most");
        let used = running.status().await["quota"]["windows"][0]["used"].as_u64().unwrap();
        let arrived = u64::try_from(answers + calls.len()).unwrap();
        assert!(used >= arrived, "{arrived} arrived, {used} are paid for");
        // An attempt may wait 45 s for the head of its answer. The 5 s are measured in
        // `region::tests::outlier`, in paused time.
        assert!(slowest < Duration::from_secs(40), "{slowest:?}");
        let left = |status: &Value| status["regions"][1]["healthy"] == false && selected(status) == "middle";
        running.until_status("that it is left", left).await;
        running.finish().await;
    }
}

/// Faults that cost one further call, after which the region is left; in the simulator's words.
#[tokio::test]
async fn a_region_that_fails_fast_draws_no_calls() {
    for fault in [
        Fault::Page(StatusCode::FORBIDDEN),
        Fault::Page(StatusCode::NOT_FOUND),
        Fault::Page(StatusCode::MISDIRECTED_REQUEST),
        Fault::Page(StatusCode::from_u16(520).unwrap()),
        Fault::Status(StatusCode::BAD_GATEWAY),
    ] {
        let running = three().start().await;
        running
            .until_status("the nearest", |status| selected(status) == "near")
            .await;
        running
            .simulator
            .set_faults("near", &Plan::of(fault, Often::Always))
            .unwrap();
        for n in 0..12 {
            let answer = running.caller.ask(&[id(n)]).await;
            assert_eq!(answer.status, StatusCode::OK, "{fault:?}: {}", answer.text());
        }
        let at_near = running
            .simulator
            .calls()
            .iter()
            .filter(|call| call.region == "near")
            .count();
        assert!(at_near <= 3, "{fault:?}: {at_near} of 12 went there");
        let used = running.status().await["quota"]["windows"][0]["used"].as_u64().unwrap();
        let arrived = u64::try_from(running.simulator.calls().len()).unwrap();
        assert!(used >= arrived, "{fault:?}: {arrived} arrived, {used} are paid for");
        running.finish().await;
    }
}

#[tokio::test]
async fn a_refusal_in_defenders_words_is_an_answer_and_no_fault() {
    let running = three().start().await;
    running
        .until_status("the nearest", |status| selected(status) == "near")
        .await;
    for status in [400, 403, 404] {
        let fault = Fault::Status(StatusCode::from_u16(status).unwrap());
        running
            .simulator
            .set_faults("near", &Plan::of(fault, Often::Always))
            .unwrap();
        for n in 0..5 {
            let answer = running.caller.ask(&[id(100 * usize::from(status) + n)]).await;
            assert_eq!(answer.status.as_u16(), status);
        }
    }
    let calls = running.simulator.calls();
    assert_eq!(calls.len(), 15);
    assert!(calls.iter().all(|call| call.region == "near"));
    running.finish().await;
}

#[tokio::test]
async fn what_was_not_processed_is_asked_again_and_not_charged() {
    for fault in [Fault::RefusedStream, Fault::Http1Required] {
        // At a distance, the simulator asks for HTTP/2 and has streams to refuse.
        let running = three().start().await;
        running
            .until_status("the nearest", |status| selected(status) == "near")
            .await;
        running
            .simulator
            .set_faults("near", &Plan::of(fault, Often::Times(2)))
            .unwrap();
        for n in 0..4 {
            assert_eq!(running.caller.ask(&[id(n)]).await.status, StatusCode::OK, "{fault:?}");
        }
        let status = running.status().await;
        assert_eq!(status["quota"]["windows"][0]["used"], 4, "{fault:?}");
        assert_eq!(
            selected(&status),
            "near",
            "{fault:?}: it is not held against the region"
        );
        let calls = running.simulator.calls();
        assert_eq!(calls.iter().filter(|call| call.operation.is_some()).count(), 4);
        let refused = calls.iter().filter(|call| call.fault == Some(fault.as_str())).count();
        assert!(refused >= 1, "{calls:?}");
        running.finish().await;
    }
}

/// A proxy in front of one region wants to know who the gateway is. That is no fault of the token.
#[tokio::test]
async fn a_401_of_something_on_the_way_leaves_the_region_and_keeps_the_token() {
    let page = Plan::of(Fault::Page(StatusCode::UNAUTHORIZED), Often::Always);
    let running = three().start().await;
    running
        .until_status("the nearest", |status| selected(status) == "near")
        .await;
    running.simulator.set_faults("near", &page).unwrap();
    for n in 0..6 {
        let answer = running.caller.ask(&[id(n)]).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    }
    let calls = running.simulator.calls();
    assert_eq!(calls.iter().filter(|call| call.region == "near").count(), 1);
    assert_eq!(running.simulator.token_requests().len(), 1);
    running.finish().await;

    // Without another region, and without time for another attempt, it is told as what it is.
    let running = Setup::new().start().await;
    running.simulator.set_faults("eu", &page).unwrap();
    let answer = running.caller.ask_with(&[id(1)], &[("prefer", "wait=0")]).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{}", answer.text());
    assert_eq!(running.simulator.token_requests().len(), 1);
    running.finish().await;
}
