//! Sign-in by certificate.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::StatusCode;
use ring::digest;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding, RsaKeyPair};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};

use super::Controls;
use super::client::{Answer, Client};
use crate::entra::assertion::NotACertificate;
use crate::{Assertions, CLIENT_ID, Certificate, Config, Credential, Simulator, TENANT_ID};

const CERTIFICATE: &[u8] = include_bytes!("../../../data/sim/app-cert.pem");
const KEY: &[u8] = include_bytes!("../../../data/sim/app-key.pem");

fn der() -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(CERTIFICATE).unwrap()
}

fn thumbprint() -> digest::Digest {
    digest::digest(&digest::SHA256, &der())
}

fn header() -> Value {
    json!({"alg": "PS256", "typ": "JWT", "x5t#S256": URL_SAFE_NO_PAD.encode(thumbprint())})
}

fn claims(sim: &Simulator, jti: &str) -> Value {
    let now = jiff::Timestamp::now().as_second();
    json!({
        "aud": format!("{}{TENANT_ID}/oauth2/v2.0/token", sim.authority()),
        "iss": CLIENT_ID,
        "sub": CLIENT_ID,
        "jti": jti,
        "nbf": now,
        "exp": now + 300,
    })
}

fn assertion(header: &Value, claims: &Value) -> String {
    let key = PrivatePkcs8KeyDer::from_pem_slice(KEY).unwrap();
    let key = RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).unwrap();
    let segment = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", segment(header), segment(claims));
    let mut signature = vec![0; key.public().modulus_len()];
    let padding: &'static dyn RsaEncoding = match header["alg"].as_str() {
        Some("RS256") => &RSA_PKCS1_SHA256,
        _ => &RSA_PSS_SHA256,
    };
    key.sign(padding, &SystemRandom::new(), signed.as_bytes(), &mut signature)
        .unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

