//! Other credentials in the file.

use defender_gateway::testing::sim::{CLIENT_SECRET, Fault, Often, Plan};
use http::StatusCode;

use super::paths;
use crate::support::{Controls, Running, Setup, id};

fn secret_file(secret: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    std::fs::write(&path, secret).unwrap();
    let quoted = format!("{:?}", path.to_str().unwrap());
    (folder, quoted)
}

/// What the metrics say of sign-in, but for what passes with time.
async fn measured(running: &Running) -> Vec<String> {
    let metrics = running.admin.fetch("/metrics").await;
    let own = |line: &&str| line.contains("_token_requests_total") || line.contains("_credential_loaded_");
    metrics.text().lines().filter(own).map(str::to_owned).collect()
}

#[tokio::test]
async fn other_credentials_are_taken_only_when_they_work() {
    let running = Setup::new().start().await;
    assert_eq!(running.caller().ask(&[id(1)]).await.status, StatusCode::OK);
    let alone = measured(&running).await;
    let (_bad, bad) = secret_file("not the secret of this application");
    let refused = running.reload(&[("credentials.client_secret_file", &bad)]).await;
    assert!(refused.unwrap_err().to_string().contains("the new credentials"));
    let status = running.status().await;
    assert!(
        status["config"]["last_error"].as_str().unwrap().contains("AADSTS"),
        "{status}"
    );
    assert_eq!(
        running.caller().ask(&[id(2)]).await.status,
        StatusCode::OK,
        "the old token serves"
    );
    let mut problems = status["problems"].as_array().unwrap().iter();
    let problem = problems.find(|problem| problem["code"] == "config-refused").unwrap();
    assert!(
        problem["advice"]
            .as_str()
            .unwrap()
            .contains("a restart would leave the gateway without a token"),
        "{problem}"
    );
    assert_eq!(
        measured(&running).await,
        alone,
        "metrics are those of the credentials in use"
    );

    let (_good, good) = secret_file(CLIENT_SECRET);
    let before = running.simulator.token_requests().len();
    let applied = running
        .reload(&[("credentials.client_secret_file", &good)])
        .await
        .unwrap();
    assert_eq!(paths(&applied.changed), ["credentials.client_secret_file"]);
    assert_eq!(running.simulator.token_requests().len(), before + 1);
    assert_eq!(
        running
            .caller()
            .ask(&[id(1)])
            .await
            .field("cache-status")
            .split(';')
            .nth(1),
        Some(" hit")
    );
    let metrics = running.admin.fetch("/metrics").await;
    assert!(metrics.text().contains("credential_loaded_timestamp_seconds"));
    running.finish().await;
}

#[tokio::test]
async fn other_credentials_are_not_accused_of_what_those_before_them_met() {
    let running = Setup::new().start().await;
    let forbidden = Plan::of(Fault::Status(StatusCode::FORBIDDEN), Often::Always);
    running.simulator.set_faults("eu", &forbidden).unwrap();
    let ask = async |n| {
        let answer = running.caller().ask(&[id(n)]).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN);
        let status = running.status().await;
        let mut problems = status["problems"].as_array().unwrap().iter();
        let problem = problems.find(|problem| problem["code"] == "upstream-forbidden");
        problem.map(|problem| problem["message"].as_str().unwrap().to_owned())
    };
    for n in 1..=3 {
        let message = ask(n).await.unwrap();
        assert!(message.starts_with(&format!("{n} of the last {n} calls")), "{message}");
    }
    let (_other, other) = secret_file(CLIENT_SECRET);
    running
        .reload(&[("credentials.client_secret_file", &other)])
        .await
        .unwrap();
    let message = ask(4).await.unwrap();
    assert!(message.starts_with("1 of the last 1 calls"), "{message}");
    running.finish().await;
}

/// A call under way was made with the former credentials, by the former way: it may fail where a new
/// one does not.
#[tokio::test]
async fn who_comes_after_the_change_does_not_wait_for_a_call_of_before() {
    let setup = Setup::new().region("eu", 1_500).set("cache.ttl", "0s");
    let running = setup.start().await;
    let (_good, good) = secret_file(CLIENT_SECRET);
    let asked = [id(1)];
    let before = running.caller().ask(&asked);
    let after = async {
        running.simulator.wait_for_calls(1).await.unwrap();
        let changes = [("credentials.client_secret_file", &*good)];
        running.reload(&changes).await.unwrap();
        running.caller().ask(&asked).await
    };
    let (before, after) = tokio::join!(before, after);
    assert_eq!((before.status, after.status), (StatusCode::OK, StatusCode::OK));
    assert!(!after.field("cache-status").contains("collapsed"), "{after:?}");
    assert_eq!(running.simulator.calls().len(), 2);
    running.finish().await;
}

#[tokio::test]
async fn credentials_that_serve_nobody_are_replaced_at_once() {
    let (_bad, bad) = secret_file("not the secret of this application");
    let running = Setup::new().write("credentials.client_secret_file", &bad).start().await;
    assert_eq!(running.caller().ask(&[id(1)]).await.status, StatusCode::BAD_GATEWAY);
    let (_good, good) = secret_file(CLIENT_SECRET);
    running
        .reload(&[("credentials.client_secret_file", &good)])
        .await
        .unwrap();
    assert_eq!(running.caller().ask(&[id(1)]).await.status, StatusCode::OK);
    running.finish().await;
}
