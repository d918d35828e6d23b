//! What operators, probes and dashboards rely on.

use http::StatusCode;
use serde_json::Value;

use defender_gateway::testing::sim::Shape;

use crate::support::{Program, Setup, id};

#[tokio::test]
async fn probes_are_answered_and_say_more_when_asked() {
    let running = Setup::new().start().await;
    for target in ["/livez", "/readyz", "/startupz"] {
        assert_eq!(running.admin.fetch(target).await.status, StatusCode::OK, "{target}");
    }
    let verbose = running.admin.fetch("/readyz?verbose").await;
    for check in ["sign-in", "regions", "quota"] {
        assert!(verbose.text().contains(check), "{}", verbose.text());
    }
    assert_eq!(running.admin.fetch("/nothing").await.status, StatusCode::NOT_FOUND);
    // Changes nothing: it does not end the gateway unless the configuration says so.
    let quit = running
        .admin
        .request(http::Method::POST, "/quitquitquit")
        .body("".into());
    assert!(running.admin.send(quit.unwrap()).await.status.is_client_error());
    assert!(!running.stop.is_cancelled());
    let page = running.admin.fetch("/").await;
    assert!(page.field("content-type").starts_with("text/html"));
    let description = running.admin.fetch("/openapi.json").await.json();
    assert!(description["openapi"].as_str().unwrap().starts_with("3.1"));
    running.finish().await;
}

#[tokio::test]
async fn the_data_address_knows_nothing_of_the_admin_paths() {
    let running = Setup::new().start().await;
    for target in ["/status", "/metrics", "/livez", "/"] {
        assert_eq!(
            running.caller.fetch(target).await.status,
            StatusCode::NOT_FOUND,
            "{target}"
        );
    }
    running.finish().await;
}

/// Metrics that dashboards are made of, each with a label that it must have. `deploy/metrics.md`
/// has all of them.
const METRICS: [&str; 23] = [
    "requests_total{operation=",
    "request_duration_seconds_bucket{",
    "upstream_calls_total{region=",
    "upstream_duration_seconds_bucket{",
    "quota_limit{window=",
    "quota_remaining{window=",
    "quota_paused_seconds",
    "queue_waiting",
    "queue_callers",
    "queue_predicted_wait_seconds",
    "queue_wait_seconds_bucket{",
    "queue_refused_total{reason=",
    "cache_requests_total{result=",
    "cache_bytes",
    "token_expiry_seconds",
    "token_requests_total{result=",
    "region_rtt_seconds{region=",
    "region_healthy{region=",
    "mode{mode=",
    "problem{code=",
    "caller_requests_total{caller=",
    "connections",
    "build_info{version=",
];

#[tokio::test]
async fn every_metric_of_the_contract_is_there_and_counts() {
    let running = Setup::new().limits(Shape::SlidingLog, &["2/1h"]).start().await;
    for n in [1, 1, 2, 3] {
        running.caller.ask(&[id(n)]).await;
    }
    let answer = running.admin.fetch("/metrics").await;
    let text = answer.text();
    let missing: Vec<_> = METRICS
        .iter()
        .filter(|name| !text.contains(&format!("\ndefender_gateway_{name}")))
        .collect();
    assert!(missing.is_empty(), "{missing:?} are missing in\n{text}");
    for line in [
        r#"quota_remaining{window="1h"} 0"#,
        r#"quota_limit{window="1h"} 2"#,
        r#"upstream_calls_total{region="eu",operation="history_by_definition",status="200"} 2"#,
        r#"mode{mode="degraded"} 1"#,
        r#"problem{code="quota-spent"} 1"#,
        r#"caller_requests_total{caller="127.0.0.1",outcome="refused"} 1"#,
    ] {
        assert!(text.contains(&format!("defender_gateway_{line}")), "{line} in\n{text}");
    }
    for (outcome, status, count) in [("hit", 200, 1), ("forwarded", 200, 2), ("refused", 429, 1)] {
        let line = format!(
            r#"defender_gateway_requests_total{{operation="history_by_definition",outcome="{outcome}",status="{status}"}} {count}"#
        );
        assert!(text.contains(&line), "{line} in\n{text}");
    }
    running.finish().await;
}

