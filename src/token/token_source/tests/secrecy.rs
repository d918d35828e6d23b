//! What logs and `Debug` output contain.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::time::sleep;

use super::{numbered, secs, soon, start, token_source};
use crate::task::Tasks;
use crate::token::testing::{self, CLIENT_SECRET, Reply, Service, form};
use crate::token::{CertificateFiles, Credential};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(text);
        Ok(text.len())
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

/// What this thread logs from now on.
fn captured(level: tracing::Level) -> (Log, impl Sized) {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::FULL)
        .with_writer(move || writer.clone())
        .finish();
    // With a single subscriber, tracing asks the first thread that comes to a line whether it is of
    // interest, and other tests' threads say no for all. With two subscribers it asks each of them.
    let second = tracing::Dispatch::new(tracing_subscriber::registry());
    let guard = tracing::subscriber::set_default(subscriber);
    (log, (guard, second))
}

#[tokio::test(start_paused = true)]
async fn no_secret_token_or_assertion_is_shown_even_at_trace() {
    let (log, _guards) = captured(tracing::Level::TRACE);
    let folder = tempfile::tempdir().unwrap();
    let pem = folder.path().join("both.pem");
    let key = include_str!("../../credential/testdata/rsa-2.pem");
    let pair = rcgen::KeyPair::from_pkcs8_pem_and_sign_algo(key, &rcgen::PKCS_RSA_SHA256).unwrap();
    let params = rcgen::CertificateParams::new(vec!["gateway.example".into()]).unwrap();
    std::fs::write(&pem, format!("{}{key}", params.self_signed(&pair).unwrap().pem())).unwrap();
    let certificate = testing::config(Credential::Certificate {
        app: testing::app(),
        files: CertificateFiles {
            certificate: pem,
            private_key: None,
        },
    });
    let mut shown = String::new();
    let mut hidden = vec![CLIENT_SECRET.to_owned(), "access-token-".to_owned()];
    for config in [testing::secret_config(), certificate] {
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
        write!(shown, "{config:?}").unwrap();
        let token_source = start(config, &service, &tasks);
        for _ in 0..200 {
            sleep(secs(30)).await;
            let bearer = token_source.bearer(soon()).await;
            write!(shown, "{bearer:?} {token_source:?} {:?}", token_source.snapshot()).unwrap();
            hidden.extend(form(&service.last()).remove("client_assertion"));
        }
        assert!(token_source.current().is_some());
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

#[tokio::test(start_paused = true)]
async fn an_outage_is_logged_when_it_begins_and_when_the_token_ends() {
    let (log, _guards) = captured(tracing::Level::INFO);
    let (service, tasks) = (numbered(), Tasks::new());
    let token_source = token_source(&service, &tasks);
    token_source.bearer(soon()).await.unwrap();
    service.now(|_, _| Reply::outage());
    for _ in 0..300 {
        sleep(secs(30)).await;
        let _ = token_source.bearer(soon()).await;
    }
    let lines = |words| log.text().matches(words).count();
    assert_eq!(lines("signing in failed; the old token serves on"), 1, "{}", log.text());
    assert_eq!(lines("signing in failed; there is no valid token"), 1, "{}", log.text());
    // The next one is another outage.
    service.now(|_, _| Reply::token("back"));
    sleep(secs(121)).await;
    token_source.bearer(soon()).await.unwrap();
    // However many ways it fails in by turns.
    service.now(|number, _| match number % 3 {
        0 => Reply::outage(),
        1 => Reply::new(503, &[], "busy"),
        _ => Reply::new(500, &[], "broken"),
    });
    sleep(secs(7200)).await;
    assert_eq!(lines("signing in failed"), 2 + 2 * 3, "{}", log.text());
    tasks.finish(secs(1)).await;
}
