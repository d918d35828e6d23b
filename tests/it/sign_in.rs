//! Signing in: what callers and operators see when it fails, and that they see nothing when it can
//! be mended.

use std::collections::BTreeSet;
use std::time::Duration;

use http::StatusCode;

use defender_gateway::testing::sim::{self, Fault, Often, Plan, Shape, SignInFault};

use crate::support::{Answer, Controls, Setup, id};

fn statuses(answers: &[Answer]) -> BTreeSet<u16> {
    answers.iter().map(|answer| answer.status.as_u16()).collect()
}

#[tokio::test]
async fn a_wrong_secret_is_named_everywhere_and_not_tried_again_and_again() {
    let running = Setup::new().secret("wrong~secret").start().await;
    let ready = running.admin.fetch("/readyz").await;
    assert_eq!(ready.status, StatusCode::OK, "it gives honest refusals");
    let verbose = running.admin.fetch("/readyz?verbose").await;
    assert_eq!(verbose.status, StatusCode::OK);
    assert!(verbose.text().contains("AADSTS7000215"), "{}", verbose.text());
    let status = running.status().await;
    assert_eq!(status["token"]["last_error"]["code"], "AADSTS7000215", "{status}");
    assert!(status["token"]["last_error"]["advice"].is_string(), "{status}");
    assert!(status["token"]["expires_in_s"].is_null(), "{status}");

    for round in 0..4 {
        let answers = running.caller.ask_each(round * 50..(round + 1) * 50).await;
        for answer in &answers {
            assert_eq!((answer.status.as_u16(), &*answer.error_code()), (502, "SignInRefused"));
            assert!(answer.text().contains("AADSTS7000215"), "{}", answer.text());
            assert!(!answer.text().contains("wrong~secret"), "{}", answer.text());
        }
    }
    assert!(
        running.simulator.token_requests().len() <= 2,
        "{:?}",
        running.simulator.token_requests()
    );
    assert!(running.simulator.calls().is_empty(), "nothing is sent without a token");
    let used = &running.status().await["quota"]["windows"][0]["used"];
    assert_eq!(*used, 0, "and nothing is charged");
    running.finish().await;
}

#[tokio::test]
async fn an_unreachable_sign_in_is_told_and_is_over_when_it_is_back() {
    let running = Setup::new()
        .simulator(|config| config.sign_in.faults = Plan::of(SignInFault::Cut, Often::Always))
        .start()
        .await;
    running.simulator.shut_sign_in().await.unwrap();
    running.simulator.set_sign_in_faults(Plan::none());
    // Early failures are waited out; a caller is told as soon as the wait is a long one.
    let answer = crate::support::until("a caller who is told", async || {
        let answer = running.caller.ask_with(&[id(1)], &[("prefer", "wait=0")]).await;
        (answer.status == StatusCode::SERVICE_UNAVAILABLE).then_some(answer)
    })
    .await;
    assert_eq!(answer.error_code(), "SignInUnavailable");
    assert!(answer.retry_after().unwrap() >= 1);
    assert_eq!(running.admin.fetch("/readyz").await.status, StatusCode::OK);
    running.simulator.open_sign_in().await.unwrap();
    let mended = crate::support::until("a token", async || {
        let answer = running.caller.ask(&[id(1)]).await;
        (answer.status == StatusCode::OK).then_some(answer)
    })
    .await;
    assert_eq!(mended.row_ids(), [id(1)]);
    assert!(running.status().await["token"]["last_error"].is_null());
    running.finish().await;
}

#[tokio::test]
async fn the_first_callers_after_a_start_wait_for_a_sign_in_that_comes_late() {
    let running = Setup::new()
        .simulator(|config| config.sign_in.faults = Plan::of(SignInFault::Cut, Often::Times(3)))
        .start()
        .await;
    // The first tries have failed or will: nobody with patience hears of it.
    let asked = (0..10).map(|n| {
        let caller = &running.caller;
        async move { caller.ask_with(&[id(n)], &[("prefer", "wait=30")]).await }
    });
    for answer in futures_util::future::join_all(asked).await {
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    }
    assert_eq!(running.simulator.token_requests().len(), 4);
    assert_eq!(running.simulator.calls().len(), 10);
    running.finish().await;
}

#[tokio::test]
async fn a_throttled_sign_in_is_left_alone_for_as_long_as_it_says() {
    let running = Setup::new()
        .simulator(|config| config.sign_in.faults = Plan::of(SignInFault::Throttle, Often::Always))
        .start()
        .await;
    for n in 0..20 {
        let answer = running.caller.ask(&[id(n)]).await;
        assert_eq!(
            (answer.status.as_u16(), &*answer.error_code()),
            (503, "SignInUnavailable")
        );
        assert!(
            (30..=61).contains(&answer.retry_after().unwrap()),
            "{:?}",
            answer.headers
        );
    }
    assert_eq!(running.simulator.token_requests().len(), 1);
    running.finish().await;
}

