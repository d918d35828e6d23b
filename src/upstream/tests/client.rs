//! One call: what is sent, what comes back, and what each failure says.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Response};
use http_body_util::Full;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tower::ServiceExt as _;
use url::Url;

use super::caller;
use crate::attempt::{Authorized, Charged, Delivery, Failure, Retries, RetryHint, Routed, StallTimeout};
use crate::memory::Shares;
use crate::net::testing::{Http, Names, client, listen, quick, refused};
use crate::scan::{Endpoint, Request, UpstreamResponse};
use crate::secret::Secret;
use crate::upstream::{Client, Config, Error, Metrics, Reason};

pub(super) fn signed(base: &str, endpoint: Endpoint, query: Option<&str>) -> Authorized {
    let body = br#"{"ScanDefinitionIds":["B\"","a","a"]}"#;
    Authorized {
        routed: Routed {
            charged: Charged {
                request: Arc::new(Request::parse(endpoint, query, body).unwrap()),
                caller: caller(Duration::from_secs(30)),
                retries: Retries::default(),
                trace: crate::telemetry::trace::Call::None,
            },
            base: Arc::new(base.parse().unwrap()),
            stall_timeout: StallTimeout::default(),
        },
        bearer: Secret::new("t0ken".into()),
    }
}

/// A call to the host `eu.test`, which is at `address`; and what the metrics then show.
async fn call(address: std::net::SocketAddr, signed: Authorized) -> (Result<UpstreamResponse, Failure>, String) {
    // Longer than any test machine stands still.
    call_within(Duration::from_secs(30), address, signed).await
}

async fn call_within(
    timeout: Duration,
    address: std::net::SocketAddr,
    signed: Authorized,
) -> (Result<UpstreamResponse, Failure>, String) {
    let names = Names::new([("eu.test", address)]);
    let mut registry = Registry::default();
    let regions = [(Arc::new("http://eu.test".parse::<Url>().unwrap()), Arc::from("eu"))];
    let metrics = Metrics::register(&mut registry).of_regions(regions);
    let config = Config {
        max_answer_bytes: 1000,
        ..Config::new(timeout)
    };
    let result = Client::new(
        client(&quick(), &names),
        config,
        Shares::of(64 << 20, None).answers(),
        metrics,
    )
    .oneshot(signed)
    .await;
    let mut shown = String::new();
    prometheus_client::encoding::text::encode(&mut shown, &registry).unwrap();
    (result, shown)
}

fn answering(answer: impl Fn() -> http::response::Builder + Send + Sync + 'static) -> Http {
    Http::new(move |_| answer().body(Full::from("{}")).unwrap())
}

#[tokio::test]
async fn the_fixed_path_the_canonical_body_and_only_our_fields_are_sent() {
    type Seen = (Method, String, HeaderMap);
    let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
    let see = Arc::clone(&seen);
    let host = Http::new(move |request| {
        let seen = (
            request.method().clone(),
            request.uri().to_string(),
            request.headers().clone(),
        );
        see.lock().unwrap().push(seen);
        Response::new(Full::default())
    });
    let address = host.start().await;
    call(address, signed("http://eu.test", Endpoint::HISTORY, None))
        .await
        .0
        .unwrap();
    // A base address with a path and a query cannot change the path.
    let base = "http://eu.test/api/DeviceAuthenticatedScanDefinitions/BatchDelete?x=1#y";
    call(address, signed(base, Endpoint::HISTORY_V1, Some("$skip=3&$top=2")))
        .await
        .0
        .unwrap();
    let seen = seen.lock().unwrap();
    let operation = "DeviceAuthenticatedScanDefinitions/GetScanHistoryByScanDefinitionId";
    assert_eq!(seen[0].1, format!("/api/{operation}"));
    assert!(
        seen[1].1.starts_with(&format!("/api/v1.0/{operation}?")),
        "{}",
        seen[1].1
    );
    assert!(
        seen[1].1.contains("$top=2") && seen[1].1.contains("$skip=3"),
        "{}",
        seen[1].1
    );
    let (method, _, headers) = &seen[0];
    assert_eq!(method, Method::POST);
    let mut sent: Vec<_> = headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    sent.sort();
    assert_eq!(
        sent,
        [
            "accept-encoding: identity",
            "accept: application/json",
            "authorization: Bearer t0ken",
            "content-length: 33",
            "content-type: application/json",
            "host: eu.test",
            concat!("user-agent: defender-gateway/", env!("CARGO_PKG_VERSION")),
            "x-request-id: id-1",
        ]
    );
}

