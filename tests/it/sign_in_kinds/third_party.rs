//! A certified OAuth server that nobody here wrote: `oidc-provider`, from npm. `tests/run` installs
//! it and runs these tests.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use prometheus_client::registry::Registry;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{Instant, timeout};
use url::Url;

use super::{CERTIFICATE_FILE, KEY_FILE};
use defender_gateway::testing::clock::Wall;
use defender_gateway::testing::net::{Client, Config, Limits};
use defender_gateway::testing::secret::Secret;
use defender_gateway::testing::task::Tasks;
use defender_gateway::testing::token::{
    self, App, CertificateFiles, Credential, Error, Scope, SecretSource, TokenSource,
};

const TENANT: &str = "contoso.example";
const SCOPE: &str = "https://api.securitycenter.microsoft.com/.default";
/// With characters that a form has to encode.
const SECRET: &str = "a~b.c+d/e=f%20g&h i";

const PATIENCE: Duration = Duration::from_secs(20);

/// A running server; ends when dropped.
struct Provider {
    authority: Url,
    lines: Lines<BufReader<ChildStdout>>,
    _process: Child,
}

impl Provider {
    async fn start() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oidc");
        assert!(
            folder.join("node_modules/oidc-provider").is_dir(),
            "the OAuth server is not installed: run `npm ci` in tests/oidc (needs Node.js 20 or later), or tests/run, which does it"
        );
        let process = Command::new("node")
            .current_dir(&folder)
            .args(["server.mjs", TENANT, SCOPE, SECRET, CERTIFICATE_FILE])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let mut process = process.unwrap_or_else(|error| panic!("node (Node.js 20 or later) does not start: {error}"));
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut provider = Self {
            authority: Url::parse("http://localhost").unwrap(),
            lines,
            _process: process,
        };
        provider.authority = provider.says("authority").await.parse().unwrap();
        provider
    }

    /// The next thing that it says, which has to be about `subject`.
    async fn says(&mut self, subject: &str) -> String {
        let object = async {
            loop {
                let line = self.lines.next_line().await.unwrap().expect("the server has ended");
                // Its libraries have notices of their own.
                if line.starts_with('{') {
                    return serde_json::from_str::<Value>(&line).unwrap();
                }
            }
        };
        let said = timeout(PATIENCE, object).await.expect("silence");
        said[subject].as_str().unwrap_or_else(|| panic!("{said}")).to_owned()
    }

    /// What our own sign-in gets for `credential`.
    async fn sign_in(&self, credential: Credential) -> Result<Secret, Error> {
        let client = Client::new(&Config::default()).unwrap();
        let exchange = client.exchange(64 * 1024, Duration::from_secs(10));
        let config = token::Config {
            credential,
            scope: Scope::new(SCOPE),
        };
        let tasks = Tasks::new();
        let metrics = token::Metrics::register(&mut Registry::default());
        let token_source = TokenSource::start(config, exchange.clone(), exchange, Wall::system(), &tasks, metrics);
        let bearer = token_source.bearer(Instant::now() + PATIENCE).await;
        tasks.finish(Duration::from_secs(1)).await;
        bearer.map(|bearer| bearer.secret().clone())
    }

    fn app(&self, client_id: &str) -> App {
        App::new(&self.authority, TENANT, client_id)
    }

    fn secret(&self, secret: &str) -> Credential {
        Credential::ClientSecret {
            app: self.app("with-secret"),
            secret: SecretSource::Value(Secret::new(secret.into())),
        }
    }

    fn certificate(&self, certificate: &Path, private_key: &Path) -> Credential {
        Credential::Certificate {
            app: self.app("with-certificate"),
            files: CertificateFiles {
                certificate: certificate.into(),
                private_key: Some(private_key.into()),
            },
        }
    }

    /// What the server itself says about a token (RFC 7662).
    async fn introspect(&self, token: &Secret) -> Value {
        let body = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("client_id", "with-secret")
            .append_pair("client_secret", SECRET)
            .append_pair("token", token.expose())
            .finish();
        let request = Request::post(format!("{}token/introspection", self.authority))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Bytes::from(body))
            .unwrap();
        let limits = Limits {
            head: PATIENCE,
            whole: PATIENCE,
            body_bytes: 64 * 1024,
        };
        let answer = Client::new(&Config::default())
            .unwrap()
            .send(request, limits)
            .await
            .unwrap();
        serde_json::from_slice(answer.body()).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Node.js and tests/oidc installed; tests/run does both"]
async fn a_secret_is_accepted_by_a_certified_server_and_a_wrong_one_is_not() {
    let provider = Provider::start().await;
    let token = provider.sign_in(provider.secret(SECRET)).await.unwrap();
    let about = provider.introspect(&token).await;
    assert_eq!(
        (&about["active"], &about["client_id"]),
        (&true.into(), &"with-secret".into()),
        "{about}"
    );
    assert_eq!(about["scope"], SCOPE, "{about}");

    let error = provider.sign_in(provider.secret("another")).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    assert_eq!(error.code(), "invalid_client");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Node.js and tests/oidc installed; tests/run does both"]
async fn an_assertion_is_accepted_by_a_certified_server_and_by_an_independent_library() {
    let mut provider = Provider::start().await;
    for _ in 0..3 {
        let credential = provider.certificate(Path::new(CERTIFICATE_FILE), Path::new(KEY_FILE));
        let token = provider.sign_in(credential).await.unwrap();
        assert_eq!(provider.says("assertion").await, "good");
        let about = provider.introspect(&token).await;
        assert_eq!(
            (&about["active"], &about["client_id"]),
            (&true.into(), &"with-certificate".into()),
            "{about}"
        );
    }

    // Signed with a key that is not registered.
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let other = include_str!("../../../src/token/credential/testdata/rsa-2.pem");
    let pair = rcgen::KeyPair::from_pkcs8_pem_and_sign_algo(other, &rcgen::PKCS_RSA_SHA256).unwrap();
    let params = rcgen::CertificateParams::new(vec!["gateway.test".into()]).unwrap();
    std::fs::write(&certificate, params.self_signed(&pair).unwrap().pem()).unwrap();
    std::fs::write(&key, other).unwrap();
    let error = provider
        .sign_in(provider.certificate(&certificate, &key))
        .await
        .unwrap_err();
    assert_eq!(error.code(), "invalid_client");
    assert_eq!(
        provider.says("assertion").await,
        "ERR_JWS_SIGNATURE_VERIFICATION_FAILED"
    );
}
