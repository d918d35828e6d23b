//! Every response of sign-in.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};

use super::Controls;
use super::client::{Answer, Client, token_request};
use crate::{
    AadstsCode, CLIENT_ID, CLIENT_SECRET, Config, Credential, IDENTITY_HEADER, Often, Plan, SCOPE, SignInFault,
    Simulator, TENANT_ID,
};

const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

fn start() -> (Simulator, Client) {
    (Simulator::start(Config::instant()).unwrap(), Client::http1())
}

#[tokio::test]
async fn the_right_secret_gets_a_token() {
    let (sim, client) = start();
    let answer = client.sign_in(&sim, &[]).await;
    assert_eq!(answer.status, StatusCode::OK);
    let json = answer.json();
    assert_eq!(
        (&json["token_type"], &json["expires_in"]),
        (&"Bearer".into(), &3_599.into())
    );
    assert_eq!(json["ext_expires_in"], 3_599);
    assert!(json.get("refresh_in").is_none());
    let token = json["access_token"].as_str().unwrap();
    assert_eq!(token.split('.').count(), 3);
    sim.set_token_lifetime(Duration::from_hours(24), Some(Duration::from_hours(12)));
    let json = client.sign_in(&sim, &[]).await.json();
    assert_eq!(
        (&json["expires_in"], &json["refresh_in"]),
        (&86_400.into(), &43_200.into())
    );

    let records = sim.wait_for_token_requests(2).await.unwrap();
    assert_eq!(
        (records[0].credential, records[0].status),
        (Credential::Secret, Some(200))
    );
    let shown = format!("{records:?} {sim:?}");
    assert!(!shown.contains(CLIENT_SECRET) && !shown.contains(token));
}

#[tokio::test]
async fn every_mistake_has_its_documented_code() {
    let (sim, client) = start();
    for (fields, expected) in [
        (&[("client_secret", "wrong")][..], (401, 7_000_215)),
        (&[("client_secret", "")], (401, 7_000_218)),
        (&[("client_id", "11111111-1111-1111-1111-111111111111")], (400, 700_016)),
        (&[("client_id", "")], (400, 900_144)),
        (&[("grant_type", "")], (400, 900_144)),
        (&[("grant_type", "password")], (400, 70_003)),
        (&[("scope", "")], (400, 900_144)),
        (
            &[("scope", "https://api.securitycenter.microsoft.com")],
            (400, 1_002_012),
        ),
        (
            &[("scope", "https://api.security.microsoft.com/.default")],
            (400, 500_011),
        ),
        (
            &[("scope", "https://a.example/.default https://b.example/.default")],
            (400, 700_022),
        ),
        (
            &[("resource", "https://api.securitycenter.microsoft.com")],
            (400, 901_002),
        ),
        (&[("client_secret", ""), ("client_assertion", "a.b.c")], (400, 900_144)),
        (
            &[
                ("client_secret", ""),
                ("client_assertion", "a.b.c"),
                ("client_assertion_type", JWT_BEARER),
            ],
            (400, 70_021),
        ),
    ] {
        let answer = client.sign_in(&sim, fields).await;
        assert_eq!(answer.aadsts(), expected, "{fields:?}");
    }
    let codes: Vec<_> = sim.token_requests().iter().filter_map(|record| record.code).collect();
    assert_eq!(codes.len(), 13);
    assert!(sim.token_requests().iter().all(|record| record.token_id.is_none()));
}

async fn post(client: &Client, request: http::request::Builder, form: &str) -> Answer {
    client
        .send(request.body(Bytes::copy_from_slice(form.as_bytes())).unwrap())
        .await
        .unwrap()
}