#[tokio::test]
async fn the_body_is_canonical_json() {
    let (tell, told) = tokio::sync::oneshot::channel();
    let tell = Mutex::new(Some(tell));
    let address = listen(move |mut stream| {
        let tell = tell.lock().unwrap().take();
        async move {
            let mut text = Vec::new();
            while !text.ends_with(b"]}") {
                text.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            tell.unwrap().send(String::from_utf8(text).unwrap()).unwrap();
        }
    });
    call(address.await, signed("http://eu.test", Endpoint::HISTORY, None))
        .await
        .0
        .unwrap();
    let sent = told.await.unwrap();
    assert!(
        sent.ends_with("\r\n\r\n{\"ScanDefinitionIds\":[\"B\\\"\",\"a\"]}"),
        "{sent}"
    );
}

#[tokio::test]
async fn every_status_but_a_redirect_is_an_answer_with_its_body_and_the_allowed_fields() {
    for status in [200, 400, 401, 403, 404, 429, 500, 503] {
        let body = match status {
            200 => r#"{"value":[]}"#,
            400..=404 => r#"{"error":{}}"#,
            _ => "{}",
        };
        let host = Http::new(move |_| {
            let head = Response::builder().status(status).header("set-cookie", "a=b");
            head.header("retry-after", "7").body(Full::from(body)).unwrap()
        });
        let (answer, shown) = call(host.start().await, signed("http://eu.test", Endpoint::HISTORY, None)).await;
        let answer = answer.unwrap();
        assert_eq!((answer.status.as_u16(), &answer.body), (status, &Bytes::from(body)));
        assert_eq!(answer.headers.get("retry-after").unwrap(), "7");
        assert!(answer.headers.get("set-cookie").is_none());
        let line = format!(
            "upstream_calls_total{{region=\"eu\",operation=\"history_by_definition\",status=\"{status}\"}} 1\n"
        );
        assert!(shown.contains(&line), "{shown}");
        assert!(
            shown.contains("upstream_duration_seconds_count{region=\"eu\"} 1\n"),
            "{shown}"
        );
    }
}

#[tokio::test]
async fn a_page_is_counted_as_no_answer_of_defenders() {
    for status in [200, 204, 401, 403, 404] {
        let host = Http::new(move |_| {
            let head = Response::builder().status(status).header("content-type", "text/html");
            head.body(Full::from("<html>Sign in to the network</html>")).unwrap()
        });
        let (answer, shown) = call(host.start().await, signed("http://eu.test", Endpoint::HISTORY, None)).await;
        // What becomes of it is decided where other hosts are known.
        assert_eq!(answer.unwrap().status, status);
        assert!(
            shown.contains("status=\"http_protocol_error\"} 1\n"),
            "{status}: {shown}"
        );
        assert!(!shown.contains(&format!("status=\"{status}\"")), "{shown}");
    }
}

#[tokio::test]
async fn redirects_are_errors_that_another_region_may_mend_and_encodings_are_not() {
    let redirect = answering(|| Response::builder().status(307).header("location", "http://evil.test/"));
    let encoded = answering(|| Response::builder().header("content-encoding", "gzip"));
    for (host, token, again) in [
        (redirect, "http_protocol_error", RetryHint::Once),
        (encoded, "http_response_content_coding", RetryHint::Never),
    ] {
        let (result, shown) = call(host.start().await, signed("http://eu.test", Endpoint::HISTORY, None)).await;
        let failure = result.unwrap_err();
        assert_eq!((failure.delivery, failure.again), (Delivery::Answered, again));
        let error = failure.source.downcast_ref::<Error>().unwrap();
        assert_eq!(
            (error.proxy_status(), error.host(), error.is_timeout()),
            (token, "eu.test", false)
        );
        assert!(shown.contains(&format!("status=\"{token}\"}} 1")), "{shown}");
        assert_eq!(host.requests(), 1);
    }
    let fine = answering(|| Response::builder().header("content-encoding", "identity"));
    assert!(
        call(fine.start().await, signed("http://eu.test", Endpoint::HISTORY, None))
            .await
            .0
            .is_ok()
    );
}

/// The quota has to see the 429 and its wait, and the token source the 401.
#[tokio::test]
async fn a_429_and_a_401_are_answers_even_when_their_bodies_cannot_be_read() {
    for (status, rest, then_silent) in [
        (429, "content-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}", true),
        (401, "content-encoding: br\r\ncontent-length: 2\r\n\r\n{}", true),
        (429, "content-length: 100\r\n\r\n{", false),
        (401, "content-length: 100\r\n\r\n{", false),
        (429, "content-length: 100\r\n\r\n{", true),
        (429, "content-length: 100000\r\n\r\n{", true),
    ] {
        let text = format!("HTTP/1.1 {status} No\r\nretry-after: 7\r\n{rest}");
        let address = listen(move |mut stream| {
            let text = text.clone();
            async move {
                let _ = stream.read(&mut [0; 1024]).await;
                stream.write_all(text.as_bytes()).await.unwrap();
                if then_silent {
                    std::future::pending::<()>().await;
                }
            }
        });
        let (result, shown) = call(address.await, signed("http://eu.test", Endpoint::HISTORY, None)).await;
        let answer = result.expect(rest);
        assert_eq!((answer.status.as_u16(), answer.body.len()), (status, 0), "{rest}");
        assert_eq!(answer.headers.get("retry-after").unwrap(), "7");
        assert!(shown.contains(&format!("status=\"{status}\"}} 1")), "{shown}");
    }
}

#[tokio::test]
async fn a_status_that_means_nothing_here_is_no_answer() {
    for text in [
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: evil\r\n\r\n",
        "HTTP/1.1 999 Who Knows\r\ncontent-length: 0\r\n\r\n",
    ] {
        let address = listen(move |mut stream| async move {
            let _ = stream.read(&mut [0; 1024]).await;
            stream.write_all(text.as_bytes()).await.unwrap();
            std::future::pending::<()>().await;
        });
        let (result, _) = call(address.await, signed("http://eu.test", Endpoint::HISTORY, None)).await;
        let failure = result.expect_err(text);
        assert_eq!(failure.again, RetryHint::Once, "{text}");
        assert_ne!(failure.delivery, Delivery::NotSent, "{text}");
    }
}

#[tokio::test]
async fn an_encoding_cannot_hide_behind_another() {
    for (values, shown) in [
        (&["identity, gzip"][..], "(identity, gzip)"),
        (&["identity", "gzip"], "(identity gzip)"),
        (&["br"], "(br)"),
        (&["gzip, identity"], "(gzip, identity)"),
        (&["a\"<b\u{e4}>"], "(ab)"),
        (
            &["0123456789012345678901234567890123456789 and so on"],
            "(0123456789012345678901234567890123456789)",
        ),
    ] {
        let host = answering(|| {
            let answer = Response::builder();
            values
                .iter()
                .fold(answer, |answer, value| answer.header("content-encoding", *value))
        });
        let (result, _) = call(host.start().await, signed("http://eu.test", Endpoint::HISTORY, None)).await;
        let failure = result.expect_err(values[0]);
        let error = failure.source.downcast_ref::<Error>().unwrap();
        assert!(matches!(error.reason(), Reason::Encoded { .. }), "{error:?}");
        assert!(error.reason().to_string().contains(shown), "{error:?}");
    }
}

#[tokio::test]
async fn each_failure_says_its_delivery_and_whether_another_attempt_is_worth_it() {
    let silent = listen(|stream| async move {
        let _held = stream;
        std::future::pending::<()>().await;
    });
    let closing = listen(|mut stream| async move {
        let _ = stream.read(&mut [0; 1024]).await;
    });
    let long = Http::new(|_| Response::new(Full::from(vec![b'x'; 2000])));
    let cases = [
        (refused().await, Delivery::NotSent, RetryHint::Never, false),
        (silent.await, Delivery::Unknown, RetryHint::OtherHost, true),
        (closing.await, Delivery::Unknown, RetryHint::Once, false),
        (long.start().await, Delivery::Answered, RetryHint::Never, false),
    ];
    for (address, delivery, again, timeout) in cases {
        let limit = Duration::from_secs(if timeout { 1 } else { 30 });
        let (result, _) = call_within(limit, address, signed("http://eu.test", Endpoint::HISTORY, None)).await;
        let failure = result.unwrap_err();
        assert_eq!((failure.delivery, failure.again), (delivery, again), "{failure:?}");
        let error = failure.source.downcast_ref::<Error>().unwrap();
        assert_eq!(error.is_timeout(), timeout);
        let is_unprocessed = matches!(error.reason(), Reason::Exchange(error) if error.is_unprocessed());
        assert_eq!(is_unprocessed, delivery == Delivery::NotSent);
    }
}

#[tokio::test]
async fn a_token_that_cannot_be_sent_is_our_fault_and_not_shown() {
    let mut signed = signed("http://eu.test", Endpoint::HISTORY, None);
    signed.bearer = Secret::new("bad\r\ntoken".into());
    let (result, _) = call(refused().await, signed).await;
    let failure = result.unwrap_err();
    assert_eq!(failure.delivery, Delivery::NotSent);
    assert!(matches!(
        failure.source.downcast_ref::<Error>().unwrap().reason(),
        Reason::Unbuildable
    ));
    assert!(!format!("{failure:?}").contains("token"));
}
