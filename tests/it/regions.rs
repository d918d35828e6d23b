//! The nearest region answers; when it fails, the next one does, and callers do not notice.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::StatusCode;
use serde_json::Value;

use defender_gateway::sim::{Fault, Often, Plan};

use crate::support::{Running, Setup, id};

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
        .limits(defender_gateway::sim::Shape::SlidingLog, &["10000/1h"])
}

/// Asks one new question after the other, while `act` acts; every one must be answered well.
async fn while_asked<T>(running: &Running, act: impl AsyncFnOnce(&AtomicUsize) -> T) -> T {
    let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let asking = async {
        for n in 0.. {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            let answer = running.caller.ask(&[id(n)]).await;
            assert_eq!(answer.status, StatusCode::OK, "question {n}: {}", answer.text());
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
            running.simulator.cut_connections();
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
