//! The credential changes.

use std::path::Path;

use tokio::time::{Instant, sleep, sleep_until};

use super::{numbered, secs, soon, start, token};
use crate::task::Tasks;
use crate::token::testing::{self, Reply, Service, form};
use crate::token::{Config, Credential, SecretSource};

/// Accepts one secret and rejects others.
fn accepting(secret: &'static str) -> impl FnMut(usize, &http::Request<bytes::Bytes>) -> Reply + Send {
    move |number, request| {
        if form(request)["client_secret"] == secret {
            Reply::token(&format!("{secret}-{number}"))
        } else {
            Reply::refusal(7_000_215)
        }
    }
}

fn file_config(path: &Path) -> Config {
    testing::config(Credential::ClientSecret {
        app: testing::app(),
        secret: SecretSource::File(path.to_owned()),
    })
}

#[tokio::test(start_paused = true)]
async fn a_rotated_secret_is_tried_while_the_old_token_serves() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "one\n").unwrap();
    let service = Service::new(accepting("one"));
    let tasks = Tasks::new();
    let token_source = start(file_config(file.path()), &service, &tasks);
    assert_eq!(token(&token_source).await.unwrap(), "one-1");

    service.now(accepting("two"));
    std::fs::write(file.path(), "two\n").unwrap();
    for _ in 0..15 {
        sleep(secs(1)).await;
        token(&token_source).await.unwrap();
    }
    assert_eq!(token(&token_source).await.unwrap(), "two-2");
    // Without changes no more requests are made.
    sleep(secs(600)).await;
    assert_eq!(service.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_bad_new_secret_is_reported_and_the_old_token_kept_to_its_end() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "one\n").unwrap();
    let service = Service::new(accepting("one"));
    let (tasks, begin) = (Tasks::new(), Instant::now());
    let token_source = start(file_config(file.path()), &service, &tasks);
    token(&token_source).await.unwrap();
    std::fs::write(file.path(), "typo\n").unwrap();
    sleep(secs(15)).await;
    assert_eq!(token_source.snapshot().last_error.unwrap().code, "AADSTS7000215");
    for second in 1..50 {
        sleep_until(begin + secs(60 * second)).await;
        assert_eq!(token(&token_source).await.unwrap(), "one-1");
    }
    // The typo is not tried more often than once a minute for long.
    assert!(service.count() <= 56, "{}", service.count());
    // The repaired credential is tried at once, not after a minute.
    let asked = service.count();
    std::fs::write(file.path(), "one\n").unwrap();
    sleep(secs(11)).await;
    assert!(service.count() > asked);
    assert_eq!(token_source.snapshot().last_error, None);
}

#[tokio::test(start_paused = true)]
async fn a_missing_file_is_reported_without_asking_and_its_arrival_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    let service = Service::new(accepting("one"));
    let tasks = Tasks::new();
    let token_source = start(file_config(&path), &service, &tasks);
    sleep(secs(1)).await;
    let error = token(&token_source).await.unwrap_err();
    assert_eq!(
        (error.code().as_str(), service.count()),
        ("CredentialFileUnreadable", 0)
    );
    std::fs::write(&path, "one").unwrap();
    sleep(secs(12)).await;
    assert!(token(&token_source).await.unwrap().starts_with("one"));
}

#[tokio::test(start_paused = true)]
async fn a_throttling_sign_in_is_not_asked_again_because_a_file_changed() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "one").unwrap();
    let service = Service::new(|_, _| Reply::new(429, &[("retry-after", "300")], "Too Many Requests"));
    let tasks = Tasks::new();
    let token_source = start(file_config(file.path()), &service, &tasks);
    sleep(secs(1)).await;
    std::fs::write(file.path(), "two").unwrap();
    sleep(secs(290)).await;
    assert_eq!(service.count(), 1);
    drop(token_source);
}

#[tokio::test(start_paused = true)]
async fn a_federated_token_that_rotates_is_no_reason_to_ask() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "k8s-1").unwrap();
    let service = numbered();
    let tasks = Tasks::new();
    let credential = Credential::WorkloadIdentity {
        app: testing::app(),
        token_file: file.path().to_owned(),
    };
    let token_source = start(testing::config(credential), &service, &tasks);
    token(&token_source).await.unwrap();
    std::fs::write(file.path(), "k8s-2").unwrap();
    sleep(secs(300)).await;
    assert_eq!(service.count(), 1);
    // After a failure a new token may be what was missing.
    service.now(|number, request| match form(request)["client_assertion"].as_str() {
        "k8s-3" => Reply::token(&format!("t{number}")),
        _ => Reply::refusal(70_021),
    });
    let bearer = token_source.bearer(soon()).await.unwrap();
    assert!(token_source.rejected(&bearer, false, Instant::now()));
    sleep(secs(5)).await;
    assert_eq!(token_source.snapshot().last_error.unwrap().code, "AADSTS70021");
    std::fs::write(file.path(), "k8s-3").unwrap();
    sleep(secs(11)).await;
    assert_eq!(token_source.snapshot().last_error, None);
}
