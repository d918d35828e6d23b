//! Traces: what a collector gets, what the upstream is told, and what happens when there is no
//! collector.

mod collector;

use std::collections::HashSet;

use bytes::Bytes;
use http::{Method, StatusCode};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;

use collector::{Collector, Manner, attributes, hex, is_attempt, is_call, is_request};
use defender_gateway::testing::scan::{Endpoint, Operation};
use defender_gateway::testing::sim::{self, ExposeSecret as _, Fault, Often, Plan, Shape};

use crate::support::{Controls, Running, Setup, id, until, within};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{PARENT}-{flags}")
}

fn setup(collector: &Collector) -> Setup {
    Setup::new().set("telemetry.otlp_endpoint", &collector.url())
}

/// What the upstream was told with its latest call.
fn told(running: &Running, field: &str) -> Option<String> {
    let calls = running.simulator.calls();
    let field = calls.last()?.headers.get(field)?;
    Some(field.to_str().unwrap().to_owned())
}

/// The value of a counter, from the admin listener.
async fn spans(running: &Running, result: &str) -> u64 {
    let text = running.admin.fetch("/metrics").await.text().to_owned();
    let start = format!("defender_gateway_trace_spans_total{{result=\"{result}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&start));
    line.unwrap_or_else(|| panic!("{text}")).parse().unwrap()
}

fn only(spans: &[Span], wanted: impl Fn(&Span) -> bool) -> Span {
    let found: Vec<_> = spans.iter().filter(|span| wanted(span)).collect();
    assert_eq!(found.len(), 1, "{found:#?}");
    found[0].clone()
}

#[tokio::test]
async fn a_request_its_call_and_its_attempt_are_spans_of_the_callers_trace() {
    let collector = Collector::start(Manner::Polite).await;
    let running = setup(&collector)
        .variable("OTEL_SERVICE_NAME", "scans")
        .variable(
            "OTEL_RESOURCE_ATTRIBUTES",
            "deployment.environment.name=test%20bed,service.name=no",
        )
        .variable("OTEL_EXPORTER_OTLP_HEADERS", "api-key=s3cr%3Dt")
        .start()
        .await;
    let fields = [
        ("traceparent", &*traceparent("01")),
        ("tracestate", "congo=t61rcWkgMzE"),
    ];
    let answer = running.caller.ask_with(&[id(1)], &fields).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(running.caller.ask_with(&[id(1)], &fields).await.status, StatusCode::OK);
    let sent = told(&running, "traceparent").unwrap();
    assert_eq!(told(&running, "tracestate").unwrap(), "congo=t61rcWkgMzE");
    let tokens: Vec<String> = running
        .simulator
        .token_requests()
        .into_iter()
        .filter_map(|request| Some(request.token?.expose_secret().to_owned()))
        .collect();
    // The stop sends what has not been sent yet.
    running.finish().await;

    let spans = collector.spans();
    let of_caller: Vec<_> = spans
        .iter()
        .filter(|span| hex(&span.trace_id) == TRACE)
        .cloned()
        .collect();
    assert_eq!(of_caller.len(), 4, "{of_caller:#?}");
    let request = only(&of_caller, |span| {
        is_request(span) && attributes(&span.attributes)["defender_gateway.outcome"] == "forwarded"
    });
    let (call, attempt) = (only(&of_caller, is_call), only(&of_caller, is_attempt));
    assert_eq!(hex(&request.parent_span_id), PARENT);
    assert_eq!(call.parent_span_id, request.span_id);
    assert_eq!(attempt.parent_span_id, call.span_id);
    assert_eq!(
        sent,
        format!("00-{TRACE}-{}-01", hex(&attempt.span_id)),
        "the upstream's parent is the attempt"
    );
    assert!(
        request.start_time_unix_nano <= call.start_time_unix_nano
            && call.end_time_unix_nano <= request.end_time_unix_nano
    );
    assert_eq!(request.trace_state, "congo=t61rcWkgMzE");
    assert_eq!(
        (call.links.len(), request.links.len()),
        (0, 0),
        "who is above needs no link"
    );

    let said = attributes(&request.attributes);
    for (name, value) in [
        ("http.request.method", "POST"),
        ("http.response.status_code", "200"),
        ("url.path", crate::support::PATH),
        ("network.protocol.version", "1.1"),
        ("defender_gateway.region", "eu"),
        ("defender_gateway.upstream.status_code", "200"),
        (
            "defender_gateway.cache_status",
            answer.field("cache-status").trim_start_matches("defender-gateway; "),
        ),
        ("defender_gateway.request_id", answer.field("x-request-id")),
    ] {
        assert_eq!(said.get(name).map(String::as_str), Some(value), "{name} in {said:?}");
    }
    assert!(said["defender_gateway.queue.wait"].parse::<f64>().unwrap() >= 0.0);
    assert_eq!(attributes(&attempt.attributes)["http.response.status_code"], "200");

    let hit = only(&of_caller, |span| is_request(span) && span.span_id != request.span_id);
    assert_eq!(attributes(&hit.attributes)["defender_gateway.outcome"], "hit");
    let sign_in = only(&spans, |span| span.name == "sign in");
    assert!(hex(&sign_in.trace_id) != TRACE && sign_in.parent_span_id.is_empty());

    let resource = collector.resource();
    assert_eq!(resource["service.name"], "scans");
    assert_eq!(resource["deployment.environment.name"], "test bed");
    assert_secret(&collector, &tokens, &[id(1)]);
}

/// Nothing that was sent holds what must not be seen; and it was sent as it should be.
fn assert_secret(collector: &Collector, tokens: &[String], ids: &[String]) {
    assert!(!tokens.is_empty());
    let secrets = tokens.iter().map(|token| token.as_str().to_owned());
    let secrets: Vec<_> = secrets
        .chain([sim::CLIENT_SECRET.to_owned()])
        .chain(ids.iter().cloned())
        .collect();
    for (path, fields, body) in collector.requests() {
        assert_eq!(
            (&*path, &fields["content-type"]),
            ("/v1/traces", &"application/x-protobuf".parse().unwrap())
        );
        assert_eq!(fields["api-key"], "s3cr=t");
        let body = String::from_utf8_lossy(&body);
        for secret in secrets
            .iter()
            .map(String::as_str)
            .chain(["ScanDefinitionIds\"", "Bearer"])
        {
            assert!(!body.contains(secret), "{secret} in {body}");
        }
    }
}

#[tokio::test]
async fn an_id_in_a_path_is_shown_by_no_span() {
    let collector = Collector::start(Manner::Polite).await;
    let running = setup(&collector).start().await;
    let definitions = Endpoint::latest(Operation::Definitions).template();
    let id = running.caller.fetch(&definitions).await.json()["value"][0]["id"].clone();
    let id = id.as_str().unwrap().to_owned();
    let template = Endpoint::latest(Operation::Definition).template();
    let request = running.caller.request(Method::GET, &template.replace("{id}", &id));
    // From Defender, and not from the list.
    let request = request.header("cache-control", "no-cache").body(Bytes::new());
    assert_eq!(running.caller.send(request.unwrap()).await.status, StatusCode::OK);
    running.finish().await;

    let spans = collector.spans();
    let shown = |name: &str| {
        let attributes = spans.iter().map(|span| attributes(&span.attributes));
        let values = attributes.filter_map(|attributes| attributes.get(name).cloned());
        values.collect::<Vec<_>>()
    };
    assert_eq!(shown("url.path"), [definitions.clone(), template.clone()]);
    let sent = shown("url.full");
    assert!(
        sent.iter().any(|url| url.ends_with(&template)),
        "the attempt for it: {sent:?}"
    );
    for (_, _, body) in collector.requests() {
        let body = String::from_utf8_lossy(&body);
        assert!(!body.contains(&id), "{id} in {body}");
    }
}

#[tokio::test]
async fn a_shared_call_is_linked_to_all_who_share_it() {
    let collector = Collector::start(Manner::Polite).await;
    let running = setup(&collector)
        .limits(Shape::SlidingLog, &["1/3s"])
        .set("merge.enabled", "true")
        .set("merge.known_rows", "1000")
        .start()
        .await;
    // Takes the slot, and is not recorded.
    let first = [("traceparent", &*traceparent("00"))];
    assert_eq!(running.caller.ask_with(&[id(9)], &first).await.status, StatusCode::OK);
    let parents: Vec<_> = (1..=3).map(|n| format!("00-{n:032x}-{PARENT}-01")).collect();
    // Two ask the same, the third something else; they wait for the next slot together, and one
    // call answers all.
    let asked = [1, 1, 2].into_iter().zip(&parents);
    let asked = asked.map(|(n, parent)| {
        let caller = running.caller.clone();
        async move { caller.ask_with(&[id(n)], &[("traceparent", parent)]).await }
    });
    for answer in futures_util::future::join_all(asked).await {
        assert_eq!(answer.status, StatusCode::OK);
    }
    assert_eq!(running.simulator.calls().len(), 2);
    running.finish().await;

    let spans = collector.spans();
    let call = only(&spans, is_call);
    let requests: Vec<_> = spans.iter().filter(|span| is_request(span)).collect();
    assert_eq!(requests.len(), 3);
    let linked: HashSet<_> = call
        .links
        .iter()
        .map(|link| (link.trace_id.clone(), link.span_id.clone()))
        .collect();
    let callers: HashSet<_> = requests
        .iter()
        .map(|span| (span.trace_id.clone(), span.span_id.clone()))
        .collect();
    assert_eq!(linked, callers);
    for request in requests {
        let said = attributes(&request.attributes);
        assert_eq!(said["defender_gateway.region"], "eu");
        let own = request.trace_id == call.trace_id;
        let links: Vec<_> = request.links.iter().map(|link| link.span_id.clone()).collect();
        let expected = if own { vec![] } else { vec![call.span_id.clone()] };
        assert_eq!(links, expected, "one finds the call from every request");
    }
    let said = attributes(&call.attributes);
    assert_eq!(
        (&*said["defender_gateway.requests"], &*said["defender_gateway.ids"]),
        ("3", "2")
    );
}

#[tokio::test]
async fn every_attempt_is_a_span_and_a_failed_one_says_so() {
    let collector = Collector::start(Manner::Polite).await;
    let running = setup(&collector).start().await;
    let fault = Plan::of(Fault::Status(StatusCode::BAD_GATEWAY), Often::Times(1));
    running.simulator.set_faults("eu", &fault).unwrap();
    assert_eq!(running.caller.ask(&[id(1)]).await.status, StatusCode::OK);
    let attempts = collector.until(2, is_attempt).await;
    let call = collector.until(1, is_call).await.remove(0);
    let mut statuses: Vec<_> = attempts
        .iter()
        .map(|span| attributes(&span.attributes)["http.response.status_code"].clone())
        .collect();
    statuses.sort();
    assert_eq!(statuses, ["200", "502"]);
    assert!(attempts.iter().all(|span| span.parent_span_id == call.span_id));
    let failed = only(&attempts, |span| {
        span.status.as_ref().is_some_and(|status| status.code == 2)
    });
    assert_eq!(attributes(&failed.attributes)["error.type"], "502");
    running.finish().await;
}

#[tokio::test]
async fn a_malformed_parent_begins_a_new_trace_and_an_unsampled_one_is_not_recorded() {
    let collector = Collector::start(Manner::Polite).await;
    let running = setup(&collector).start().await;
    let malformed = traceparent("01").to_uppercase();
    running
        .caller
        .ask_with(&[id(1)], &[("traceparent", &malformed), ("tracestate", "a=b")])
        .await;
    let sent = told(&running, "traceparent").unwrap();
    assert!(
        !sent.contains(TRACE) && sent.ends_with("-03"),
        "sampled, with a random id: {sent}"
    );
    assert_eq!(told(&running, "tracestate"), None, "it belongs to the parent");

    running
        .caller
        .ask_with(&[id(2)], &[("traceparent", &traceparent("00"))])
        .await;
    let sent = told(&running, "traceparent").unwrap();
    assert!(
        sent.starts_with(&format!("00-{TRACE}-")) && sent.ends_with("-00"),
        "{sent}"
    );
    assert!(!sent.contains(PARENT), "we stand between: {sent}");
    running.finish().await;
    let requests: Vec<_> = collector.spans().into_iter().filter(is_request).collect();
    assert_eq!(requests.len(), 1);
    assert!(requests[0].parent_span_id.is_empty());
}

#[tokio::test]
async fn the_sampler_is_the_one_that_was_asked_for() {
    for (sampler, flags, recorded) in [
        ("always_off", "01", 0),
        ("always_on", "00", 1),
        ("parentbased_always_off", "01", 1),
    ] {
        let collector = Collector::start(Manner::Polite).await;
        let running = setup(&collector).variable("OTEL_TRACES_SAMPLER", sampler).start().await;
        running
            .caller
            .ask_with(&[id(1)], &[("traceparent", &traceparent(flags))])
            .await;
        running.finish().await;
        let requests = collector.spans().into_iter().filter(is_request).count();
        assert_eq!(requests, recorded, "{sampler}");
    }
}

#[tokio::test]
async fn without_a_collector_a_callers_trace_is_passed_on_as_it_is() {
    let running = Setup::new().start().await;
    let fields = [("traceparent", &*traceparent("01")), ("tracestate", "a=b")];
    running.caller.ask_with(&[id(1)], &fields).await;
    assert_eq!(told(&running, "traceparent").unwrap(), traceparent("01"));
    assert_eq!(told(&running, "tracestate").unwrap(), "a=b");
    running.caller.ask(&[id(2)]).await;
    assert_eq!(told(&running, "traceparent"), None);
    running.finish().await;
}

#[tokio::test]
async fn a_dead_or_silent_collector_harms_nobody() {
    let silent = Collector::start(Manner::Silent).await;
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    for url in [silent.url(), nobody] {
        let running = Setup::new().set("telemetry.otlp_endpoint", &url).start().await;
        // More than is kept: hits cost no quota.
        for _ in 0..40 {
            let request = [id(1)];
            let asked = (0..80).map(|_| running.caller.ask(&request));
            for answer in futures_util::future::join_all(asked).await {
                assert_eq!(answer.status, StatusCode::OK);
            }
        }
        until("spans to be dropped", async || {
            (spans(&running, "dropped").await > 0).then_some(())
        })
        .await;
        assert_eq!(spans(&running, "sent").await, 0);
        running.finish().await;
    }
}

#[tokio::test]
async fn a_busy_collector_is_asked_again_and_what_it_rejects_is_counted() {
    let collector = Collector::start(Manner::Busy(1)).await;
    let running = setup(&collector).start().await;
    running.caller.ask(&[id(1)]).await;
    collector.until(1, is_request).await;
    until("all spans to be counted", async || {
        (spans(&running, "sent").await >= 4).then_some(())
    })
    .await;
    assert_eq!(spans(&running, "dropped").await, 0);
    running.finish().await;

    let collector = Collector::start(Manner::Choosy(1)).await;
    let running = setup(&collector).start().await;
    running.caller.ask(&[id(1)]).await;
    until("rejected spans", async || {
        (spans(&running, "dropped").await > 0).then_some(())
    })
    .await;
    running.finish().await;
}

#[tokio::test]
async fn log_lines_of_a_request_name_its_trace() {
    let spawned = Setup::new()
        .set("telemetry.log", "debug")
        .set("telemetry.format", "json")
        .spawn()
        .await;
    let caller = spawned.caller();
    caller.ask_with(&[id(1)], &[("traceparent", &traceparent("01"))]).await;
    drop(caller);
    let output = spawned.finish().await;
    let line = output.lines().find(|line| line.contains("request answered")).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["span"]["trace_id"], TRACE, "{line}");
}

#[tokio::test]
async fn another_way_out_is_that_of_traces_too() {
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let way_out = format!("\"http://{}\"", proxy.local_addr().unwrap());
    let running = Setup::new()
        .set("telemetry.otlp_endpoint", "https://collector.test")
        .start()
        .await;
    running.reload(&[("defender.via_proxy", &way_out)]).await.unwrap();
    assert_eq!(running.caller.ask(&[id(1)]).await.status, StatusCode::OK);
    let (stream, _) = within("a connection to the proxy", proxy.accept()).await.unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await.unwrap();
    assert_eq!(line, "CONNECT collector.test:443 HTTP/1.1\r\n");
    running.finish().await;
}
