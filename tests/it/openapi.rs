//! Real answers are as the description says: status, error code, fields.

use std::collections::BTreeSet;

use bytes::Bytes;
use defender_gateway::testing::sim::{Fault, Often, Plan, Shape};
use http::{Method, StatusCode};
use serde_json::Value;

use crate::support::{Answer, Controls, PATH, Setup, body, id};

/// Fields of HTTP itself, which are not described.
const OF_HTTP: [&str; 4] = ["content-type", "content-length", "date", "connection"];

/// Status, target, fields, body.
type Case<'a> = (u16, &'a str, Vec<(&'a str, &'a str)>, Bytes);

struct Description(Value);

impl Description {
    /// What is said about an answer to this method with this status.
    fn of(&self, method: &str, status: StatusCode) -> Option<&Value> {
        let responses = &self.0["paths"][PATH][method]["responses"];
        let said = responses.get(status.as_str())?;
        match said["$ref"].as_str() {
            Some(reference) => self.0.pointer(reference.trim_start_matches('#')),
            None => Some(said),
        }
    }

    /// # Panics
    /// The answer is not as described.
    fn check(&self, method: &str, answer: &Answer) {
        let said = self
            .of(method, answer.status)
            .unwrap_or_else(|| panic!("not described: {answer:?}"));
        check_fields(said, answer);
        if answer.status == StatusCode::NO_CONTENT {
            return;
        }
        let content_type = answer.field("content-type").split(';').next().unwrap();
        let schema = &said["content"][content_type]["schema"];
        assert!(schema.is_object(), "{content_type} is not described: {answer:?}");
        if content_type != "application/problem+json" {
            return;
        }
        let codes = schema["properties"]["error"]["properties"]["code"]["enum"]
            .as_array()
            .unwrap();
        assert!(codes.contains(&answer.error_code().into()), "{codes:?}: {answer:?}");
    }
}

fn check_fields(said: &Value, answer: &Answer) {
    let known: BTreeSet<_> = said["headers"]
        .as_object()
        .unwrap()
        .keys()
        .map(|name| name.to_lowercase())
        .collect();
    for name in answer.headers.keys().map(http::HeaderName::as_str) {
        let is_known = known.contains(name) || OF_HTTP.contains(&name) || name.starts_with("x-ms-");
        assert!(is_known, "{name} is not described: {answer:?}");
    }
}

#[tokio::test]
async fn answers_are_as_described() {
    let running = Setup::new()
        .limits(Shape::SlidingLog, &["2/1m", "1500/1h"])
        .start()
        .await;
    let described = running.admin.fetch("/openapi.json").await.json();
    assert_eq!(described["info"]["version"], env!("CARGO_PKG_VERSION"));
    let described = Description(described);
    let caller = &running.caller;
    let good = body(&[id(1)]);
    let json = ("content-type", "application/json");
    let bad_option = format!("{PATH}?$top=0");
    let cases: Vec<Case<'_>> = vec![
        (200, PATH, vec![json, ("prefer", "wait=5")], good.clone()),
        (200, PATH, vec![json], good.clone()),
        (400, PATH, vec![json], "{".into()),
        (400, &bad_option, vec![json], good.clone()),
        (403, PATH, vec![json, ("sec-fetch-site", "cross-site")], good.clone()),
        (413, PATH, vec![json], vec![b' '; 2 << 20].into()),
        (415, PATH, vec![("content-type", "text/plain")], good.clone()),
        (415, PATH, vec![json, ("content-encoding", "gzip")], good.clone()),
        (421, PATH, vec![json, ("host", "elsewhere.example")], good.clone()),
        (
            504,
            PATH,
            vec![json, ("cache-control", "only-if-cached")],
            body(&[id(2)]),
        ),
    ];
    for (status, target, fields, body) in cases {
        let mut request = caller.request(Method::POST, target);
        for (name, value) in &fields {
            request = request.header(*name, *value);
        }
        let answer = caller.send(request.body(body).unwrap()).await;
        assert_eq!(answer.status.as_u16(), status, "{fields:?}: {answer:?}");
        described.check("post", &answer);
    }
    let options = caller
        .send(caller.request(Method::OPTIONS, PATH).body(Bytes::new()).unwrap())
        .await;
    assert_eq!(options.status, StatusCode::NO_CONTENT);
    described.check("options", &options);

    // The second call of the minute is Defender's own error; then nothing is left.
    running
        .simulator
        .set_faults("eu", &Plan::of(Fault::Status(StatusCode::FORBIDDEN), Often::Times(1)))
        .unwrap();
    let theirs = caller.ask(&[id(3)]).await;
    assert!(theirs.status.is_client_error() && theirs.field("content-type") != "application/problem+json");
    described.check("post", &theirs);
    let refused = caller.ask_with(&[id(4)], &[("prefer", "wait=0")]).await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    described.check("post", &refused);
    running.finish().await;
}
