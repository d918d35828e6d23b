//! Users, passwords and certificates.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

use defender_gateway::testing::store::{Client, Config};

use super::KEPT;
use super::{comes_back, config, keys, script};
use crate::support::redis::{Redis, free_port};

#[tokio::test]
async fn a_user_may_be_allowed_no_more_than_the_readme_says() {
    let server = Redis::start().await;
    server
        .command(&[
            "ACL",
            "SETUSER",
            "gateway",
            "on",
            ">first",
            "~{t}*",
            "resetchannels",
            "&{t}*",
            "+@read",
            "+@write",
        ])
        .await;
    server
        .command(&[
            "ACL",
            "SETUSER",
            "gateway",
            "+@scripting",
            "+@pubsub",
            "+@connection",
            "+info",
            "+time",
            "-@admin",
        ])
        .await;
    let url = |password: &str| format!("redis://gateway:{password}@127.0.0.1:{}", server.port);
    let client = Client::new(&config(&url("first")));
    client.set("{t}b", b"read", KEPT).await.unwrap();
    assert_eq!(client.step(&script(), &keys(), "written").await.unwrap(), "read");
    assert_eq!(client.get("{t}a").await.unwrap().unwrap(), b"written");
    client.get("of another").await.unwrap_err();

    let error = Client::new(&config(&url("wrong"))).get("{t}a").await.unwrap_err();
    assert!(!format!("{error:?}").contains("wrong"));
}

#[tokio::test]
async fn a_password_in_a_file_may_change() {
    let server = Redis::start().await;
    server
        .command(&["ACL", "SETUSER", "gateway", "on", ">first", "~*", "&*", "+@all"])
        .await;
    let file = server.folder().join("password");
    std::fs::write(&file, "first\n").unwrap();
    let settings = Config {
        password_file: Some(file.clone()),
        ..config(&format!("redis://gateway@127.0.0.1:{}", server.port))
    };
    let client = Client::new(&settings);
    client.set("{t}a", b"1", KEPT).await.unwrap();

    // Redis disconnects nobody when a password changes.
    server
        .command(&["ACL", "SETUSER", "gateway", "<first", ">second"])
        .await;
    client.get("{t}a").await.unwrap();
    std::fs::write(&file, "second").unwrap();
    server.command(&["CLIENT", "KILL", "USER", "gateway"]).await;
    comes_back(&client).await;

    let missing = Config {
        password_file: Some(file.with_extension("none")),
        ..settings
    };
    let error = Client::new(&missing).get("{t}a").await.unwrap_err();
    assert_eq!(error.to_string(), "store.password_file cannot be read");
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // OpenSSL takes a certificate whose subject is its issuer's for one signed by itself.
        params
            .distinguished_name
            .push(DnType::CommonName, "the tests' authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// A certificate for `name`, and its key.
    fn certify(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

fn put(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn tls_trusts_the_authorities_of_the_file_alone_and_shows_a_certificate_where_one_is_asked_for() {
    let (authority, other) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = authority.certify("localhost");
    let ca = put(folder.path(), "ca.pem", &authority.pem);
    let untrusted = put(folder.path(), "other.pem", &other.pem);
    let certificate = put(folder.path(), "server.pem", &certificate);
    let key = put(folder.path(), "server.key", &key);
    let (own, own_key) = authority.certify("gateway");
    let own = put(folder.path(), "gateway.pem", &format!("{own}{own_key}"));

    let port = free_port().await;
    let text = port.to_string();
    let settings = ["--port", "0", "--tls-port", &text, "--tls-auth-clients", "yes"];
    let files = [
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &ca,
    ];
    let server = Redis::start_in(tempfile::tempdir().unwrap(), port, &[settings, files].concat()).await;

    let with = |ca: &str, own: Option<&str>| Config {
        ca_file: Some(ca.into()),
        certificate_file: own.map(Into::into),
        ..config(&format!("rediss://localhost:{}", server.port))
    };
    let client = Client::new(&with(&ca, Some(&own)));
    client.set("{t}a", b"1", KEPT).await.unwrap();
    let plain = config(&format!("rediss://localhost:{}", server.port));
    for wrong in [with(&untrusted, Some(&own)), with(&ca, None), plain] {
        Client::new(&wrong).get("{t}a").await.unwrap_err();
    }
    let by_address = Config {
        address: config(&format!("rediss://127.0.0.1:{}", server.port)).address,
        ..with(&ca, Some(&own))
    };
    Client::new(&by_address)
        .get("{t}a")
        .await
        .expect_err("the certificate is for another name");
}