#[tokio::test]
async fn status_has_the_contracts_shape() {
    let running = Setup::new().start().await;
    for n in [1, 1, 2] {
        running.caller.ask(&[id(n)]).await;
    }
    let status = running.status().await;
    let is = |path: &str, test: fn(&Value) -> bool| {
        let value = status.pointer(path);
        assert!(value.is_some_and(test), "{path}: {value:?} in {status}");
    };
    is("/version", Value::is_string);
    is("/uptime_s", Value::is_number);
    is("/mode", |mode| mode == "normal");
    for member in ["limit", "window_s", "used", "remaining", "reset_s"] {
        is(&format!("/quota/windows/0/{member}"), Value::is_number);
    }
    is("/quota/windows/0/name", |name| name == "1m");
    is("/quota/windows/0/used", |used| used == 2);
    is("/quota/windows/1/remaining", |remaining| remaining == 1_498);
    is("/quota/paused_until_s", Value::is_null);
    is("/quota/shared", |shared| shared == false);
    for member in ["waiting", "callers", "predicted_wait_s"] {
        is(&format!("/queue/{member}"), Value::is_number);
    }
    is("/regions/0/name", |name| name == "eu");
    is("/regions/0/url", Value::is_string);
    is("/regions/0/healthy", |healthy| healthy == true);
    is("/regions/0/rtt_ms", Value::is_number);
    is("/regions/0/selected", |selected| selected == true);
    is("/token/kind", |kind| kind == "client_secret");
    is("/token/expires_in_s", Value::is_number);
    is("/token/refreshing", |refreshing| refreshing == false);
    is("/token/last_error", Value::is_null);
    for (member, value) in [("entries", 2), ("hits", 1), ("misses", 2), ("stale", 0)] {
        assert_eq!(status["cache"][member], value, "{member} in {status}");
    }
    is("/cache/bytes", |bytes| bytes.as_u64() > Some(0));
    is("/saved/requests", |requests| requests == 3);
    is("/saved/upstream_calls", |calls| calls == 2);
    running.finish().await;
}

#[tokio::test]
async fn the_status_command_shows_it_and_says_when_nobody_answers() {
    let running = Setup::new().start().await;
    running.caller.ask(&[id(1)]).await;
    let admin = running.admin.base().strip_prefix("http://").unwrap().to_owned();
    let mut shown = Program::start(&["status", "--admin", &admin], &[]);
    let ended = shown.ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.output);
    for part in [
        "99 of 100 left",
        "1499 of 1500 left",
        "client_secret",
        "1 requests answered with 1 upstream calls",
    ] {
        assert!(ended.output.contains(part), "{part} in {}", ended.output);
    }
    running.finish().await;
    let mut lost = Program::start(&["status", "--admin", &admin], &[]);
    let ended = lost.ended().await;
    assert_eq!(ended.code, Some(1), "{}", ended.output);
    assert!(ended.output.contains("no gateway answers at"), "{}", ended.output);
}

#[tokio::test]
async fn a_loaded_queue_is_shown_by_caller_with_positions_and_waits() {
    // One call at once, then one every second: whoever is in the queue stays there while this test
    // looks.
    let running = Setup::new().limits(Shape::SlidingLog, &["1/1s", "60/1m"]).start().await;
    let ask = |n: usize, name: &'static str| {
        let caller = running.caller();
        async move {
            caller
                .ask_with(&[id(n)], &[("prefer", "wait=20"), ("x-caller", name)])
                .await
                .status
        }
    };
    let asked = futures_util::future::join_all((0..6).map(|n| ask(n, if n < 4 { "greedy" } else { "modest" })));
    let looked = async {
        let status = running
            .until_status("a loaded queue", |status| status["queue"]["waiting"] == 4)
            .await;
        let queue = &status["queue"];
        assert!(queue["callers"].as_u64() >= Some(1), "{status}");
        assert!(queue["predicted_wait_s"].as_f64() > Some(0.0), "{status}");
        let shares = queue["shares"].as_array().unwrap();
        let greedy = shares.iter().find(|share| share["caller"] == "greedy").unwrap();
        assert!(greedy["waiting"].as_u64() >= Some(2), "{status}");
        assert!(
            greedy["position"].as_u64().is_some_and(|position| position <= 1),
            "{status}"
        );
        let [next, last] = ["next_turn_s", "last_turn_s"].map(|member| greedy[member].as_f64().unwrap());
        assert!(last >= next + 1.0, "each waits for its own slot: {status}");
        let answer = running.admin.fetch("/metrics").await;
        let metrics = answer.text();
        for series in ["waiting", "predicted_wait_seconds", "served"] {
            let series = format!("queue_caller_{series}{{caller=\"greedy\"}}");
            assert!(metrics.contains(&series), "{series} in {metrics}");
        }
    };
    let (statuses, ()) = tokio::join!(asked, looked);
    assert_eq!(statuses, [StatusCode::OK; 6]);
    running.finish().await;
}
