use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt as _;
use prometheus_client::metrics::counter::Counter;
use tower::{Layer as _, ServiceExt as _, service_fn};

use crate::BoxError;
use crate::attempt::{Delivery, Failure, RetryHint};
use crate::caller::RequestId;
use crate::memory::MemoryBudget;
use crate::response;
use crate::response::{Config, Ended, Layer, Outcome, Reply, RequestError, RequestInfo, Window, Windows};
use crate::scan::{self, Endpoint, Operation, ServedResponse, Status, TokenOwner, UpstreamResponse};

pub(super) const ID: &str = "test-1";

pub(super) fn config() -> Config {
    Config {
        upstream_hosts: vec!["api-eu.example".into()],
        rate_limit: Arc::new(|_, show| {
            let window = Window {
                name: "1m".into(),
                quota: 100,
                window_s: 60,
                remaining: 37,
                reset_s: 12,
                spread: None,
            };
            show(&Windows::new(vec![window], None));
        }),
        panics: Counter::default(),
        exhausted: Counter::default(),
        token_owner: TokenOwner::Gateway,
        vary: None,
        large_answers: None,
    }
}

pub(super) fn upstream_answer(status: u16, body: &'static str) -> UpstreamResponse {
    let mut headers = HeaderMap::new();
    headers.insert(
        "content-type",
        HeaderValue::from_static("application/json; odata.metadata=minimal"),
    );
    headers.insert("content-length", HeaderValue::from_static("999"));
    UpstreamResponse {
        status: StatusCode::from_u16(status).unwrap(),
        headers: headers.into(),
        body: Bytes::from_static(body.as_bytes()),
    }
}

pub(super) fn hit(body: &'static str) -> ServedResponse {
    ServedResponse {
        may_link: true,
        answer: upstream_answer(200, body),
        outcome: scan::Outcome::Hit,
        status: Status {
            ttl: Some(21),
            ..Status::default()
        },
        age: Some(Duration::from_millis(9_900)),
    }
}

pub(super) struct ResponsePreferences(pub(super) Request<()>);

impl RequestInfo for ResponsePreferences {
    fn id(&self) -> RequestId {
        RequestId::from_caller(ID).unwrap()
    }

    fn uri(&self) -> &Uri {
        self.0.uri()
    }

    fn endpoint(&self) -> Option<Endpoint> {
        None
    }

    fn headers(&self) -> &HeaderMap {
        self.0.headers()
    }

    fn host(&self) -> Option<HeaderValue> {
        self.headers().get(http::header::HOST).cloned()
    }

    fn peer(&self) -> Option<IpAddr> {
        Some(IpAddr::from([10, 0, 0, 7]))
    }
}

pub(super) async fn answer(
    make: impl Fn() -> Result<Reply, BoxError> + Clone + Send + 'static,
) -> (Response<()>, Bytes) {
    let (answer, body, _) = ending(make).await;
    (answer, body)
}

async fn ending(
    make: impl Fn() -> Result<Reply, BoxError> + Clone + Send + 'static,
) -> (Response<()>, Bytes, Option<Ended>) {
    let inner = service_fn(move |_: ResponsePreferences| std::future::ready(make()));
    let request = Request::post("/api/x")
        .header("host", "gw.local:8080")
        .body(())
        .unwrap();
    let request = ResponsePreferences(request);
    let answer = Layer::new([config()]).layer(inner).oneshot(request).await.unwrap();
    let (head, body) = answer.response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (Response::from_parts(head, ()), body, answer.ended)
}

fn asked_to_wait(wait: Duration) -> response::ResponsePreferences {
    response::ResponsePreferences {
        wait: Some(wait),
        ..<_>::default()
    }
}

#[tokio::test]
async fn a_304_is_counted_by_the_outcome_of_its_answer() {
    let (answer, body, ended) = ending(|| {
        let asked = response::ResponsePreferences {
            tag: response::Tag::Unless("*".into()),
            ..<_>::default()
        };
        Ok(Reply::Served(Box::new(hit("{}")), asked))
    })
    .await;
    assert_eq!((answer.status(), body.len()), (StatusCode::NOT_MODIFIED, 0));
    let ended = ended.unwrap();
    assert_eq!(
        (ended.outcome, ended.cause),
        (Outcome::Served(scan::Outcome::Hit), None)
    );
}

