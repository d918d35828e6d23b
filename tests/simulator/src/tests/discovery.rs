//! The discovery documents, in clear text and over TLS.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::client::{Answer, Client};
use crate::{Config, Simulator, TENANT_ID, Tls};

async fn get(client: &Client, sim: &Simulator, path: &str) -> Answer {
    let request = Request::get(format!("{}{path}", sim.authority())).body(Bytes::new());
    client.send(request.unwrap()).await.unwrap()
}

#[tokio::test]
async fn the_configuration_names_addresses_of_this_host() {
    let (sim, client) = (Simulator::start(Config::instant()).unwrap(), Client::http1());
    let base = sim.authority().to_string();
    let path = format!("{TENANT_ID}/v2.0/.well-known/openid-configuration");
    let answer = get(&client, &sim, &path).await;
    assert_eq!(answer.status, StatusCode::OK);
    let document = answer.json();
    assert_eq!(
        document["token_endpoint"],
        format!("{base}{TENANT_ID}/oauth2/v2.0/token")
    );
    assert_eq!(document["issuer"], format!("{base}{TENANT_ID}/v2.0"));
    let keys = document["jwks_uri"].as_str().unwrap().strip_prefix(&base).unwrap();
    assert!(get(&client, &sim, keys).await.json()["keys"].is_array());
    let any = get(&client, &sim, "common/v2.0/.well-known/openid-configuration").await;
    assert_eq!(any.json()["issuer"], format!("{base}{{tenantid}}/v2.0"));
    let unknown = get(&client, &sim, "contoso.example/v2.0/.well-known/openid-configuration").await;
    assert_eq!(unknown.aadsts(), (400, 90_002));
    assert!(sim.token_requests().is_empty(), "nobody asked for a token");
}

#[tokio::test]
async fn the_host_says_which_names_are_its_own() {
    let (sim, client) = (Simulator::start(Config::instant()).unwrap(), Client::http1());
    let base = sim.authority().to_string();
    let asked = |authority: &str| {
        let query = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("api-version", "1.1")
            .append_pair(
                "authorization_endpoint",
                &format!("{authority}{TENANT_ID}/oauth2/v2.0/authorize"),
            )
            .finish();
        format!("common/discovery/instance?{query}")
    };
    let document = get(&client, &sim, &asked(&base)).await.json();
    assert_eq!(
        document["tenant_discovery_endpoint"],
        format!("{base}{TENANT_ID}/v2.0/.well-known/openid-configuration")
    );
    let host = base.trim_start_matches("http://").trim_end_matches('/');
    assert_eq!(document["metadata"][0]["aliases"][0], host);
    let portless = get(&client, &sim, &asked("https://127.0.0.1/")).await.json();
    assert_eq!(
        portless["tenant_discovery_endpoint"],
        document["tenant_discovery_endpoint"]
    );
    let other = get(&client, &sim, &asked("https://login.example/")).await;
    assert_eq!((other.aadsts(), &*other.code()), ((400, 50_049), "invalid_instance"));
    let nothing = get(&client, &sim, "common/discovery/instance").await;
    assert_eq!(nothing.aadsts(), (400, 900_144));
}

#[tokio::test]
async fn tls_and_clear_text_are_served_on_one_port() {
    let tls = Tls::generate().unwrap();
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(tls.authority_pem().as_bytes()).unwrap();
    roots.add(authority).unwrap();
    let sim = Simulator::start(Config {
        tls: Some(tls),
        ..Config::instant()
    })
    .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let port = sim.authority().port().unwrap();
    for name in ["localhost", "127.0.0.1"] {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let mut stream = connector
            .connect(ServerName::try_from(name).unwrap(), stream)
            .await
            .unwrap();
        let path = format!("/{TENANT_ID}/v2.0/.well-known/openid-configuration");
        let request = format!("GET {path} HTTP/1.1\r\nhost: {name}:{port}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let document: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(
            document["token_endpoint"],
            format!("https://{name}:{port}/{TENANT_ID}/oauth2/v2.0/token")
        );
    }
    let clear = get(
        &Client::http1(),
        &sim,
        &format!("{TENANT_ID}/v2.0/.well-known/openid-configuration"),
    )
    .await;
    assert!(clear.json()["token_endpoint"].as_str().unwrap().starts_with("http://"));
    assert_eq!(sim.stop().await, 0);
}

#[tokio::test]
async fn a_name_that_is_not_loopbacks_is_not_repeated() {
    let sim = Simulator::start(Config::instant()).unwrap();
    let base = sim.authority().to_string();
    let request = Request::get(format!("{base}{TENANT_ID}/v2.0/.well-known/openid-configuration"))
        .header("host", "evil.example")
        .body(Bytes::new());
    let answer = Client::http1().send(request.unwrap()).await.unwrap();
    assert!(answer.json()["token_endpoint"].as_str().unwrap().starts_with(&base));
}
