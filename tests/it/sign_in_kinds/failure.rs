//! Every refusal of sign-in reaches the operator with its code and what to do, and the caller with
//! the right status.

use crate::support::Controls;
use std::collections::HashSet;

use http::StatusCode;

use super::gateway::{Running, simulator};
use super::{CERTIFICATE_FILE, KEY_FILE};
use defender_gateway::testing::sim::{AadstsCode, CLIENT_SECRET, Often, Plan, SignInFault};

const SECRET: [(&str, &str); 1] = [("AZURE_CLIENT_SECRET", CLIENT_SECRET)];

/// A gateway that has never had a token, because of `fault`: its last error, and what a caller
/// gets.
async fn suffer(fault: SignInFault) -> (serde_json::Value, super::gateway::Answer) {
    let sim = simulator();
    sim.set_sign_in_faults(Plan::of(fault, Often::Always));
    let gateway = Running::start(&sim, &SECRET).await;
    let token = gateway.until("an error", |token| token["last_error"].is_object()).await;
    assert!(token["expires_in_s"].is_null(), "{token}");
    let answer = gateway.ask().await;
    assert!(
        sim.calls().iter().all(|call| call.operation.is_none()),
        "nothing is sent without a token"
    );
    let checks = gateway.admin("/readyz?verbose").await;
    let advice = token["last_error"]["advice"].as_str().unwrap();
    assert!(checks.contains(advice), "{checks}");
    assert_eq!(sim.violations(), []);
    gateway.stop().await;
    (token["last_error"].clone(), answer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_code_of_the_table_is_told_with_what_to_do() {
    let cases = AadstsCode::all().map(|code| async move { (code, suffer(SignInFault::Refuse(code)).await) });
    let mut advices = HashSet::new();
    for (code, (error, answer)) in futures_util::future::join_all(cases).await {
        assert_eq!(error["code"], code.to_string());
        let advice = error["advice"].as_str().unwrap().to_owned();
        let message = error["message"].as_str().unwrap();
        // The code stands beside it, once.
        assert!(
            !message.starts_with(&code.to_string()) && message.contains("race"),
            "{message}"
        );
        let problem = answer.json();
        let passes =
            code.status().is_server_error() || matches!(code.number(), 90_055 | 50_196 | 90_061 | 50_166 | 501_661);
        let (status, name) = if passes {
            (StatusCode::SERVICE_UNAVAILABLE, "SignInUnavailable")
        } else {
            (StatusCode::BAD_GATEWAY, "SignInRefused")
        };
        assert_eq!(
            (answer.status, problem["error"]["code"].as_str()),
            (status, Some(name)),
            "{code}: {problem}"
        );
        if passes {
            assert!(answer.retry_after.is_some(), "{code}");
        } else {
            assert!(answer.text.contains(&code.to_string()), "{code}: {problem}");
        }
        assert!(
            !advice.contains("look the code up") || is_our_own_mistake(code.number()),
            "{code}: {advice}"
        );
        advices.insert(advice);
    }
    assert!(advices.len() >= 15, "{advices:#?}");
}

/// Requests that the gateway cannot send: a field missing or doubled, another method, another
/// grant.
fn is_our_own_mistake(code: u32) -> bool {
    [900_144, 9_000_411, 900_561, 70_003].contains(&code)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_none_are_told_apart() {
    let status = |code| SignInFault::Status(StatusCode::from_u16(code).unwrap());
    let cases = [
        (SignInFault::Throttle, "Throttled", 503),
        (SignInFault::Cut, "Unreachable", 503),
        (SignInFault::Rubbish, "UnreadableAnswer", 503),
        (SignInFault::NoToken, "UnreadableAnswer", 503),
        (SignInFault::Redirect, "UnreadableAnswer", 503),
        (status(500), "HTTP 500", 503),
        (status(503), "HTTP 503", 503),
        (status(404), "HTTP 404", 502),
        (status(403), "HTTP 403", 502),
    ];
    let cases = cases.map(|(fault, code, status)| async move { (fault, code, status, suffer(fault).await) });
    for (fault, code, status, (error, answer)) in futures_util::future::join_all(cases).await {
        assert_eq!(error["code"], code, "{fault:?}");
        assert_eq!(answer.status, status, "{fault:?}: {}", answer.text);
        assert!(status == 502 || answer.retry_after.is_some(), "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn throttling_is_obeyed_and_told_to_everybody() {
    let sim = simulator();
    sim.set_sign_in_faults(Plan::of(SignInFault::Throttle, Often::Always));
    let gateway = Running::start(&sim, &SECRET).await;
    gateway
        .until("throttled", |token| token["last_error"]["code"] == "Throttled")
        .await;
    for skip in 0..50 {
        let answer = gateway.ask_with(skip, &[]).await;
        assert_eq!(answer.status, 503);
        let wait = answer.retry_after.unwrap();
        // Half a second at most is added, and seconds are rounded up.
        assert!((30..=61).contains(&wait), "{wait}");
    }
    assert_eq!(sim.token_requests().len(), 1, "sign-in's wish to wait is obeyed");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_waits_no_longer_than_it_said_for_a_sign_in_that_hangs() {
    let sim = simulator();
    sim.set_sign_in_faults(Plan::of(SignInFault::Hang, Often::Always));
    let gateway = Running::start(&sim, &SECRET).await;
    let answer = gateway.ask_with(0, &[("prefer", "wait=1")]).await;
    assert_eq!(answer.status, 503, "{}", answer.text);
    assert_eq!(answer.json()["error"]["code"], "SignInUnavailable");
    // A second, and the grace of three for a call that holds its slot.
    let took = answer.took.as_secs_f64();
    assert!((3.5..9.0).contains(&took), "{took} s");
    sim.set_sign_in_faults(Plan::none());
    sim.cut_connections().await;
    assert_eq!(
        gateway.ask().await.status,
        200,
        "a caller with more time gets its answer"
    );
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_in_credentials_are_the_simulators_own_refusals_too() {
    let sim = simulator();
    let toml = sim.config_toml();
    let folder = tempfile::tempdir().unwrap();
    let token_file = folder.path().join("token");
    std::fs::write(&token_file, "of.another.issuer").unwrap();
    let authority = sim.authority().to_string();
    let (federated, certificate) = (
        "AZURE_FEDERATED_TOKEN_FILE",
        "DEFENDER_GATEWAY_CREDENTIALS_CERTIFICATE_FILE",
    );
    let key = ("DEFENDER_GATEWAY_CREDENTIALS_PRIVATE_KEY_FILE", KEY_FILE);
    let other = "00000000-0000-4000-8000-000000000000";
    let client_id = ("DEFENDER_GATEWAY_CREDENTIALS_CLIENT_ID", other);
    let tenant_id = ("DEFENDER_GATEWAY_CREDENTIALS_TENANT_ID", other);
    let scope = ("DEFENDER_GATEWAY_CREDENTIALS_SCOPE", "api://another/.default");
    let kind = ("DEFENDER_GATEWAY_CREDENTIALS_KIND", "managed_identity");
    let cases: [(&str, &[(&str, &str)]); 7] = [
        ("AADSTS7000215", &[("AZURE_CLIENT_SECRET", "wrong")]),
        ("AADSTS700016", &[SECRET[0], client_id]),
        ("AADSTS90002", &[SECRET[0], tenant_id]),
        ("AADSTS500011", &[SECRET[0], scope]),
        ("AADSTS700027", &[(certificate, CERTIFICATE_FILE), key]),
        ("AADSTS70021", &[(federated, token_file.to_str().unwrap())]),
        (
            "invalid_request",
            &[kind, ("AZURE_POD_IDENTITY_AUTHORITY_HOST", &authority), client_id],
        ),
    ];
    for (code, variables) in cases {
        let gateway = Running::with(&toml, variables).await;
        let token = gateway.until(code, |token| token["last_error"].is_object()).await;
        assert_eq!(token["last_error"]["code"], code);
        let answer = gateway.ask().await;
        assert_eq!(
            (answer.status.as_u16(), answer.json()["error"]["code"].as_str()),
            (502, Some("SignInRefused"))
        );
        let before = sim.token_requests().len();
        for skip in 0..20 {
            assert_eq!(gateway.ask_with(skip, &[]).await.status, 502);
        }
        assert_eq!(
            sim.token_requests().len(),
            before,
            "{code}: what is refused is remembered"
        );
        gateway.stop().await;
    }
}
