//! What the upstream does wrong, and what of it callers see.

use http::StatusCode;

use defender_gateway::testing::sim::{Fault, Often, Plan, Simulator};

use crate::support::{Controls, Running, Setup, id};

fn set(simulator: &Simulator, fault: Fault, often: Often) {
    simulator.set_faults("eu", &Plan::of(fault, often)).unwrap();
}

async fn start() -> Running {
    Setup::new().start().await
}

#[tokio::test]
async fn one_server_error_is_mended_and_paid_for() {
    for status in [500, 502, 503, 504] {
        let running = start().await;
        set(
            &running.simulator,
            Fault::Status(StatusCode::from_u16(status).unwrap()),
            Often::Times(1),
        );
        let answer = running.caller.ask(&[id(1)]).await;
        assert_eq!(
            (answer.status, answer.row_ids()),
            (StatusCode::OK, vec![id(1)]),
            "{status}"
        );
        assert_eq!(running.upstream_statuses(), [Some(status), Some(200)]);
        let used = running.status().await["quota"]["windows"][0]["used"].clone();
        assert_eq!(used, 2, "each attempt is charged");
        running.finish().await;
    }
}

#[tokio::test]
async fn a_second_server_error_is_passed_through_as_it_is() {
    let running = start().await;
    set(
        &running.simulator,
        Fault::Status(StatusCode::SERVICE_UNAVAILABLE),
        Often::Always,
    );
    let answer = running.caller.ask(&[id(1)]).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        answer.field("content-type").starts_with("text/html"),
        "the front end's own page: {answer:?}"
    );
    assert!(answer.text().contains("<html"), "{answer:?}");
    assert_eq!(running.upstream_statuses(), [Some(503), Some(503)]);
    assert_eq!(running.status().await["cache"]["entries"], 0, "errors are not kept");
    running.finish().await;
}

#[tokio::test]
async fn refusals_of_the_upstream_are_passed_through_after_one_attempt() {
    for status in [400, 403, 404] {
        let running = start().await;
        set(
            &running.simulator,
            Fault::Status(StatusCode::from_u16(status).unwrap()),
            Often::Always,
        );
        let answer = running.caller.ask(&[id(1)]).await;
        assert_eq!(answer.status.as_u16(), status);
        assert!(
            answer.json()["error"]["code"].is_string(),
            "Defender's own body: {answer:?}"
        );
        assert!(answer.json()["status"].is_null(), "and not ours: {answer:?}");
        assert_eq!(running.upstream_statuses(), [Some(status)]);
        running.finish().await;
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let running = start().await;
    set(&running.simulator, Fault::Redirect, Often::Always);
    let answer = running.caller.ask(&[id(1)]).await;
    assert_eq!(
        (answer.status.as_u16(), &*answer.error_code()),
        (502, "UpstreamUnreachable")
    );
    assert!(answer.headers.get("location").is_none());
    running.finish().await;
}

#[tokio::test]
async fn one_lost_connection_is_mended() {
    for fault in [Fault::Cut, Fault::CutMidBody] {
        let running = start().await;
        set(&running.simulator, fault, Often::Times(1));
        let answer = running.caller.ask(&[id(1)]).await;
        assert_eq!(
            (answer.status, answer.row_ids()),
            (StatusCode::OK, vec![id(1)]),
            "{fault:?}"
        );
        running.finish().await;
    }
}

#[tokio::test]
async fn lost_connections_without_end_are_told() {
    let running = start().await;
    set(&running.simulator, Fault::Cut, Often::Always);
    let answer = running.caller.ask(&[id(1)]).await;
    assert_eq!(
        (answer.status.as_u16(), &*answer.error_code()),
        (502, "UpstreamUnreachable")
    );
    assert!(running.simulator.calls().len() <= 2);
    running.finish().await;
}