#[tokio::test]
async fn tenants_methods_and_forms_are_checked() {
    let (sim, client) = start();
    let form = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs([
            ("client_id", CLIENT_ID),
            ("scope", SCOPE),
            ("client_secret", CLIENT_SECRET),
            ("grant_type", "client_credentials"),
        ])
        .finish();
    let good = post(&client, token_request(&sim, &TENANT_ID.to_uppercase()), &form).await;
    assert_eq!(good.status, StatusCode::OK);
    let strange = "22222222-2222-2222-2222-222222222222";
    assert_eq!(
        post(&client, token_request(&sim, strange), &form).await.aadsts(),
        (400, 90_002)
    );
    assert_eq!(
        post(&client, token_request(&sim, "common"), &form).await.aadsts(),
        (400, 50_194)
    );
    let doubled = format!("{form}&client_id={CLIENT_ID}");
    assert_eq!(
        post(&client, token_request(&sim, TENANT_ID), &doubled).await.aadsts(),
        (400, 9_000_411)
    );
    let url = format!("{}{TENANT_ID}/oauth2/v2.0/token", sim.authority());
    assert_eq!(post(&client, Request::get(&url), "").await.aadsts(), (400, 900_561));
    let json = Request::post(&url).header("content-type", "application/json");
    assert_eq!(post(&client, json, &form).await.aadsts(), (400, 900_144));
    for path in ["", "oauth2/v2.0/token", "x/oauth2/token", "x/oauth2/v2.0/token/"] {
        let request = Request::post(format!("{}{path}", sim.authority()));
        assert_eq!(
            post(&client, request, &form).await.status,
            StatusCode::NOT_FOUND,
            "{path}"
        );
    }
    let long = "x".repeat(70_000);
    assert_eq!(
        post(&client, token_request(&sim, TENANT_ID), &long).await.status,
        StatusCode::PAYLOAD_TOO_LARGE
    );
}

