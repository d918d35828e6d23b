//! The end: what is in flight is answered, what cannot be is told, and the program goes.

use std::time::Duration;

use futures_util::future::join_all;
use http::StatusCode;

use defender_gateway::testing::app::Ended;
use defender_gateway::testing::sim::{Fault, Often, Plan, Shape};

use crate::support::{Caller, Controls, Setup, id, until, within};

#[tokio::test]
async fn sigterm_with_fifty_in_flight_answers_all_fifty() {
    let mut spawned = Setup::new().region("eu", 1_500).spawn().await;
    let caller = spawned.caller();
    let asked = caller.ask_each(0..50);
    let stop = async {
        spawned.simulator.wait_for_calls(50).await.unwrap();
        spawned.gateway.signal("TERM").await;
    };
    let (answers, ()) = tokio::join!(asked, stop);
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!((answer.status, answer.row_ids()), (StatusCode::OK, vec![id(n)]));
    }
    let ended = spawned.gateway.ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.output);
    assert!(
        caller
            .try_send(caller.history_request().body("".into()).unwrap())
            .await
            .is_err(),
        "it is gone"
    );
}

#[tokio::test]
async fn an_idle_program_ends_at_once() {
    let mut spawned = Setup::new().spawn().await;
    let caller = spawned.caller();
    // Its connection stays open, and idle.
    assert_eq!(caller.ask(&[id(1)]).await.status, StatusCode::OK);
    let before = tokio::time::Instant::now();
    spawned.gateway.signal("TERM").await;
    assert_eq!(spawned.gateway.ended().await.code, Some(0));
    assert!(before.elapsed() < Duration::from_secs(24), "below the drain of 25 s");
}

#[tokio::test]
async fn a_second_sigterm_ends_at_once() {
    let mut spawned = Setup::new().spawn().await;
    let hole = Plan::of(Fault::BlackHole, Often::Always);
    spawned.simulator.set_faults("eu", &hole).unwrap();
    let caller = spawned.caller();
    let request = [id(1)];
    let asked = caller.try_send(caller.history_request().body(crate::support::body(&request)).unwrap());
    let stop = async {
        until("a call under way", async || {
            let status = spawned.admin().fetch("/status").await.json();
            (status["quota"]["in_flight"] == 1).then_some(())
        })
        .await;
        spawned.gateway.signal("TERM").await;
        spawned.gateway.line_with("draining").await;
        spawned.gateway.signal("TERM").await;
    };
    let (answer, ()) = tokio::join!(asked, stop);
    assert!(answer.is_err(), "{answer:?}");
    let ended = spawned.gateway.ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.output);
    assert!(ended.output.contains("told to stop twice"), "{}", ended.output);
}

#[tokio::test]
async fn who_would_have_to_wait_longer_than_the_drain_is_told_and_not_cut() {
    // The first slot comes after some twenty seconds, the drain is over before.
    let setup = Setup::new()
        .limits(Shape::SlidingLog, &["50/20s"])
        .set("queue.max_wait", "60s")
        .set("server.drain", "5s");
    let running = setup.start().await;
    let first = running.caller.ask_each(0..50).await;
    assert!(first.iter().all(|answer| answer.status == StatusCode::OK));
    let waiting = running.caller.ask_each(50..55);
    let stop = async {
        running
            .until_status("a queue", |status| status["queue"]["waiting"] == 5)
            .await;
        running.stop.cancel();
    };
    let (waited, ()) = tokio::join!(waiting, stop);
    for answer in &waited {
        assert_eq!((answer.status.as_u16(), &*answer.error_code()), (503, "ShuttingDown"));
        assert!(answer.retry_after().is_some());
    }
    let (ended, simulator) = running.ended().await;
    assert_eq!(
        ended,
        Ended {
            cut: 0,
            left: 0,
            failed: false
        }
    );
    assert_eq!(simulator.calls().len(), 50);
}

#[tokio::test]
async fn who_can_be_served_before_the_end_is_served() {
    let running = Setup::new().limits(Shape::SlidingLog, &["5/4s"]).start().await;
    let first = running.caller.ask_each(0..5).await;
    assert!(first.iter().all(|answer| answer.status == StatusCode::OK));
    let waiting = running.caller.ask_each(5..10);
    let stop = async {
        running
            .until_status("a queue", |status| status["queue"]["waiting"] == 5)
            .await;
        running.stop.cancel();
    };
    let (waited, ()) = tokio::join!(waiting, stop);
    assert!(
        waited.iter().all(|answer| answer.status == StatusCode::OK),
        "{waited:?}"
    );
    running.finish().await;
}

#[tokio::test]
async fn while_draining_it_lives_but_is_not_ready() {
    let running = Setup::new().region("eu", 1_000).start().await;
    let request = [id(1)];
    let asked = running.caller.ask(&request);
    let look = async {
        running.simulator.wait_for_calls(1).await.unwrap();
        running.stop.cancel();
        running
            .until_status("the drain", |status| status["mode"] == "draining")
            .await;
        let ready = running.admin.fetch("/readyz").await.status;
        let alive = running.admin.fetch("/livez").await.status;
        assert_eq!((ready, alive), (StatusCode::SERVICE_UNAVAILABLE, StatusCode::OK));
    };
    let (answer, ()) = tokio::join!(asked, look);
    assert_eq!(answer.status, StatusCode::OK);
    running.finish().await;
}

#[tokio::test]
async fn quitquitquit_ends_it_when_allowed() {
    let running = Setup::new().set("admin.quit", "true").start().await;
    let quit = running
        .admin
        .request(http::Method::POST, "/quitquitquit")
        .body("".into());
    assert!(running.admin.send(quit.unwrap()).await.status.is_success());
    within("the stop", running.stop.cancelled()).await;
    running.finish().await;
}

#[tokio::test]
async fn many_connections_of_impatient_callers_leave_nothing_behind() {
    let running = Setup::new().region("eu", 300).start().await;
    let base = running.caller.base().to_owned();
    let impatient = (0..50).map(|n| {
        let base = &base;
        async move {
            let caller = Caller::http1(base);
            // Some leave before, some after the answer.
            let patience = Duration::from_millis(20 * n as u64);
            let _ = tokio::time::timeout(patience, caller.ask(&[id(n)])).await;
        }
    });
    join_all(impatient).await;
    let idle = |status: &serde_json::Value| status["quota"]["in_flight"] == 0 && status["queue"]["waiting"] == 0;
    running.until_status("quiet", idle).await;
    running.finish().await;
}
