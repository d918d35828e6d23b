//! Every response of a region's host.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};

use super::Controls;
use super::client::{Answer, Client, ID, PATH, body, call, call_to, ended};
use crate::history::{History, Unknown};
use crate::{Config, Simulator};

const OTHER: &str = "bbbbbbbb-0000-4000-8000-000000000002";

fn start(config: Config) -> Simulator {
    Simulator::start(config).unwrap()
}

async fn query(client: &Client, sim: &Simulator, token: &str, query: &str) -> Answer {
    let request = call_to(sim, "eu", token, Method::POST, &format!("{PATH}{query}"));
    client.send(request.body(body(&[ID, OTHER])).unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_good_call_brings_the_rows_of_its_ids() {
    let (sim, client) = (start(Config::instant()), Client::http1());
    let token = client.token(&sim).await;
    let request = call(&sim, "eu", &token)
        .header("x-request-id", "r-1")
        .body(body(&[ID, OTHER]));
    let answer = client.send(request.unwrap()).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    let json = answer.json();
    assert_eq!(
        json["@odata.context"],
        "https://api.securitycenter.microsoft.com/api/DeviceAuthenticatedScanDefinitions/GetScanHistoryByScanDefinitionId"
    );
    let rows = json["value"].as_array().unwrap();
    for id in [ID, OTHER] {
        assert!(rows.iter().filter(|row| row["scanDefinitionId"] == id).count() >= 2);
    }
    assert!(json.get("@odata.nextLink").is_none());

    let calls = ended(&sim, 1).await;
    let record = &calls[0];
    assert_eq!((record.region.as_str(), record.status), ("eu", Some(200)));
    assert_eq!(record.ids, [ID, OTHER]);
    assert_eq!(record.request_id.as_deref(), Some("r-1"));
    assert_eq!(record.token_id, sim.token_requests()[0].token_id);
    assert!(!record.headers.contains_key("authorization"));
    assert_eq!(sim.stop().await, 0);
}

#[tokio::test]
async fn the_versioned_path_answers_too_and_nothing_else_does() {
    let (sim, client) = (start(Config::instant()), Client::http1());
    let token = client.token(&sim).await;
    let send = async |method, path: &str| {
        let request = call_to(&sim, "us", &token, method, path).body(body(&[ID])).unwrap();
        client.send(request).await.unwrap()
    };
    let versioned = PATH.replace("/api/", "/api/v1.0/");
    assert_eq!(send(Method::POST, &versioned).await.status, StatusCode::OK);
    for path in ["/", "/api", "/api/v2.0/x", &PATH.to_lowercase(), &format!("{PATH}/")] {
        assert_eq!(send(Method::POST, path).await.code(), "NotFound", "{path}");
    }
    // A request that might have been a write counts as a violation.
    assert_eq!(sim.violations().len(), 4);
    let addition = send(Method::POST, "/api/DeviceAuthenticatedScanDefinitions").await;
    assert_eq!(
        (addition.status, addition.field("allow")),
        (StatusCode::METHOD_NOT_ALLOWED, Some("GET"))
    );
    let wrong = send(Method::GET, PATH).await;
    assert_eq!(
        (wrong.status, wrong.field("allow")),
        (StatusCode::METHOD_NOT_ALLOWED, Some("POST"))
    );
    assert_eq!(sim.violations().len(), 5);
}

#[tokio::test]
async fn the_sibling_that_deletes_is_a_tripwire() {
    let (sim, client) = (start(Config::instant()), Client::http1());
    let token = client.token(&sim).await;
    let path = "/api/DeviceAuthenticatedScanDefinitions/BatchDelete";
    let request = call_to(&sim, "us", &token, Method::POST, path)
        .body(body(&[ID]))
        .unwrap();
    assert_eq!(client.send(request).await.unwrap().status, StatusCode::NOT_FOUND);
    assert!(sim.violations()[0].what.contains("BatchDelete"));
}

#[tokio::test]
async fn private_fields_are_a_tripwire() {
    for name in ["cookie", "x-forwarded-for", "forwarded", "proxy-authorization"] {
        let (sim, client) = (start(Config::instant()), Client::http1());
        let token = client.token(&sim).await;
        client
            .send(call(&sim, "us", &token).header(name, "x").body(body(&[ID])).unwrap())
            .await
            .unwrap();
        assert!(sim.violations()[0].what.contains(name));
    }
}

#[tokio::test]
async fn top_and_skip_are_taken_as_documented() {
    let (sim, client) = (start(Config::instant()), Client::http1());
    let token = client.token(&sim).await;
    let all = query(&client, &sim, &token, "").await.json()["value"]
        .as_array()
        .unwrap()
        .clone();
    for (text, expected) in [
        ("?$top=1", &all[..1]),
        ("?%24top=2&%24skip=1", &all[1..3]),
        ("?$skip=0&$top=10000", &all[..]),
        ("?$skip=2147483647", &all[..0]),
        ("?", &all[..]),
    ] {
        let answer = query(&client, &sim, &token, text).await;
        assert_eq!(answer.json()["value"].as_array().unwrap(), expected, "{text}");
    }
    let record = sim.calls().into_iter().find(|call| call.top == Some(2)).unwrap();
    assert_eq!(
        (record.skip, record.query.as_deref()),
        (Some(1), Some("%24top=2&%24skip=1"))
    );
    for bad in [
        "$top=0",
        "$top=10001",
        "$top=-1",
        "$top=+1",
        "$top=",
        "$top",
        "$top=1.0",
        "$top=99999999999",
        "$skip=-1",
        "$skip=x",
        "$skip=2147483648",
        "$top=1&$top=1",
        "$filter=x",
        "$count=true",
        "top=1",
        "$Top=1",
        "$top=%201",
        "$top=1&",
    ] {
        let answer = query(&client, &sim, &token, &format!("?{bad}")).await;
        if bad == "$top=1&" {
            assert_eq!(answer.status, StatusCode::OK, "an empty piece is no option");
        } else {
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (StatusCode::BAD_REQUEST, "ODataError"),
                "{bad}"
            );
        }
    }
}

#[tokio::test]
async fn only_the_documented_body_is_taken() {
    let mut config = Config::instant();
    config.history.max_ids = Some(2);
    let (sim, client) = (start(config), Client::http1());
    let token = client.token(&sim).await;
    let long = format!("{{\"ScanDefinitionIds\":[\"{}\"]}}", "x".repeat(5 << 20));
    for (bytes, status, code) in [
        (r#"{"ScanDefinitionIds":["a","b"]}"#, 200, ""),
        (" {\"ScanDefinitionIds\" : []}", 400, "MissingRequiredParameter"),
        ("{}", 400, "MissingRequiredParameter"),
        ("", 400, "InvalidRequestBody"),
        ("[]", 400, "InvalidRequestBody"),
        (r#"[["a"]]"#, 400, "InvalidRequestBody"),
        (r#""a""#, 400, "InvalidRequestBody"),
        (r#"{"ScanDefinitionIds":"a"}"#, 400, "InvalidRequestBody"),
        (r#"{"ScanDefinitionIds":null}"#, 400, "InvalidRequestBody"),
        (r#"{"ScanDefinitionIds":[1]}"#, 400, "InvalidRequestBody"),
        (r#"{"ScanDefinitionIds":["a",null]}"#, 400, "InvalidRequestBody"),
        (r#"{"scanDefinitionIds":["a"]}"#, 400, "InvalidRequestBody"),
        (r#"{"ScanDefinitionIds":["a"],"x":1}"#, 400, "InvalidRequestBody"),
        (
            r#"{"ScanDefinitionIds":["a"],"ScanDefinitionIds":["b"]}"#,
            400,
            "InvalidRequestBody",
        ),
        (r#"{"ScanDefinitionIds":["a"]} x"#, 400, "InvalidRequestBody"),
        (r#"{"ScanDefinitionIds":["a"#, 400, "InvalidRequestBody"),
        (
            r#"{"ScanDefinitionIds":["a","b","c"]}"#,
            400,
            "MaximumBatchSizeExceeded",
        ),
        (&long, 413, "InvalidRequestBody"),
    ] {
        let request = call(&sim, "us", &token)
            .body(Bytes::copy_from_slice(bytes.as_bytes()))
            .unwrap();
        let answer = client.send(request).await.unwrap();
        let shown = &bytes[..bytes.len().min(60)];
        assert_eq!(answer.status.as_u16(), status, "{shown}: {answer:?}");
        if status != 200 {
            assert_eq!(answer.code(), code, "{shown}");
            assert_eq!(answer.json()["error"]["target"].as_str().unwrap().len(), 36, "{shown}");
        }
    }
}

#[tokio::test]
async fn only_json_is_taken() {
    let (sim, client) = (start(Config::instant()), Client::http1());
    let token = client.token(&sim).await;
    for (content_type, status) in [
        ("application/json", 200),
        ("Application/JSON; charset=UTF-8", 200),
        ("text/plain", 400),
        ("application/json; charset=latin1", 400),
        ("application/jsonx", 400),
    ] {
        let mut request = call(&sim, "us", &token).body(body(&[ID])).unwrap();
        request
            .headers_mut()
            .insert("content-type", content_type.parse().unwrap());
        assert_eq!(
            client.send(request).await.unwrap().status.as_u16(),
            status,
            "{content_type}"
        );
    }
    let mut request = call(&sim, "us", &token).body(body(&[ID])).unwrap();
    request.headers_mut().remove("content-type");
    assert_eq!(client.send(request).await.unwrap().code(), "InvalidRequestBody");
}

#[tokio::test]
async fn without_a_good_token_there_is_401() {
    let (sim, client) = (start(Config::instant()), Client::http1());
    let token = client.token(&sim).await;
    let other = start(Config {
        seed: 2,
        ..Config::instant()
    });
    let forged = client.token(&other).await;
    let values = [
        String::new(),
        token.clone(),
        format!("Basic {token}"),
        "Bearer ".into(),
        "Bearer x.y.z".into(),
        format!("Bearer {forged}"),
    ];
    for value in values {
        let mut request = call(&sim, "us", "").body(body(&[ID])).unwrap();
        request.headers_mut().insert("authorization", value.parse().unwrap());
        let answer = client.send(request).await.unwrap();
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (StatusCode::UNAUTHORIZED, "Unauthorized"),
            "{value}"
        );
        assert!(answer.field("www-authenticate").is_some());
    }
    let mut request = call(&sim, "us", &token).body(body(&[ID])).unwrap();
    request.headers_mut().remove("authorization");
    assert_eq!(client.send(request).await.unwrap().status, StatusCode::UNAUTHORIZED);
    let mut twice = call(&sim, "us", &token).body(body(&[ID])).unwrap();
    twice
        .headers_mut()
        .append("authorization", format!("Bearer {token}").parse().unwrap());
    assert_eq!(client.send(twice).await.unwrap().status, StatusCode::UNAUTHORIZED);
    assert_eq!(
        client.ask(&sim, "us", &token).await.unwrap().status,
        StatusCode::OK,
        "the token itself is good"
    );
}

#[tokio::test]
async fn an_expired_or_revoked_token_gets_401() {
    let config = Config {
        token_lifetime: Duration::from_secs(0),
        ..Config::instant()
    };
    let (sim, client) = (start(config), Client::http1());
    let token = client.token(&sim).await;
    let expired = client.ask(&sim, "us", &token).await.unwrap();
    assert_eq!(expired.status, StatusCode::UNAUTHORIZED);
    assert!(expired.json()["error"]["message"].as_str().unwrap().contains("expired"));

    sim.set_token_lifetime(Duration::from_hours(1), None);
    let token = client.token(&sim).await;
    assert_eq!(client.ask(&sim, "us", &token).await.unwrap().status, StatusCode::OK);
    sim.revoke_tokens().await;
    let revoked = client.ask(&sim, "us", &token).await.unwrap();
    assert!(revoked.json()["error"]["message"].as_str().unwrap().contains("revoked"));
    let token = client.token(&sim).await;
    assert_eq!(client.ask(&sim, "us", &token).await.unwrap().status, StatusCode::OK);
}

#[tokio::test]
async fn a_token_without_the_role_or_for_another_audience_gets_403() {
    let (sim, client) = (start(Config::instant()), Client::http1());
    sim.set_roles(&["Alert.Read.All"]);
    let answer = client.ask(&sim, "us", &client.token(&sim).await).await.unwrap();
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (StatusCode::FORBIDDEN, "Forbidden")
    );
    let message = answer.json()["error"]["message"].to_string();
    assert!(
        message.contains("Machine.Read.All") && message.contains("Alert.Read.All"),
        "{message}"
    );

    sim.set_roles(&[]);
    assert_eq!(
        client.ask(&sim, "us", &client.token(&sim).await).await.unwrap().status,
        StatusCode::FORBIDDEN
    );
    sim.set_roles(&["Machine.ReadWrite.All"]);
    assert_eq!(
        client.ask(&sim, "us", &client.token(&sim).await).await.unwrap().status,
        StatusCode::OK
    );
    let audience = Some("https://api.security.microsoft.com".to_owned());
    sim.change(|config| config.sign_in.audience = audience);
    assert_eq!(
        client.ask(&sim, "us", &client.token(&sim).await).await.unwrap().status,
        StatusCode::FORBIDDEN
    );
}

#[tokio::test]
async fn an_unknown_id_can_fail_the_call() {
    let mut config = Config::instant();
    config.history.unknown = Unknown::NotFound;
    let (sim, client) = (start(config), Client::http1());
    let token = client.token(&sim).await;
    let request = call(&sim, "us", &token).body(body(&[ID, "nobody"])).unwrap();
    let answer = client.send(request).await.unwrap();
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (StatusCode::NOT_FOUND, "ResourceNotFound")
    );
}

#[tokio::test]
async fn a_cut_off_answer_links_to_its_rest_on_the_host_that_was_asked() {
    let config = Config {
        history: History {
            page_size: 2,
            ..History::default()
        },
        ..Config::instant()
    };
    let (sim, client) = (start(config), Client::http1());
    let token = client.token(&sim).await;
    let mut answer = query(&client, &sim, &token, "").await.json();
    let mut rows = 0;
    loop {
        rows += answer["value"].as_array().unwrap().len();
        let Some(link) = answer["@odata.nextLink"].as_str() else {
            break;
        };
        assert!(link.starts_with(sim.region("eu").unwrap().as_str()), "{link}");
        let target = link.split_once(PATH).unwrap().1.to_owned();
        answer = query(&client, &sim, &token, &target).await.json();
    }
    let whole = start(Config::instant());
    let token = client.token(&whole).await;
    assert_eq!(
        rows,
        query(&client, &whole, &token, "").await.json()["value"]
            .as_array()
            .unwrap()
            .len()
    );
}