#[tokio::test]
async fn a_changed_secret_makes_the_old_one_expired() {
    let (sim, client) = start();
    sim.set_secret("new".into());
    assert_eq!(client.sign_in(&sim, &[]).await.aadsts(), (401, 7_000_222));
    assert_eq!(
        client.sign_in(&sim, &[("client_secret", "new")]).await.status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn every_documented_refusal_can_be_forced() {
    let (sim, client) = start();
    for code in AadstsCode::all() {
        sim.set_sign_in_faults(Plan::of(SignInFault::Refuse(code), Often::Times(1)));
        let answer = client.sign_in(&sim, &[]).await;
        assert_eq!(answer.aadsts(), (code.status().as_u16(), u64::from(code.number())));
        assert_eq!(answer.code(), code.error);
    }
    assert_eq!(
        client.sign_in(&sim, &[]).await.status,
        StatusCode::OK,
        "and then it is over"
    );
}

#[tokio::test]
async fn sign_in_can_fail_in_other_ways() {
    let (sim, client) = start();
    let with = async |fault| {
        sim.set_sign_in_faults(Plan::of(fault, Often::Times(1)));
        client.sign_in(&sim, &[]).await
    };
    let throttled = with(SignInFault::Throttle).await;
    assert_eq!(
        (throttled.status, throttled.field("retry-after")),
        (StatusCode::TOO_MANY_REQUESTS, Some("60"))
    );
    assert_eq!(
        (&throttled.body[..], throttled.field("content-type")),
        (&b"Too Many Requests"[..], Some("text/plain"))
    );
    let down = with(SignInFault::Status(StatusCode::BAD_GATEWAY)).await;
    assert_eq!(
        (down.status, down.field("content-type")),
        (StatusCode::BAD_GATEWAY, Some("text/html"))
    );
    let rubbish = with(SignInFault::Rubbish).await;
    assert_eq!(rubbish.status, StatusCode::OK);
    assert!(serde_json::from_slice::<serde_json::Value>(&rubbish.body).is_err());
    assert!(with(SignInFault::NoToken).await.json().get("access_token").is_none());
    let moved = with(SignInFault::Redirect).await;
    assert_eq!(moved.status, StatusCode::FOUND);
    assert!(moved.field("location").is_some());
    let slow = std::pin::pin!(with(SignInFault::Slow(Duration::from_millis(50))));
    let before = sim.elapsed();
    assert_eq!(slow.await.status, StatusCode::OK);
    assert!(sim.elapsed() >= before + Duration::from_millis(50));
    assert!(
        sim.token_requests()
            .iter()
            .all(|record| record.credential != Credential::Federated)
    );
}

async fn managed(client: &Client, url: String, fields: &[(&str, &str)]) -> Answer {
    let request = fields.iter().fold(Request::get(url), |request, (name, value)| {
        request.header(*name, *value)
    });
    post(client, request, "").await
}

const RESOURCE: &str = "resource=https%3A%2F%2Fapi.securitycenter.microsoft.com";

#[tokio::test]
async fn the_metadata_service_gives_tokens_with_numbers_as_strings() {
    let (sim, client) = start();
    let url = |query: &str| format!("{}metadata/identity/oauth2/token?{query}", sim.authority());
    let good = url(&format!("api-version=2018-02-01&{RESOURCE}"));
    let answer = managed(&client, good.clone(), &[("metadata", "true")]).await;
    let json = answer.json();
    assert_eq!((answer.status, &json["expires_in"]), (StatusCode::OK, &"3599".into()));
    assert!(json["expires_on"].as_str().unwrap().parse::<u64>().is_ok());
    let token = json["access_token"].as_str().unwrap();
    assert_eq!(client.ask(&sim, "us", token).await.unwrap().status, StatusCode::OK);

    for (url, fields) in [
        (good.clone(), &[][..]),
        (good.clone(), &[("metadata", "True")]),
        (good.clone(), &[("metadata", "true"), ("x-forwarded-for", "10.0.0.1")]),
        (url(RESOURCE), &[("metadata", "true")]),
        (url("api-version=2018-02-01"), &[("metadata", "true")]),
        (
            url("api-version=2018-02-01&resource=https%3A%2F%2Fother"),
            &[("metadata", "true")],
        ),
        (format!("{good}&client_id=somebody"), &[("metadata", "true")]),
    ] {
        assert_eq!(
            managed(&client, url.clone(), fields).await.status,
            StatusCode::BAD_REQUEST,
            "{url} {fields:?}"
        );
    }
    for status in [404, 410, 429, 500] {
        let status = StatusCode::from_u16(status).unwrap();
        sim.set_sign_in_faults(Plan::of(SignInFault::Status(status), Often::Times(1)));
        assert_eq!(
            managed(&client, good.clone(), &[("metadata", "true")]).await.status,
            status
        );
    }
}

#[tokio::test]
async fn app_service_wants_its_header() {
    let (sim, client) = start();
    let good = format!("{}?api-version=2019-08-01&{RESOURCE}", sim.app_service_endpoint());
    let field = ("x-identity-header", IDENTITY_HEADER);
    assert_eq!(managed(&client, good.clone(), &[field]).await.status, StatusCode::OK);
    assert_eq!(
        managed(&client, good.clone(), &[]).await.status,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(
        managed(&client, good.clone(), &[("x-identity-header", "x")])
            .await
            .status,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(
        managed(&client, good.replace("2019", "2018"), &[field]).await.status,
        StatusCode::BAD_REQUEST
    );
    let kinds: Vec<_> = sim.token_requests().iter().map(|record| record.credential).collect();
    assert!(kinds.iter().all(|kind| *kind == Credential::AppService));
}

#[tokio::test]
async fn a_registered_federated_token_is_accepted_until_it_is_replaced() {
    let (sim, client) = start();
    let fields = |text| {
        [
            ("client_secret", ""),
            ("client_assertion_type", JWT_BEARER),
            ("client_assertion", text),
        ]
    };
    sim.register_federated_token("kubernetes.token.one".into());
    assert_eq!(
        client.sign_in(&sim, &fields("kubernetes.token.one")).await.status,
        StatusCode::OK
    );
    sim.register_federated_token("kubernetes.token.two".into());
    assert_eq!(
        client.sign_in(&sim, &fields("kubernetes.token.one")).await.aadsts(),
        (400, 70_021)
    );
    assert_eq!(
        client.sign_in(&sim, &fields("kubernetes.token.two")).await.status,
        StatusCode::OK
    );
    assert_eq!(sim.token_requests()[0].credential, Credential::Federated);
}
