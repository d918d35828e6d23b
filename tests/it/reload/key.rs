//! Every key: taken over, or named as one that needs a restart.

use std::path::Path;

use http::StatusCode;

use defender_gateway::testing::app::{ConfigSource, Gateway};
use defender_gateway::testing::config::{Document, Environment, Reload, keys};
use defender_gateway::testing::task::Tasks;

use super::paths;
use crate::support::{Caller, Running, Setup, id};

/// Another value than the one that runs, as TOML; `None` when only the environment holds it.
fn other(path: &str) -> Option<&'static str> {
    Some(match path {
        "server.listen" => "[\"127.0.0.1:1\"]",
        "server.hosts" => "[\"gateway.example\"]",
        "server.trusted_proxies" => "[\"10.0.0.0/8\"]",
        "server.max_body" | "cache.max_size" => "\"2MiB\"",
        "server.memory" => "\"64MiB\"",
        "server.allow_non_loopback"
        | "admin.quit"
        | "defender.h2c"
        | "credentials.passthrough"
        | "merge.enabled"
        | "definitions.pass_authentication_params"
        | "telemetry.access_log" => "true",
        "server.drain" | "server.linger" | "queue.max_wait" | "store.timeout" => "\"9s\"",
        "store.answers" => "false",
        "store.answer_timeout" => "\"200ms\"",
        "admin.listen" => "\"127.0.0.1:2\"",
        "defender.cloud" => "\"gcc\"",
        "defender.region" => "\"eu\"",
        "defender.timeout"
        | "queue.max_wait_limit"
        | "cache.ttl"
        | "cache.finished_ttl"
        | "cache.stale_while_revalidate"
        | "cache.stale_if_error" => "\"2m\"",
        "defender.regions" => "[{ name = \"uk\", url = \"http://127.0.0.1:9\" }]",
        "defender.via_proxy" | "telemetry.otlp_endpoint" => "\"http://127.0.0.1:9\"",
        "credentials.kind" => "\"client_secret\"",
        "quota.limits" => "[\"99/1m\", \"1500/1h\"]",
        "quota.burst"
        | "queue.max_requests"
        | "queue.max_requests_per_caller"
        | "merge.max_ids"
        | "merge.known_rows" => "50",
        "quota.pacing" => "\"none\"",
        "quota.scope" => "\"operation\"",
        "quota.state_file" => "\"/tmp/state\"",
        "quota.on_unknown_past" => "\"paced\"",
        "queue.caller_header" => "\"x-team\"",
        "callers.limit" => "\"600/1m\"",
        "callers.weights" => "{ team = 3 }",
        "merge.gather" => "\"10ms\"",
        "store.url" => "\"redis://127.0.0.1:9\"",
        "store.prefix" => "\"other\"",
        "telemetry.log" => "\"debug\"",
        "telemetry.format" => "\"json\"",
        // Tests of their own: they need files, or another tenant's sign-in.
        "defender.ca_file"
        | "store.password_file"
        | "store.ca_file"
        | "store.certificate_file"
        | "credentials.tenant_id"
        | "credentials.client_id"
        | "credentials.client_secret_file"
        | "credentials.certificate_file"
        | "credentials.private_key_file"
        | "credentials.federated_token_file"
        | "credentials.authority"
        | "credentials.scope"
        | "credentials.client_secret" => return None,
        unknown => panic!("{unknown}: say here what else it can be, and whether a running gateway takes that over"),
    })
}

#[tokio::test]
async fn every_key_is_taken_over_or_named_as_one_for_a_restart() {
    // What the upstream is stays reachable whatever is tried: the last value that was right runs
    // on.
    for key in keys() {
        let path = key.path();
        let Some(value) = other(&path) else { continue };
        // The addresses come by the environment in tests, where nothing can change.
        if ["server.listen", "admin.listen"].contains(&path.as_str()) {
            continue;
        }
        let running = Setup::new().start().await;
        let written = [(path.as_str(), value)];
        // Simulated hosts are no hosts of that cloud; the regions below are all there is.
        let applied = match running.reload(&written).await {
            Ok(applied) => applied,
            Err(error) if path == "defender.cloud" => {
                assert!(error.to_string().contains("cloud"), "{error}");
                running.finish().await;
                continue;
            }
            Err(error) => panic!("{path}: {error}"),
        };
        let (changed, pending) = (paths(&applied.changed), paths(&applied.pending));
        match key.reload() {
            Reload::Restart => assert_eq!((changed, pending), (vec![], vec![path])),
            Reload::Live | Reload::LiveAlone => assert_eq!((changed, pending), (vec![path], vec![])),
        }
        running.finish().await;
    }
}

async fn started() -> Running {
    Setup::new().write("cache.ttl", "\"30s\"").start().await
}