async fn present(client: &Client, sim: &Simulator, assertion: &str) -> Answer {
    let fields = [
        ("client_secret", ""),
        (
            "client_assertion_type",
            "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        ),
        ("client_assertion", assertion),
    ];
    client.sign_in(sim, &fields).await
}

fn start() -> (Simulator, Client) {
    let sim = Simulator::start(Config::instant()).unwrap();
    sim.register_certificate(Certificate::from_der(&der()).unwrap());
    (sim, Client::http1())
}

#[tokio::test]
async fn a_signed_assertion_gets_a_token_once() {
    let (sim, client) = start();
    let good = assertion(&header(), &claims(&sim, "1"));
    assert_eq!(present(&client, &sim, &good).await.status, StatusCode::OK);
    assert_eq!(
        present(&client, &sim, &good).await.aadsts(),
        (401, 50_027),
        "jti must be new"
    );
    assert_eq!(sim.token_requests()[0].credential, Credential::Certificate);
    sim.change(|config| config.sign_in.assertions = Assertions::UntilExpiry);
    for _ in 0..2 {
        assert_eq!(present(&client, &sim, &good).await.status, StatusCode::OK);
    }
    let mut standard = header();
    standard["x5t#S256"] = STANDARD.encode(thumbprint()).into();
    assert_eq!(
        present(&client, &sim, &assertion(&standard, &claims(&sim, "2")))
            .await
            .status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn every_part_of_an_assertion_is_checked() {
    let (sim, client) = start();
    let now = jiff::Timestamp::now().as_second();
    for (number, (member, value, code)) in [
        (
            "aud",
            json!("https://login.microsoftonline.com/x/oauth2/v2.0/token"),
            50_013,
        ),
        ("iss", json!("somebody"), 50_013),
        ("sub", json!("somebody"), 50_013),
        ("jti", json!(""), 50_027),
        ("jti", Value::Null, 50_027),
        ("nbf", json!(now + 1_000), 700_024),
        ("nbf", Value::Null, 700_024),
        ("nbf", json!(now - 500), 700_024),
        ("exp", json!(now - 1_000), 700_024),
        ("exp", json!(now + 3_600), 700_024),
        ("exp", json!("soon"), 700_024),
    ]
    .into_iter()
    .enumerate()
    {
        let mut claims = claims(&sim, &number.to_string());
        claims[member] = value.clone();
        let answer = present(&client, &sim, &assertion(&header(), &claims)).await;
        assert_eq!(answer.aadsts(), (401, code), "{member}: {value}");
    }
    for (member, value, code) in [
        ("alg", json!("none"), 50_027),
        ("alg", json!("HS256"), 50_027),
        ("x5t", json!("AAAA"), 700_027),
        ("typ", json!("JOSE"), 50_027),
        ("x5t#S256", json!("AAAA"), 700_027),
    ] {
        let mut header = header();
        header[member] = value.clone();
        let answer = present(&client, &sim, &assertion(&header, &claims(&sim, "x"))).await;
        assert_eq!(answer.aadsts(), (401, code), "{member}: {value}");
    }
}

#[tokio::test]
async fn only_the_registered_key_signs() {
    let (sim, client) = start();
    let good = assertion(&header(), &claims(&sim, "1"));
    let other = assertion(&header(), &claims(&sim, "2"));
    let swapped = format!(
        "{}.{}",
        good.rsplit_once('.').unwrap().0,
        other.rsplit_once('.').unwrap().1
    );
    assert_eq!(present(&client, &sim, &swapped).await.aadsts(), (401, 700_027));
    assert_eq!(
        present(&client, &sim, &format!("{good}!")).await.aadsts(),
        (401, 50_027)
    );

    let stranger = Simulator::start(Config::instant()).unwrap();
    let unknown = assertion(&header(), &claims(&stranger, "1"));
    assert_eq!(present(&client, &stranger, &unknown).await.aadsts(), (401, 700_027));
    assert_eq!(Certificate::from_der(b"x").unwrap_err(), NotACertificate);
}

#[tokio::test]
async fn either_algorithm_and_either_thumbprint_is_taken_but_no_contradiction() {
    let (sim, client) = start();
    let own = |algorithm| URL_SAFE_NO_PAD.encode(digest::digest(algorithm, &der()));
    let (sha1, sha256) = (own(&digest::SHA1_FOR_LEGACY_USE_ONLY), own(&digest::SHA256));
    let mut number = 0;
    for alg in ["PS256", "RS256"] {
        for (header, good) in [
            (json!({"x5t": sha1}), true),
            (json!({"x5t#S256": sha256}), true),
            (json!({"x5t": sha1, "x5t#S256": sha256, "x5c": ["AAAA"]}), true),
            (
                json!({"x5t": STANDARD.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &der()))}),
                true,
            ),
            (json!({"x5t": sha256}), false),
            (json!({"x5t": sha1, "x5t#S256": sha1}), false),
            (json!({"x5t": 7}), false),
        ] {
            number += 1;
            let mut header = header;
            header["alg"] = alg.into();
            let answer = present(&client, &sim, &assertion(&header, &claims(&sim, &number.to_string()))).await;
            let expected = if good { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
            assert_eq!(answer.status, expected, "{header}");
        }
    }
    // As MSAL for Python sends it: without nbf, but with the time of issue, with fractions.
    let mut claims = claims(&sim, "iat");
    let issued = claims.as_object_mut().unwrap().remove("nbf").unwrap().as_f64().unwrap() + 0.25;
    (claims["iat"], claims["exp"]) = (json!(issued), json!(issued + 600.0));
    assert_eq!(
        present(&client, &sim, &assertion(&header(), &claims)).await.status,
        StatusCode::OK
    );
}

#[test]
fn certificates_are_found_in_files_of_every_form() {
    let marked = [b"\xef\xbb\xbf", CERTIFICATE, b"\xef\xbb\xbf", KEY].concat();
    for (file, count) in [
        (CERTIFICATE.to_vec(), 1),
        (der().to_vec(), 1),
        ([KEY, CERTIFICATE, CERTIFICATE].concat(), 2),
        (marked, 1),
    ] {
        assert_eq!(Certificate::from_file(&file).unwrap().len(), count);
    }
    for file in [
        KEY,
        b"",
        b"\x30\x03abc",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        assert_eq!(Certificate::from_file(file).unwrap_err(), NotACertificate);
    }
}