pub(super) fn field<'a>(answer: &'a Response<()>, name: &str) -> &'a str {
    answer.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn a_hit_keeps_the_upstreams_answer_and_says_where_it_came_from() {
    let (answer, body, ended) = ending(|| {
        Ok(Reply::Served(
            Box::new(hit("{ \"value\" : [] }")),
            asked_to_wait(Duration::from_secs(20)),
        ))
    })
    .await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(body, "{ \"value\" : [] }");
    assert_eq!(
        field(&answer, "content-type"),
        "application/json; odata.metadata=minimal"
    );
    assert_eq!(field(&answer, "cache-status"), "defender-gateway; hit; ttl=21");
    assert_eq!(field(&answer, "age"), "9");
    assert_eq!(field(&answer, "ratelimit-policy"), "\"1m\";q=100;w=60");
    assert_eq!(field(&answer, "ratelimit"), "\"1m\";r=37;t=12");
    assert_eq!(field(&answer, "preference-applied"), "wait=20");
    assert!(!answer.headers().contains_key("content-length"));
    assert!(!answer.headers().contains_key("proxy-status"));
    let ended = ended.unwrap();
    assert_eq!(ended.outcome.as_str(), "hit");
}

#[tokio::test]
async fn a_link_leads_back_to_the_address_the_caller_used() {
    let body = r#"{"@odata.nextLink":"https://api-eu.example/api/x?$skip=1"}"#;
    let (_, body) = answer(move || {
        Ok(Reply::Served(
            Box::new(hit(body)),
            response::ResponsePreferences::default(),
        ))
    })
    .await;
    assert_eq!(body, r#"{"@odata.nextLink":"http://gw.local:8080/api/x?$skip=1"}"#);
}

#[tokio::test]
async fn a_problem_has_both_formats() {
    let (answer, body, ended) = ending(|| Err(RequestError::Path.into())).await;
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    assert_eq!(field(&answer, "content-type"), "application/problem+json");
    assert_eq!(
        field(&answer, "proxy-status"),
        "defender-gateway; error=http_request_error"
    );
    assert!(!answer.headers().contains_key("ratelimit"));
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let detail = RequestError::Path.to_string();
    assert!(detail.contains("/api/") && detail.contains("/readyz"), "{detail}");
    let expected = serde_json::json!({
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": detail,
        "instance": "/requests/test-1",
        "error": {"code": "NotFound", "message": detail, "target": "test-1"},
    });
    assert_eq!(body, expected);
    let ended = ended.unwrap();
    assert_eq!(ended.outcome, Outcome::Invalid);
    assert_eq!(ended.cause.as_deref(), Some(&*format!("NotFound: {detail}")));
}

#[tokio::test]
async fn a_busy_gateway_says_when_to_come_back() {
    let (answer, _) = answer(|| Err(RequestError::Busy.into())).await;
    assert_eq!(field(&answer, "retry-after"), "1");
    assert_eq!(field(&answer, "ratelimit"), "\"1m\";r=37;t=12");
}

#[tokio::test]
async fn the_upstreams_own_error_passes_through() {
    let make = || -> Result<Reply, BoxError> {
        Err(Failure {
            delivery: Delivery::Answered,
            again: RetryHint::Never,
            answer: Some(upstream_answer(403, "{\"error\":{\"code\":\"Forbidden\"}}")),
            source: "forbidden".into(),
        }
        .into())
    };
    let (answer, body, ended) = ending(make).await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert_eq!(body, "{\"error\":{\"code\":\"Forbidden\"}}");
    assert_eq!(
        field(&answer, "content-type"),
        "application/json; odata.metadata=minimal"
    );
    assert_eq!(field(&answer, "proxy-status"), "defender-gateway; received-status=403");
    assert_eq!(
        field(&answer, "cache-status"),
        "defender-gateway; fwd=miss; fwd-status=403"
    );
    let ended = ended.unwrap();
    assert_eq!(ended.outcome.as_str(), "failed");
}

#[tokio::test]
async fn options_names_methods_and_format() {
    for (operation, allow, query) in [
        (
            Some(Operation::HistoryByDefinition),
            "OPTIONS, POST, QUERY",
            "\"application/json\"",
        ),
        (
            Some(Operation::HistoryBySession),
            "OPTIONS, POST, QUERY",
            "\"application/json\"",
        ),
        (Some(Operation::Agent), "GET, OPTIONS", ""),
        (None, "GET, OPTIONS, POST, QUERY", "\"application/json\""),
    ] {
        let (answer, body, ended) = ending(move || Ok(Reply::Options(operation))).await;
        assert_eq!(answer.status(), StatusCode::NO_CONTENT);
        assert_eq!(field(&answer, "allow"), allow);
        assert_eq!(field(&answer, "accept-query"), query);
        assert!(body.is_empty());
        assert_eq!(ended, None);
    }
}

/// A body whose links were rewritten, or that was joined from fragments, exists for one caller
/// only.
#[tokio::test]
async fn a_large_answer_made_for_one_caller_takes_memory_until_it_is_taken() {
    let memory = MemoryBudget::new(100_000);
    let config = Config {
        token_owner: TokenOwner::Gateway,
        large_answers: Some(Arc::clone(&memory)),
        ..config()
    };
    let ask = async |body: Bytes| {
        let body = std::sync::Mutex::new(Some(body));
        let reply = |_: ResponsePreferences| {
            let served = ServedResponse {
                answer: UpstreamResponse {
                    body: body.lock().unwrap().take().unwrap(),
                    ..upstream_answer(200, "")
                },
                ..hit("")
            };
            std::future::ready(Ok::<_, BoxError>(Reply::Served(
                Box::new(served),
                response::ResponsePreferences::default(),
            )))
        };
        let request = ResponsePreferences(Request::post("/api/x").header("host", "localhost").body(()).unwrap());
        let answered = Layer::new([config.clone()])
            .layer(service_fn(reply))
            .oneshot(request)
            .await;
        answered.unwrap().response
    };
    let private = || Bytes::from(vec![b' '; 70_000]);
    // A body that others share is counted elsewhere, as is one with a reservation.
    let shared = private();
    let paid = memory.try_reserve(30_000).unwrap().hold(private());
    for body in [shared.clone(), paid] {
        let answer = ask(body).await;
        assert_eq!((answer.status(), memory.left() >= 70_000), (StatusCode::OK, true));
    }
    let first = ask(private()).await;
    assert_eq!((first.status(), memory.left()), (StatusCode::OK, 30_000));
    let second = ask(private()).await;
    assert_eq!(second.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(second.headers()["retry-after"], "1");
    drop(first);
    assert_eq!(ask(private()).await.status(), StatusCode::OK);
}

/// The link in an answer to a request with these fields, with these trusted proxies.
async fn link_for(fields: &[(&str, &str)], trusted: &[&str]) -> String {
    let body = r#"{"@odata.nextLink":"https://api.securitycenter.windows.com/api/x?$skip=1"}"#;
    let inner = service_fn(move |_: ResponsePreferences| {
        std::future::ready(Ok::<_, BoxError>(Reply::Served(
            Box::new(hit(body)),
            response::ResponsePreferences::default(),
        )))
    });
    let mut request = Request::post("/api/x").header("host", "gw.example");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let layer = Layer::new([config()]).trusting(trusted.iter().map(|network| network.parse().unwrap()));
    let asked = ResponsePreferences(request.body(()).unwrap());
    let answer = layer.layer(inner).oneshot(asked).await.unwrap();
    let body = answer.response.into_body().collect().await.unwrap().to_bytes();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    body["@odata.nextLink"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn links_begin_as_a_trusted_proxy_says_that_the_caller_came() {
    let (http, https) = ("http://gw.example/api/x?$skip=1", "https://gw.example/api/x?$skip=1");
    let fields = [("x-forwarded-proto", "https")];
    let standard = [
        ("forwarded", "for=192.0.2.1;proto=https"),
        ("x-forwarded-proto", "http"),
    ];
    for trusted in ["10.0.0.7", "10.0.0.0/8"] {
        assert_eq!(link_for(&fields, &[trusted]).await, https);
        assert_eq!(link_for(&standard, &[trusted]).await, https);
        assert_eq!(link_for(&[("x-forwarded-proto", "gopher")], &[trusted]).await, http);
        assert_eq!(link_for(&[], &[trusted]).await, http);
    }
    for (fields, host) in [
        (
            &[("x-forwarded-host", "scans.example:8443, inner.example")][..],
            "scans.example:8443",
        ),
        (
            &[("forwarded", "for=192.0.2.1;host=\"scans.example\"")],
            "scans.example",
        ),
        (&[("x-forwarded-host", "user@scans.example")], "gw.example"),
        (&[("x-forwarded-host", "scans.example/\"x")], "gw.example"),
        (&[("x-forwarded-host", "")], "gw.example"),
    ] {
        let link = format!("http://{host}/api/x?$skip=1");
        assert_eq!(link_for(fields, &["10.0.0.7"]).await, link, "{fields:?}");
        assert_eq!(link_for(fields, &[]).await, http, "{fields:?}");
    }
    assert_eq!(link_for(&fields, &[]).await, http, "anybody can say that");
    assert_eq!(link_for(&fields, &["192.0.2.0/24"]).await, http);
}
