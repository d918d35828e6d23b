//! The life of tokens, in virtual time.

use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};

use super::Keeper;
use crate::clock::Wall;
use crate::task::Tasks;
use crate::token::fake::{self, CLIENT_SECRET, Reply, Service, form};
use crate::token::{
    CertificateFiles, Config, Credential, Error, Kind, Metrics, Reason, Roles, SecretSource, Verdict, Warning,
};

fn start(config: Config, service: &Service, tasks: &Tasks) -> Keeper {
    let metrics = Metrics::register(&mut Registry::default());
    let wall = Wall::system();
    Keeper::start(config, service.exchange(), fake::unused(), wall, tasks, metrics)
}

fn keeper(service: &Service, tasks: &Tasks) -> Keeper {
    start(fake::secret_config(), service, tasks)
}

/// Names tokens by the number of the request.
fn numbered() -> Service {
    Service::new(|number, _| Reply::token(&format!("t{number}")))
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn soon() -> Instant {
    Instant::now() + secs(30)
}

async fn token(keeper: &Keeper) -> Result<String, Error> {
    let bearer = keeper.bearer(soon()).await?;
    Ok(bearer.secret().expose().to_owned())
}

#[tokio::test(start_paused = true)]
async fn the_first_token_is_asked_for_before_anybody_needs_it() {
    let (service, tasks) = (numbered(), Tasks::new());
    let keeper = keeper(&service, &tasks);
    assert!(keeper.current().is_none());
    sleep(secs(1)).await;
    assert_eq!(keeper.current().unwrap().secret().expose(), "t1");
    let snapshot = keeper.snapshot();
    assert_eq!(snapshot.kind, Kind::ClientSecret);
    assert_eq!(snapshot.expires_in, Some(secs(3599)));
    assert_eq!((snapshot.refreshing, snapshot.last_error), (false, None));
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_waiters_are_one_request() {
    let (service, tasks) = (numbered(), Tasks::new());
    let keeper = keeper(&service, &tasks);
    let waiters: Vec<_> = (0..10_000)
        .map(|_| {
            let keeper = keeper.clone();
            tasks.spawn("waiter", async move { token(&keeper).await })
        })
        .collect();
    for waiter in waiters {
        assert_eq!(waiter.await.unwrap().unwrap(), "t1");
    }
    assert_eq!(service.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_while_a_token_is_valid() {
    // Answers take five seconds, so that every renewal would be felt.
    let service = Service::new(|number, _| Reply::token(&format!("t{number}")).after(secs(5)));
    let tasks = Tasks::new();
    let keeper = keeper(&service, &tasks);
    token(&keeper).await.unwrap();
    for _ in 0..40_000 {
        let before = Instant::now();
        token(&keeper).await.unwrap();
        assert_eq!(before.elapsed(), Duration::ZERO);
        sleep(secs(1)).await;
    }
    // 50 % to 80 % of an hour each.
    assert!((13..=23).contains(&service.count()), "{}", service.count());
}

#[tokio::test(start_paused = true)]
async fn refresh_in_is_obeyed() {
    let service = Service::new(|number, _| {
        let body = json!({"token_type": "Bearer", "expires_in": 3600, "refresh_in": 600, "access_token": format!("t{number}")});
        Reply::json(200, &body)
    });
    let (tasks, begin) = (Tasks::new(), Instant::now());
    let keeper = keeper(&service, &tasks);
    sleep_until(begin + secs(599)).await;
    assert_eq!((service.count(), token(&keeper).await.unwrap().as_str()), (1, "t1"));
    sleep_until(begin + secs(601)).await;
    assert_eq!((service.count(), token(&keeper).await.unwrap().as_str()), (2, "t2"));
}

#[tokio::test(start_paused = true)]
async fn an_outage_shorter_than_the_life_is_not_felt() {
    let (service, tasks) = (numbered(), Tasks::new());
    let keeper = keeper(&service, &tasks);
    token(&keeper).await.unwrap();
    service.now(|_, _| Reply::outage());
    for _ in 0..3500 {
        assert_eq!(token(&keeper).await.unwrap(), "t1");
        sleep(secs(1)).await;
    }
    let error = keeper.snapshot().last_error.unwrap();
    assert_eq!(error.code, "Unreachable");
    // At most one try a minute in the long run.
    assert!(service.count() < 60, "{}", service.count());
    service.now(|_, _| Reply::token("back"));
    sleep(secs(121)).await;
    assert_eq!(token(&keeper).await.unwrap(), "back");
    assert_eq!(keeper.snapshot().last_error, None);
}

#[tokio::test(start_paused = true)]
async fn an_outage_longer_than_the_life_ends_the_token_at_its_expiry_and_no_later() {
    let (service, tasks, begin) = (numbered(), Tasks::new(), Instant::now());
    let keeper = keeper(&service, &tasks);
    token(&keeper).await.unwrap();
    service.now(|_, _| Reply::outage());
    sleep_until(begin + secs(3589)).await;
    assert_eq!(token(&keeper).await.unwrap(), "t1");
    sleep_until(begin + secs(3591)).await;
    assert!(keeper.current().is_none());
    let before = Instant::now();
    let error = token(&keeper).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    assert!(before.elapsed() <= secs(2), "{:?}", before.elapsed());
    assert!(error.retry_after().is_some());
    sleep(secs(3600)).await;
    assert_eq!(keeper.snapshot().expires_in, None);
    service.now(|_, _| Reply::token("back"));
    sleep(secs(121)).await;
    assert_eq!(token(&keeper).await.unwrap(), "back");
}

#[tokio::test(start_paused = true)]
async fn a_connection_lost_once_costs_no_caller_an_error() {
    let service = Service::new(|number, _| {
        if number == 1 {
            Reply::outage()
        } else {
            Reply::token("t")
        }
    });
    let tasks = Tasks::new();
    let keeper = keeper(&service, &tasks);
    let before = Instant::now();
    assert_eq!(token(&keeper).await.unwrap(), "t");
    assert!(before.elapsed() < secs(2), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_remembered() {
    let service = Service::new(|_, _| Reply::refusal(7_000_215));
    let (tasks, begin) = (Tasks::new(), Instant::now());
    let keeper = keeper(&service, &tasks);
    for second in 1..600 {
        sleep_until(begin + secs(second)).await;
        let error = token(&keeper).await.unwrap_err();
        assert_eq!(error.code(), "AADSTS7000215");
        assert!(error.retry_after().unwrap() <= secs(66), "{error:?}");
    }
    assert!(
        (9..=11).contains(&service.count()),
        "{} requests in ten minutes",
        service.count()
    );
    let last = keeper.snapshot().last_error.unwrap();
    assert_eq!(last.code, "AADSTS7000215");
    assert_eq!(
        last.advice,
        "the client secret is wrong: configure the secret's value, not its id"
    );
    assert!(last.retry_in <= secs(66));
}

#[tokio::test(start_paused = true)]
async fn sign_ins_wish_to_wait_is_obeyed_and_told() {
    let service = Service::new(|number, _| match number {
        1 => Reply::new(429, &[("retry-after", "90")], "Too Many Requests"),
        _ => Reply::token("t"),
    });
    let (tasks, begin) = (Tasks::new(), Instant::now());
    let keeper = keeper(&service, &tasks);
    sleep(secs(30)).await;
    let error = token(&keeper).await.unwrap_err();
    assert_eq!(begin.elapsed(), secs(30), "a known failure is told at once");
    assert_eq!(error.retry_after().unwrap().as_secs(), 60);
    sleep_until(begin + Duration::from_millis(89_500)).await;
    assert_eq!(service.count(), 1);
    assert_eq!(token(&keeper).await.unwrap(), "t", "a second is waited out");
    assert_eq!(service.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_callers_own_time_bounds_its_wait() {
    let service = Service::new(|_, _| Reply::silence());
    let tasks = Tasks::new();
    let keeper = keeper(&service, &tasks);
    let before = Instant::now();
    let error = keeper.bearer(before + secs(3)).await.unwrap_err();
    assert_eq!(before.elapsed(), secs(3));
    assert!(
        matches!(
            error,
            Error::Unavailable {
                reason: Reason::NotInTime,
                ..
            }
        ),
        "{error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_token_spent_on_its_way_is_no_token_and_no_loop() {
    let service = Service::new(|number, _| Reply::token_for(&format!("t{number}"), 2).after(secs(4)));
    let tasks = Tasks::new();
    let keeper = keeper(&service, &tasks);
    sleep(secs(600)).await;
    assert!(keeper.current().is_none());
    assert!(service.count() < 25, "{}", service.count());
}

#[tokio::test(start_paused = true)]
async fn tokens_of_seconds_are_kept_fresh_too() {
    let service = Service::new(|number, _| Reply::token_for(&format!("t{number}"), 10));
    let tasks = Tasks::new();
    let keeper = keeper(&service, &tasks);
    token(&keeper).await.unwrap();
    for _ in 0..600 {
        let before = Instant::now();
        token(&keeper).await.unwrap();
        assert_eq!(before.elapsed(), Duration::ZERO);
        sleep(Duration::from_millis(100)).await;
    }
    assert!((7..=14).contains(&service.count()), "{}", service.count());
}

#[tokio::test(start_paused = true)]
async fn after_the_drain_nobody_hangs() {
    let service = Service::new(|_, _| Reply::silence());
    let tasks = Tasks::new();
    let keeper = keeper(&service, &tasks);
    assert_eq!(tasks.finish(secs(1)).await, 0);
    let before = Instant::now();
    let error = token(&keeper).await.unwrap_err();
    assert_eq!(before.elapsed(), Duration::ZERO);
    assert!(
        matches!(
            error,
            Error::Unavailable {
                reason: Reason::Stopped,
                ..
            }
        ),
        "{error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_late_401_about_an_old_token_forces_nothing() {
    let (service, tasks) = (numbered(), Tasks::new());
    let keeper = keeper(&service, &tasks);
    let old = keeper.bearer(soon()).await.unwrap();
    sleep(secs(3000)).await;
    assert_eq!(token(&keeper).await.unwrap(), "t2");
    assert_eq!(keeper.rejected(&old), Verdict::TryAgain);
    sleep(secs(10)).await;
    assert_eq!(service.count(), 2);
}

/// Accepts one secret; another is refused.
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
    fake::config(Credential::ClientSecret {
        app: fake::app(),
        secret: SecretSource::File(path.to_owned()),
    })
}

#[tokio::test(start_paused = true)]
async fn a_rotated_secret_is_tried_while_the_old_token_serves() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "one\n").unwrap();
    let service = Service::new(accepting("one"));
    let tasks = Tasks::new();
    let keeper = start(file_config(file.path()), &service, &tasks);
    assert_eq!(token(&keeper).await.unwrap(), "one-1");

    service.now(accepting("two"));
    std::fs::write(file.path(), "two\n").unwrap();
    for _ in 0..15 {
        sleep(secs(1)).await;
        token(&keeper).await.unwrap();
    }
    assert_eq!(token(&keeper).await.unwrap(), "two-2");
    // Nothing more is asked for while nothing changes.
    sleep(secs(600)).await;
    assert_eq!(service.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_bad_new_secret_is_reported_and_the_old_token_kept_to_its_end() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "one\n").unwrap();
    let service = Service::new(accepting("one"));
    let (tasks, begin) = (Tasks::new(), Instant::now());
    let keeper = start(file_config(file.path()), &service, &tasks);
    token(&keeper).await.unwrap();
    std::fs::write(file.path(), "typo\n").unwrap();
    sleep(secs(15)).await;
    assert_eq!(keeper.snapshot().last_error.unwrap().code, "AADSTS7000215");
    for second in 1..50 {
        sleep_until(begin + secs(60 * second)).await;
        assert_eq!(token(&keeper).await.unwrap(), "one-1");
    }
    // Mended: tried at once, not after a minute.
    let asked = service.count();
    std::fs::write(file.path(), "one\n").unwrap();
    sleep(secs(11)).await;
    assert!(service.count() > asked);
    assert_eq!(keeper.snapshot().last_error, None);
}

#[tokio::test(start_paused = true)]
async fn a_missing_file_is_reported_without_asking_and_its_arrival_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    let service = Service::new(accepting("one"));
    let tasks = Tasks::new();
    let keeper = start(file_config(&path), &service, &tasks);
    sleep(secs(1)).await;
    let error = token(&keeper).await.unwrap_err();
    assert_eq!(
        (error.code().as_str(), service.count()),
        ("CredentialFileUnreadable", 0)
    );
    std::fs::write(&path, "one").unwrap();
    sleep(secs(12)).await;
    assert!(token(&keeper).await.unwrap().starts_with("one"));
}

#[tokio::test(start_paused = true)]
async fn a_throttling_sign_in_is_not_asked_again_because_a_file_changed() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "one").unwrap();
    let service = Service::new(|_, _| Reply::new(429, &[("retry-after", "300")], "Too Many Requests"));
    let tasks = Tasks::new();
    let keeper = start(file_config(file.path()), &service, &tasks);
    sleep(secs(1)).await;
    std::fs::write(file.path(), "two").unwrap();
    sleep(secs(290)).await;
    assert_eq!(service.count(), 1);
    drop(keeper);
}

#[tokio::test(start_paused = true)]
async fn a_federated_token_that_rotates_is_no_reason_to_ask() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "k8s-1").unwrap();
    let service = numbered();
    let tasks = Tasks::new();
    let credential = Credential::WorkloadIdentity {
        app: fake::app(),
        token_file: file.path().to_owned(),
    };
    let keeper = start(fake::config(credential), &service, &tasks);
    token(&keeper).await.unwrap();
    std::fs::write(file.path(), "k8s-2").unwrap();
    sleep(secs(300)).await;
    assert_eq!(service.count(), 1);
    // Unless something is wrong: then a new one may be what was missing.
    service.now(|number, request| match form(request)["client_assertion"].as_str() {
        "k8s-3" => Reply::token(&format!("t{number}")),
        _ => Reply::refusal(70_021),
    });
    let bearer = keeper.bearer(soon()).await.unwrap();
    assert_eq!(keeper.rejected(&bearer), Verdict::TryAgain);
    sleep(secs(5)).await;
    assert_eq!(keeper.snapshot().last_error.unwrap().code, "AADSTS70021");
    std::fs::write(file.path(), "k8s-3").unwrap();
    sleep(secs(11)).await;
    assert_eq!(keeper.snapshot().last_error, None);
}

#[tokio::test(start_paused = true)]
async fn a_token_without_the_permission_is_a_warning_before_the_first_call() {
    let service = Service::new(|number, _| Reply::token(if number == 1 { "e30.e30.c2ln" } else { "opaque" }));
    let tasks = Tasks::new();
    let keeper = keeper(&service, &tasks);
    sleep(secs(1)).await;
    assert_eq!(keeper.snapshot().roles, Roles::Missing);
    assert_eq!(keeper.snapshot().warnings, [Warning::RoleMissing]);
    assert!(keeper.snapshot().warnings[0].to_string().contains("Machine.Read.All"));
    sleep(secs(3000)).await;
    assert_eq!(keeper.snapshot().warnings, []);
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(text)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn no_secret_token_or_assertion_is_shown_even_at_trace() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::FULL)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let folder = tempfile::tempdir().unwrap();
    let pem = folder.path().join("both.pem");
    let key = include_str!("../credential/testdata/rsa-2.pem");
    let pair = rcgen::KeyPair::from_pkcs8_pem_and_sign_algo(key, &rcgen::PKCS_RSA_SHA256).unwrap();
    let params = rcgen::CertificateParams::new(vec!["gateway.example".into()]).unwrap();
    std::fs::write(&pem, format!("{}{key}", params.self_signed(&pair).unwrap().pem())).unwrap();
    let certificate = fake::config(Credential::Certificate {
        app: fake::app(),
        files: CertificateFiles {
            certificate: pem,
            private_key: None,
        },
    });
    let mut shown = String::new();
    let mut hidden = vec![CLIENT_SECRET.to_owned(), "access-token-".to_owned()];
    for config in [fake::secret_config(), certificate] {
        let service = Service::new(|number, request| {
            let form = form(request);
            let proof = form
                .get("client_secret")
                .or(form.get("client_assertion"))
                .unwrap()
                .clone();
            match number {
                1 => Reply::json(400, &json!({"error": "invalid_client", "error_description": proof})),
                2 => Reply::outage(),
                3 => Reply::new(
                    200,
                    &[("content-type", "application/json")],
                    format!("{{\"access_token\": \"access-token-{number}\""),
                ),
                _ => Reply::token(&format!("access-token-{number}")),
            }
        });
        let tasks = Tasks::new();
        shown += &format!("{config:?}");
        let keeper = start(config, &service, &tasks);
        for _ in 0..200 {
            sleep(secs(30)).await;
            let bearer = keeper.bearer(soon()).await;
            shown += &format!("{bearer:?} {keeper:?} {:?}", keeper.snapshot());
            hidden.extend(form(&service.last()).remove("client_assertion"));
        }
        assert!(keeper.current().is_some());
        tasks.finish(secs(1)).await;
    }
    shown += &log.text();
    assert!(
        shown.contains("signing in failed") && shown.contains("signed in"),
        "the log was not captured"
    );
    assert!(hidden.len() > 10, "assertions were made");
    hidden.push(key.lines().nth(1).unwrap().to_owned());
    for secret in hidden {
        assert!(!shown.contains(&secret), "{secret} is shown");
    }
}
