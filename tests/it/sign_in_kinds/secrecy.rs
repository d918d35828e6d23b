//! The program itself, logging all it can: nothing that opens anything is in what it says.

use crate::support::Controls;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::Command;

use super::front::Authority;
use super::gateway::{Caller, one_region, roomy};
use super::{CERTIFICATE_FILE, KEY, KEY_FILE};
use defender_gateway::testing::sim::{
    CLIENT_SECRET, Certificate, IDENTITY_HEADER, Often, Plan, SignInFault, Simulator,
};
use defender_gateway::testing::task::Tasks;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

const FEDERATED: &str = "federated-token-of-the-cluster";
const OF_THE_CALLER: &str = "bearer-of-the-caller";

fn simulator() -> Simulator {
    let sim = Simulator::start(roomy(one_region())).unwrap();
    let der = CertificateDer::from_pem_slice(super::CERTIFICATE.as_bytes()).unwrap();
    sim.register_certificate(Certificate::from_der(&der).unwrap());
    sim.register_federated_token(FEDERATED.into());
    sim
}

/// Runs the program with `variables` through good days and bad ones, and returns all that it said.
async fn said(sim: &Simulator, toml: &str, variables: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    std::fs::write(&file, toml).unwrap();
    let mut child = start(&file, variables);
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let mut shown = String::new();
    let (mut data, mut admin) = (None, None);
    let mut line = String::new();
    while data.is_none() || admin.is_none() {
        line.clear();
        assert!(errors.read_line(&mut line).await.unwrap() > 0, "it ended: {shown}");
        data = line
            .strip_prefix("listening on ")
            .map(|at| at.trim().to_owned())
            .or(data);
        admin = line.strip_prefix("admin on ").map(|at| at.trim().to_owned()).or(admin);
        shown.push_str(&line);
    }
    let reading = Tasks::new().spawn("reading", async move {
        let mut rest = String::new();
        errors.read_to_string(&mut rest).await.unwrap();
        rest
    });
    let caller = Caller::new(data.unwrap(), admin.unwrap());
    let authorization = format!("Bearer {OF_THE_CALLER}");
    let fields = [("authorization", authorization.as_str())];
    for skip in 0..10 {
        assert_eq!(caller.ask_with(skip, &fields).await.status, 200);
    }
    // A revoked token, a refusal of sign-in that follows, and a host that breaks off.
    sim.set_sign_in_faults(Plan::of(SignInFault::Rubbish, Often::Times(1)));
    sim.revoke_tokens().await;
    for skip in 0..10 {
        caller.ask_with(skip, &fields).await;
    }
    sim.cut_connections().await;
    for skip in 0..10 {
        caller.ask_with(skip, &fields).await;
    }
    for page in ["/status", "/metrics", "/readyz?verbose"] {
        shown.push_str(&caller.admin(page).await);
    }
    caller.quit().await;
    let ended = tokio::time::timeout(Duration::from_secs(20), child.wait()).await;
    ended.expect("it ends when told to").unwrap();
    shown.push_str(&reading.await.unwrap());
    child.stdout.take().unwrap().read_to_string(&mut shown).await.unwrap();
    shown
}

fn start(file: &Path, variables: &[(&str, &str)]) -> tokio::process::Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_defender-gateway"));
    command
        .args(["run", "--config"])
        .arg(file)
        .env_clear()
        .envs([
            ("DEFENDER_GATEWAY_SERVER_LISTEN", "127.0.0.1:0"),
            ("DEFENDER_GATEWAY_ADMIN_LISTEN", "127.0.0.1:0"),
            ("DEFENDER_GATEWAY_ADMIN_QUIT", "true"),
            ("DEFENDER_GATEWAY_QUOTA_LIMITS", "1000000/1m"),
            ("DEFENDER_GATEWAY_CACHE_TTL", "0s"),
            ("DEFENDER_GATEWAY_TELEMETRY_LOG", "trace"),
        ])
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command.spawn().unwrap()
}

fn assert_clean(kind: &str, said: &str) {
    assert!(
        said.contains("signed in") && said.contains("TRACE"),
        "{kind}: the log was not captured: {said}"
    );
    let encoded: String = url::form_urlencoded::byte_serialize(CLIENT_SECRET.as_bytes()).collect();
    let mut hidden = vec![
        CLIENT_SECRET.to_owned(),
        encoded,
        IDENTITY_HEADER.into(),
        FEDERATED.into(),
        OF_THE_CALLER.into(),
    ];
    // Whatever is signed here is a JWT: tokens and assertions. Each of their first two segments
    // begins like this.
    hidden.push("eyJ".into());
    hidden.extend(KEY.lines().filter(|line| !line.starts_with('-')).map(str::to_owned));
    for secret in hidden {
        let at = said.find(&secret);
        let around = at.map(|at| said.get(at.saturating_sub(200)..at).unwrap_or_default());
        assert_eq!(at, None, "{kind}: {secret:?} is shown after {around:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_secret_is_said_at_trace_with_any_kind_of_credential() {
    let sim = simulator();
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, FEDERATED).unwrap();
    let (authority, endpoint) = (sim.authority().to_string(), sim.app_service_endpoint());
    let cases: [(&str, &[(&str, &str)]); 4] = [
        (
            "certificate",
            &[
                ("DEFENDER_GATEWAY_CREDENTIALS_CERTIFICATE_FILE", CERTIFICATE_FILE),
                ("DEFENDER_GATEWAY_CREDENTIALS_PRIVATE_KEY_FILE", KEY_FILE),
            ],
        ),
        (
            "workload identity",
            &[("AZURE_FEDERATED_TOKEN_FILE", token.to_str().unwrap())],
        ),
        (
            "metadata service",
            &[
                ("DEFENDER_GATEWAY_CREDENTIALS_KIND", "managed_identity"),
                ("AZURE_POD_IDENTITY_AUTHORITY_HOST", &authority),
            ],
        ),
        (
            "App Service",
            &[("IDENTITY_ENDPOINT", &endpoint), ("IDENTITY_HEADER", IDENTITY_HEADER)],
        ),
    ];
    let toml = sim.config_toml();
    for (kind, variables) in cases {
        assert_clean(kind, &said(&sim, &toml, variables).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_secret_is_said_at_trace_over_tls_and_http2() {
    let sim = simulator();
    let authority = Authority::new();
    let sign_in = authority.front("127.0.0.1", &sim.authority()).await;
    let region = authority.front("127.0.0.1", &sim.region("eu").unwrap()).await;
    let ca_file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca_file.path(), &authority.pem).unwrap();
    let (url, regions) = (sign_in.url(), format!("eu={}", region.url()));
    let variables = [
        ("AZURE_CLIENT_SECRET", CLIENT_SECRET),
        ("DEFENDER_GATEWAY_CREDENTIALS_AUTHORITY", url.as_str()),
        ("DEFENDER_GATEWAY_DEFENDER_REGIONS", &regions),
        ("DEFENDER_GATEWAY_DEFENDER_CA_FILE", ca_file.path().to_str().unwrap()),
    ];
    let said = said(&sim, &sim.config_toml(), &variables).await;
    assert!(
        sim.calls()
            .iter()
            .any(|call| call.operation.is_some() && call.version == "HTTP/2.0"),
        "HTTP/2 was used"
    );
    assert_clean("client secret", &said);
}
