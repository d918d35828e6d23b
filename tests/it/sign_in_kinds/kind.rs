//! Each kind of credential brings a token, and a call that carries it.

use crate::support::Controls;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::gateway::{Running, simulator};
use super::{CERTIFICATE, CERTIFICATE_FILE, KEY, KEY_FILE};
use defender_gateway::testing::sim::{CLIENT_SECRET, Certificate, Credential, IDENTITY_HEADER, Simulator};

/// Starts a gateway with `variables`, makes a call, and looks at how the gateway proved who it is.
async fn call(simulator: &Simulator, variables: &[(&str, &str)], kind: &str, credential: Credential) {
    let gateway = Running::start(simulator, variables).await;
    let answer = gateway.ask().await;
    assert_eq!(answer.status, 200, "{kind}: {}", answer.text);
    let token = gateway.token().await;
    assert_eq!(token["kind"], kind);
    assert!(token["expires_in_s"].as_f64().unwrap() > 3500.0, "{token}");
    assert!(token["last_error"].is_null(), "{token}");
    assert!(gateway.admin("/readyz?verbose").await.contains("sign-in"));
    gateway.stop().await;
    let requests = simulator.token_requests();
    let ours = requests.last().unwrap();
    assert_eq!((ours.credential, ours.status), (credential, Some(200)), "{kind}");
    assert_eq!(simulator.calls().last().unwrap().token_id, ours.token_id, "{kind}");
    assert_eq!(simulator.violations(), [], "{kind}");
}

fn register(simulator: &Simulator) {
    let der = CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).unwrap();
    simulator.register_certificate(Certificate::from_der(&der).unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_secret_from_the_environment() {
    let sim = simulator();
    for variable in ["AZURE_CLIENT_SECRET", "DEFENDER_GATEWAY_CREDENTIALS_CLIENT_SECRET"] {
        call(&sim, &[(variable, CLIENT_SECRET)], "client_secret", Credential::Secret).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_secret_from_a_file() {
    let sim = simulator();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{CLIENT_SECRET}\n")).unwrap();
    let path = file.path().to_str().unwrap();
    let variables = [("DEFENDER_GATEWAY_CREDENTIALS_CLIENT_SECRET_FILE", path)];
    call(&sim, &variables, "client_secret", Credential::Secret).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_in_two_files_or_in_one() {
    let sim = simulator();
    register(&sim);
    let two = [
        ("DEFENDER_GATEWAY_CREDENTIALS_CERTIFICATE_FILE", CERTIFICATE_FILE),
        ("DEFENDER_GATEWAY_CREDENTIALS_PRIVATE_KEY_FILE", KEY_FILE),
    ];
    call(&sim, &two, "certificate", Credential::Certificate).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{KEY}{CERTIFICATE}")).unwrap();
    let one = [("AZURE_CLIENT_CERTIFICATE_PATH", file.path().to_str().unwrap())];
    call(&sim, &one, "certificate", Credential::Certificate).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_managed_identity_of_either_form() {
    let sim = simulator();
    let authority = sim.authority().to_string();
    let machine = [
        ("DEFENDER_GATEWAY_CREDENTIALS_KIND", "managed_identity"),
        ("AZURE_POD_IDENTITY_AUTHORITY_HOST", authority.as_str()),
        // Nobody listens there: whoever went through the proxy would fail.
        ("HTTPS_PROXY", "http://127.0.0.1:9"),
    ];
    call(&sim, &machine, "managed_identity", Credential::Imds).await;
    let endpoint = sim.app_service_endpoint();
    let app_service = [
        ("IDENTITY_ENDPOINT", endpoint.as_str()),
        ("IDENTITY_HEADER", IDENTITY_HEADER),
    ];
    call(&sim, &app_service, "managed_identity", Credential::AppService).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_federated_token_that_is_rotated_between_requests() {
    let sim = simulator();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("azure-identity-token");
    let rotate = |token: &str| {
        std::fs::write(&file, token).unwrap();
        sim.register_federated_token(token.into());
    };
    rotate("first.federated.token");
    // Sign-in takes the present token only, so every renewal shows that the file was read anew.
    sim.set_token_lifetime(std::time::Duration::from_secs(2), None);
    let gateway = Running::start(&sim, &[("AZURE_FEDERATED_TOKEN_FILE", file.to_str().unwrap())]).await;
    assert_eq!(gateway.token().await["kind"], "workload_identity");
    for round in 2..5 {
        sim.wait_for_token_requests(round - 1).await.unwrap();
        rotate(&format!("federated.token.{round}"));
        assert_eq!(gateway.ask().await.status, 200);
    }
    let requests = sim.wait_for_token_requests(4).await.unwrap();
    let good = |record: &sim::TokenRecord| (record.credential, record.status) == (Credential::Federated, Some(200));
    assert!(requests.iter().all(good), "{requests:?}");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_caller_sends_in_authorization_never_leaves_the_gateway() {
    let sim = simulator();
    let gateway = Running::start(&sim, &[("AZURE_CLIENT_SECRET", CLIENT_SECRET)]).await;
    let fields = [("authorization", "Bearer of-the-caller"), ("cookie", "of-the-caller")];
    let answer = gateway.ask_with(0, &fields).await;
    // The simulator answers 401 to every token but its own.
    assert_eq!(answer.status, 200, "{}", answer.text);
    let call = sim.calls().pop().unwrap();
    assert_eq!(call.token_id, sim.token_requests().pop().unwrap().token_id);
    assert!(!format!("{call:?}").contains("of-the-caller"), "{call:?}");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_permission_is_told_before_the_first_call() {
    let sim = simulator();
    sim.set_roles(&["Alert.Read.All"]);
    let gateway = Running::start(&sim, &[("AZURE_CLIENT_SECRET", CLIENT_SECRET)]).await;
    let token = gateway.until_signed_in().await;
    let warning = token["warnings"][0].as_str().unwrap();
    assert!(
        warning.contains("Machine.Read.All") && warning.contains("admin consent"),
        "{warning}"
    );
    let checks = gateway.admin("/readyz?verbose").await;
    assert!(checks.contains("Machine.Read.All"), "{checks}");
    assert_eq!(sim.calls().iter().filter(|call| call.operation.is_some()).count(), 0);
    assert_eq!(gateway.ask().await.status, 403, "the upstream speaks for itself");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_permission_to_change_machines_includes_the_one_to_read_them() {
    let sim = simulator();
    sim.set_roles(&["Machine.ReadWrite.All"]);
    let gateway = Running::start(&sim, &[("AZURE_CLIENT_SECRET", CLIENT_SECRET)]).await;
    let token = gateway.until_signed_in().await;
    assert!(!token["warnings"].to_string().contains("Machine.Read"), "{token}");
    assert_eq!(gateway.ask().await.status, 200);
    gateway.stop().await;
}