#[tokio::test]
async fn requests_meet_what_was_taken_over() {
    let running = started().await;
    let caller = running.caller();
    let ask = async |fields: &[(&str, &str)]| caller.ask_with(&[id(1)], fields).await;

    assert_eq!(
        ask(&[("host", "gateway.example")]).await.status,
        StatusCode::MISDIRECTED_REQUEST
    );
    let shown = running.admin.fetch_as("/livez", "gateway.example").await.status;
    assert_eq!(shown, StatusCode::MISDIRECTED_REQUEST);
    running
        .reload(&[("server.hosts", "[\"gateway.example\"]")])
        .await
        .unwrap();
    assert_eq!(ask(&[("host", "gateway.example")]).await.status, StatusCode::OK);
    let shown = running.admin.fetch_as("/livez", "gateway.example").await.status;
    assert_eq!(shown, StatusCode::OK, "the admin address goes by the same names");

    // What was stored is kept, whatever changes around it.
    running.reload(&[("cache.max_size", "\"2MiB\"")]).await.unwrap();
    assert!(ask(&[]).await.field("cache-status").contains("; hit;"));

    running.reload(&[("server.max_body", "\"1KiB\"")]).await.unwrap();
    let many: Vec<_> = (0..100).map(id).collect();
    assert_eq!(caller.ask(&many).await.status, StatusCode::PAYLOAD_TOO_LARGE);

    running.reload(&[("callers.limit", "\"2/1h\"")]).await.unwrap();
    assert_eq!(ask(&[]).await.status, StatusCode::OK);
    assert_eq!(ask(&[]).await.status, StatusCode::OK);
    assert_eq!(ask(&[]).await.status, StatusCode::TOO_MANY_REQUESTS);
    // Another change leaves the buckets as they are.
    running
        .reload(&[("callers.limit", "\"2/1h\""), ("queue.max_wait", "\"9s\"")])
        .await
        .unwrap();
    assert_eq!(ask(&[]).await.status, StatusCode::TOO_MANY_REQUESTS);

    running.reload(&[("cache.ttl", "\"0s\"")]).await.unwrap();
    assert!(!ask(&[]).await.field("cache-status").contains("hit"));
    running.finish().await;
}

#[tokio::test]
async fn other_regions_are_measured_before_they_are_used() {
    let running = Setup::new().region("eu", 0).region("uk", 0).start().await;
    for region in ["uk", "eu"] {
        running
            .reload(&[("defender.region", &format!("{region:?}"))])
            .await
            .unwrap();
        let status = running.status().await;
        let rows = status["regions"].as_array().unwrap();
        assert_eq!((rows.len(), &rows[0]["name"]), (1, &region.into()), "{status}");
        assert!(rows[0]["rtt_ms"].is_number(), "{status}");
        assert_eq!(
            running
                .caller()
                .ask(&[id(region.len() + usize::from(region == "uk"))])
                .await
                .status,
            StatusCode::OK
        );
        let metrics = running.admin.fetch("/metrics").await;
        let shown = metrics
            .text()
            .lines()
            .filter(|line| line.contains("region_healthy{"))
            .count();
        assert_eq!(shown, 1, "the others are gone");
    }
    running.finish().await;
}

#[tokio::test]
async fn what_changes_before_anybody_is_served_is_what_is_served() {
    let source = ConfigSource::new(
        None,
        Environment::from_iter([
            ("DEFENDER_GATEWAY_SERVER_LISTEN", "127.0.0.1:0"),
            ("DEFENDER_GATEWAY_ADMIN_LISTEN", "127.0.0.1:0"),
            ("DEFENDER_GATEWAY_CREDENTIALS_AUTHORITY", "http://127.0.0.1:9"),
            ("AZURE_TENANT_ID", "contoso.example"),
            ("AZURE_CLIENT_ID", "11111111-2222-3333-4444-555555555555"),
            ("AZURE_CLIENT_SECRET", "hunter2hunter2"),
        ]),
    );
    let document = |ttl| Document::new(Path::new("gateway.toml"), format!("[cache]\nttl = {ttl:?}\n"));
    let first = source.resolve(&document("10s")).unwrap();
    let gateway = Gateway::start(&first.resolved).await.unwrap();
    let (reloader, stop) = (gateway.reloader().clone(), gateway.stop_token());
    let early = reloader.reload(&source, &document("20s")).await.unwrap();
    assert_eq!(paths(&early.changed), ["cache.ttl"]);

    let admin = Caller::http1(&gateway.admin_address().to_string());
    let serving = Tasks::new().spawn("gateway", gateway.serve());
    let hash = async || admin.fetch("/status").await.json()["config"]["hash"].clone();
    let early = hash().await;
    let again = reloader.reload(&source, &document("20s")).await.unwrap();
    assert_eq!(paths(&again.changed), [""; 0], "it was taken over already");
    assert_eq!(hash().await, early, "what runs is shown");
    stop.cancel();
    assert_eq!(serving.await.unwrap().left, 0);
}
