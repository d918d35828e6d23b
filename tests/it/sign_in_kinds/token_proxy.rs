//! The custom token endpoint of AKS: token requests go to a proxy with its own certificate
//! authority and server name.

use super::front::Authority;
use super::gateway::{Running, simulator};
use crate::support::Controls;
use defender_gateway::testing::sim::{Credential, Simulator};

const NAME: &str = "token-proxy.test";
const TOKEN: &str = "of.the.cluster";

fn token_file(sim: &Simulator) -> tempfile::NamedTempFile {
    sim.register_federated_token(TOKEN.into());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), TOKEN).unwrap();
    file
}

/// The authority is where nobody listens: only the proxy can have brought the token.
const NOWHERE: (&str, &str) = ("DEFENDER_GATEWAY_CREDENTIALS_AUTHORITY", "http://127.0.0.1:9");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_come_through_the_proxy_by_its_own_authority_and_name() {
    let sim = simulator();
    let file = token_file(&sim);
    let authority = Authority::new();
    let front = authority.front(NAME, &sim.authority()).await;
    let url = front.url();
    let variables = [
        NOWHERE,
        ("AZURE_FEDERATED_TOKEN_FILE", file.path().to_str().unwrap()),
        ("AZURE_KUBERNETES_TOKEN_PROXY", &url),
        ("AZURE_KUBERNETES_CA_DATA", &authority.pem),
        ("AZURE_KUBERNETES_SNI_NAME", NAME),
    ];
    let gateway = Running::start(&sim, &variables).await;
    assert_eq!(gateway.ask().await.status, 200);
    assert_eq!(front.names(), [Some(NAME.to_owned())]);
    assert_eq!(sim.token_requests()[0].credential, Credential::Federated);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_authority_or_name_is_not_trusted_and_a_new_ca_file_is_read() {
    let sim = simulator();
    let file = token_file(&sim);
    let (right, wrong) = (Authority::new(), Authority::new());
    let front = right.front(NAME, &sim.authority()).await;
    let url = front.url();
    let ca_file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca_file.path(), &wrong.pem).unwrap();
    let common = [
        NOWHERE,
        ("AZURE_FEDERATED_TOKEN_FILE", file.path().to_str().unwrap()),
        ("AZURE_KUBERNETES_TOKEN_PROXY", &url),
        ("AZURE_KUBERNETES_CA_FILE", ca_file.path().to_str().unwrap()),
    ];
    let named = [&common[..], &[("AZURE_KUBERNETES_SNI_NAME", NAME)]].concat();
    let gateway = Running::start(&sim, &named).await;
    let token = gateway.until("refused", |token| token["last_error"].is_object()).await;
    assert_eq!(token["last_error"]["code"], "Unreachable");
    assert!(
        token["last_error"]["message"].as_str().unwrap().contains("certificate"),
        "{token}"
    );
    assert_eq!(sim.token_requests().len(), 0, "nothing is sent to a stranger");
    // The cluster's authority changes, and the file with it.
    std::fs::write(ca_file.path(), &right.pem).unwrap();
    gateway.until_signed_in().await;
    gateway.stop().await;

    // Without the name, the certificate would have to be for the address.
    let gateway = Running::start(&sim, &common).await;
    let token = gateway.until("refused", |token| token["last_error"].is_object()).await;
    assert_eq!(token["last_error"]["code"], "Unreachable");
    gateway.stop().await;
}
