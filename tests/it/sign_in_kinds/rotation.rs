//! Credentials change under load, the way Kubernetes changes them: a link is swapped.

use crate::support::Controls;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::time::{Instant, sleep};

use super::gateway::{Running, simulator};
use super::{CERTIFICATE, KEY};
use defender_gateway::testing::sim::{CLIENT_SECRET, Certificate, Simulator};
use defender_gateway::testing::task::Tasks;

/// Another RSA key.
const NEW_KEY: &str = include_str!("../../../src/token/credential/testdata/rsa-2.pem");

/// A mounted Secret: `name` → `..data/name`, `..data` → a folder of this moment.
struct Mount(tempfile::TempDir);

impl Mount {
    fn new(name: &str, content: &str) -> Self {
        let mount = Self(tempfile::tempdir().unwrap());
        symlink(Path::new("..data").join(name), mount.file(name)).unwrap();
        mount.swap("..one", name, content);
        mount
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// What the kubelet does: a new folder, a new link beside the old one, one rename.
    fn swap(&self, folder: &str, name: &str, content: &str) {
        std::fs::create_dir(self.file(folder)).unwrap();
        std::fs::write(self.file(folder).join(name), content).unwrap();
        symlink(folder, self.file("..data_tmp")).unwrap();
        std::fs::rename(self.file("..data_tmp"), self.file("..data")).unwrap();
    }
}

/// Callers who ask all the time while `change` is made, until a second token request was answered
/// well. None of them may fail.
async fn under_load(sim: &Simulator, gateway: Running, change: impl FnOnce()) -> Running {
    gateway.until_signed_in().await;
    let gateway = Arc::new(gateway);
    let over = Arc::new(AtomicBool::new(false));
    let tasks = Tasks::new();
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (gateway, over) = (Arc::clone(&gateway), Arc::clone(&over));
            tasks.spawn("caller", async move {
                let mut asked = 0;
                while !over.load(Ordering::Relaxed) {
                    let answer = gateway.ask().await;
                    assert_eq!(answer.status, 200, "{}", answer.text);
                    asked += 1;
                    sleep(Duration::from_millis(10)).await;
                }
                asked
            })
        })
        .collect();
    let begun = Instant::now();
    change();
    while sim.token_requests().len() < 2 {
        assert!(begun.elapsed() < Duration::from_secs(25), "the change was not noticed");
        sleep(Duration::from_millis(50)).await;
    }
    gateway.until("settled", |token| token["refreshing"] == false).await;
    over.store(true, Ordering::Relaxed);
    let mut asked = 0;
    for caller in callers {
        asked += caller.await.unwrap();
    }
    assert!(asked > 20, "only {asked} requests");
    Arc::into_inner(gateway).unwrap()
}

/// All at a time: they do little but wait for the change to be noticed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_change_under_load_and_nobody_notices() {
    tokio::join!(
        a_new_secret_is_used(),
        a_bad_new_secret_is_told(),
        a_new_certificate_is_used()
    );
}

async fn a_new_secret_is_used() {
    let sim = simulator();
    let mount = Mount::new("secret", CLIENT_SECRET);
    let file = mount.file("secret");
    let variables = [(
        "DEFENDER_GATEWAY_CREDENTIALS_CLIENT_SECRET_FILE",
        file.to_str().unwrap(),
    )];
    let gateway = Running::start(&sim, &variables).await;
    let change = || {
        sim.set_secret("the~new.secret".into());
        mount.swap("..two", "secret", "the~new.secret\n");
    };
    let gateway = under_load(&sim, gateway, change).await;
    assert!(gateway.token().await["last_error"].is_null());
    assert_eq!(sim.token_requests()[1].status, Some(200));
    gateway.stop().await;
}

async fn a_bad_new_secret_is_told() {
    let sim = simulator();
    let mount = Mount::new("secret", CLIENT_SECRET);
    let file = mount.file("secret");
    let variables = [(
        "DEFENDER_GATEWAY_CREDENTIALS_CLIENT_SECRET_FILE",
        file.to_str().unwrap(),
    )];
    let gateway = Running::start(&sim, &variables).await;
    let gateway = under_load(&sim, gateway, || mount.swap("..two", "secret", "a-typing-mistake")).await;
    let token = gateway.token().await;
    assert_eq!(token["last_error"]["code"], "AADSTS7000215", "{token}");
    assert!(
        token["expires_in_s"].as_f64().unwrap() > 3500.0,
        "the old token serves on: {token}"
    );
    assert_eq!(gateway.ask().await.status, 200);
    let checks = gateway.admin("/readyz?verbose").await;
    assert!(
        checks.contains("AADSTS7000215; the token at hand lasts another"),
        "{checks}"
    );
    gateway.stop().await;
}

async fn a_new_certificate_is_used() {
    let sim = simulator();
    let register = |pem: &str| {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        sim.register_certificate(Certificate::from_der(&der).unwrap());
    };
    register(CERTIFICATE);
    let mount = Mount::new("both.pem", &format!("{CERTIFICATE}{KEY}"));
    let pair = rcgen::KeyPair::from_pkcs8_pem_and_sign_algo(NEW_KEY, &rcgen::PKCS_RSA_SHA256).unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["gateway.test".into()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2060, 1, 1);
    let certificate = params.self_signed(&pair).unwrap().pem();

    let file = mount.file("both.pem");
    let variables = [("AZURE_CLIENT_CERTIFICATE_PATH", file.to_str().unwrap())];
    let gateway = Running::start(&sim, &variables).await;
    gateway.until_signed_in().await;
    let before = gateway.metric("certificate_expiry_seconds").await.unwrap();
    let loaded = gateway.metric("credential_loaded_timestamp_seconds").await.unwrap();
    let change = || {
        register(&certificate);
        mount.swap("..two", "both.pem", &format!("{certificate}{NEW_KEY}"));
    };
    let gateway = under_load(&sim, gateway, change).await;
    assert!(gateway.token().await["last_error"].is_null());
    // 2060 instead of 2126: the assertion was signed with the new one.
    let after = gateway.metric("certificate_expiry_seconds").await.unwrap();
    assert!(after < before - 1e9, "{before} {after}");
    assert!(gateway.metric("credential_loaded_timestamp_seconds").await.unwrap() > loaded);
    gateway.stop().await;
}