#[tokio::test]
async fn revoked_tokens_are_renewed_once_and_no_caller_sees_a_401() {
    let running = Setup::new()
        .region("eu", 30)
        .limits(Shape::SlidingLog, &["1000000/1h"])
        .start()
        .await;
    let mut round = 0;
    let mut ask = async |count: usize| {
        round += 1;
        statuses(&running.caller.ask_each(round * 1_000..round * 1_000 + count).await)
    };
    assert_eq!(ask(20).await, BTreeSet::from([200]));
    assert_eq!(running.simulator.token_requests().len(), 1);
    // While calls are under way, so that some arrive before and some after.
    let revoke = async {
        running.simulator.wait_for_calls(40).await.unwrap();
        running.simulator.revoke_tokens().await;
    };
    let (answered, ()) = tokio::join!(ask(100), revoke);
    assert_eq!(answered, BTreeSet::from([200]));
    assert_eq!(ask(20).await, BTreeSet::from([200]));
    let refused = running
        .upstream_statuses()
        .iter()
        .filter(|status| **status == Some(401))
        .count();
    assert!(refused > 0, "the revocation was not noticed");
    assert_eq!(running.simulator.token_requests().len(), 2, "one renewal for all");
    running.finish().await;
}

#[tokio::test]
async fn a_missing_licence_is_passed_through_and_does_not_go_round_in_circles() {
    let running = Setup::new().start().await;
    running
        .simulator
        .set_faults("eu", &Plan::of(Fault::NoLicence, Often::Always))
        .unwrap();
    for n in 0..10 {
        let answer = running.caller.ask(&[id(n)]).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        assert!(answer.text().contains("No Tvm license"), "{}", answer.text());
    }
    assert!(running.simulator.token_requests().len() <= 2, "one renewal is tried");
    assert!(
        running.simulator.calls().len() <= 12,
        "{:?}",
        running.upstream_statuses()
    );
    running.finish().await;
}

#[tokio::test]
async fn missing_roles_are_passed_through_and_shown_to_the_operator() {
    let running = Setup::new()
        .simulator(|config| config.sign_in.roles = Vec::new())
        .start()
        .await;
    let answer = running.caller.ask(&[id(1)]).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert!(answer.text().contains(sim::ROLE), "{}", answer.text());
    let verbose = running.admin.fetch("/readyz?verbose").await;
    assert!(verbose.text().contains(sim::ROLE), "{}", verbose.text());
    running.finish().await;
}

#[tokio::test]
async fn a_token_is_renewed_in_the_background_and_nobody_waits_for_it() {
    let running = Setup::new()
        .simulator(|config| {
            // It is renewed after a quarter of its life at the earliest.
            config.token_lifetime = Duration::from_secs(12);
            config.sign_in.refresh_in = Some(Duration::from_secs(1));
        })
        .start()
        .await;
    // Nobody asks.
    let renewed = running.simulator.wait_for_token_requests(2).await.unwrap();
    assert!(renewed.iter().all(|request| request.status == Some(200)), "{renewed:?}");
    let hangs = Plan::of(SignInFault::Hang, Often::Always);
    running.simulator.set_sign_in_faults(hangs);
    crate::support::until("a renewal that hangs", async || {
        let latest = running.simulator.token_requests().pop();
        latest.filter(|request| request.status != Some(200))
    })
    .await;
    for n in 0..5 {
        assert_eq!(running.caller.ask(&[id(n)]).await.status, StatusCode::OK);
    }
    let status = running.status().await;
    assert_eq!(
        status["token"]["refreshing"], true,
        "somebody waited for its end: {status}"
    );
    running.finish().await;
}

#[tokio::test]
async fn a_changed_secret_file_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, "wrong~secret").unwrap();
    let running = Setup::new()
        .secret("")
        .set("credentials.client_secret_file", file.to_str().unwrap())
        .start()
        .await;
    assert_eq!(running.caller.ask(&[id(1)]).await.error_code(), "SignInRefused");
    running.simulator.set_secret("the~new~secret".into());
    std::fs::write(&file, "the~new~secret").unwrap();
    let signed_in = |status: &serde_json::Value| status["token"]["expires_in_s"].is_number();
    running.until_status("a token by the new secret", signed_in).await;
    assert_eq!(running.caller.ask(&[id(1)]).await.status, StatusCode::OK);
    running.finish().await;
}
