//! The file of a running program.

use defender_gateway::testing::sim::CLIENT_SECRET;
use http::StatusCode;

use super::mount::Mount;
use crate::support::{Program, Setup, Spawned, id, until, with};

async fn metric(spawned: &Spawned, line: &str) {
    until(line, async || {
        let metrics = spawned.admin().fetch("/metrics").await;
        metrics.text().lines().any(|seen| seen == line).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_changed_file_is_taken_over_by_itself_and_said_in_one_line() {
    let spawned = Setup::new().write("cache.ttl", "\"30s\"").spawn().await;
    let before = spawned.admin().fetch("/status").await.json()["config"]["hash"].clone();
    spawned.rewrite(&[("cache.ttl", "\"5m\""), ("queue.max_wait", "\"7s\"")]);
    let line = spawned.gateway.line_with("the configuration has changed").await;
    assert!(line.contains("queue.max_wait, cache.ttl"), "{line}");
    metric(&spawned, "defender_gateway_config_reload_total{result=\"ok\"} 1").await;
    let config = spawned.admin().fetch("/status").await.json()["config"].clone();
    assert_ne!(config["hash"], before);
    assert_eq!(config["restart_required"], serde_json::json!([]));
    let hash = config["hash"].as_str().unwrap();
    metric(&spawned, &format!("defender_gateway_config_info{{hash=\"{hash}\"}} 1")).await;
    assert_eq!(
        spawned
            .caller()
            .ask(&[id(1)])
            .await
            .field("cache-status")
            .split("ttl=")
            .count(),
        2
    );
    spawned.finish().await;
}

/// Nothing but the signal makes it say that: a look at the file finds no change.
#[tokio::test]
async fn a_signal_has_an_unchanged_file_read_again() {
    let spawned = Setup::new().spawn().await;
    spawned.gateway.signal("HUP").await;
    spawned
        .gateway
        .line_with("the configuration was read again: nothing has changed")
        .await;
    spawned.finish().await;
}

#[tokio::test]
async fn every_mistake_is_said_and_the_running_configuration_stays() {
    let spawned = Setup::new().spawn().await;
    spawned.write("[cache]\nttl = 30\n[quota]\nlimits = [\"10/1m\"]\nburts = 1\n");
    spawned.gateway.signal("HUP").await;
    let ttl = spawned.gateway.line_with("cache.ttl").await;
    assert!(ttl.contains("gateway.toml:2:7: cache.ttl: 30 has no unit"), "{ttl}");
    let burst = spawned.gateway.line_with("quota.burts").await;
    assert!(
        burst.contains("gateway.toml:5:1: ") && burst.contains("did you mean burst?"),
        "{burst}"
    );
    spawned
        .gateway
        .line_with("is not taken over; the running one stays")
        .await;
    metric(&spawned, "defender_gateway_config_last_reload_successful 0").await;
    let status = spawned.admin().fetch("/status").await.json();
    assert!(
        status["config"]["last_error"].as_str().unwrap().contains("cache.ttl"),
        "{status}"
    );
    assert_eq!(
        status["quota"]["windows"][0]["limit"], 100,
        "nothing of the wrong file is used"
    );
    assert_eq!(spawned.caller().ask(&[id(1)]).await.status, StatusCode::OK);

    spawned.rewrite(&[("quota.limits", "[\"10/1m\"]")]);
    spawned.gateway.signal("HUP").await;
    metric(&spawned, "defender_gateway_config_last_reload_successful 1").await;
    metric(&spawned, "defender_gateway_quota_limit{window=\"1m\"} 10").await;
    let metrics = spawned.admin().fetch("/metrics").await;
    assert!(
        !metrics.text().contains("quota_limit{window=\"1h\"}"),
        "that limit is gone"
    );
    spawned.finish().await;
}

#[tokio::test]
async fn what_needs_a_restart_is_said_and_the_rest_is_taken_over() {
    let spawned = Setup::new().spawn().await;
    spawned.rewrite(&[("admin.quit", "true"), ("quota.limits", "[\"10/1m\"]")]);
    spawned.gateway.signal("HUP").await;
    let line = spawned.gateway.line_with("some of it needs a restart").await;
    assert!(
        line.contains("quota.limits") && line.contains("\"restart\":\"admin.quit\""),
        "{line}"
    );
    metric(&spawned, "defender_gateway_config_restart_required 1").await;
    metric(&spawned, "defender_gateway_quota_limit{window=\"1m\"} 10").await;
    let status = spawned.admin().fetch("/status").await.json();
    assert_eq!(status["config"]["restart_required"], serde_json::json!(["admin.quit"]));
    spawned.rewrite(&[("quota.limits", "[\"10/1m\"]")]);
    metric(&spawned, "defender_gateway_config_restart_required 0").await;
    spawned.finish().await;
}

#[tokio::test]
async fn a_file_that_arrives_later_mends_the_configuration_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    let named = format!("{:?}", path.to_str().unwrap());
    let spawned = Setup::new().spawn().await;
    spawned.rewrite(&[("credentials.client_secret_file", &named)]);
    spawned.gateway.line_with("there is no such file").await;
    std::fs::write(&path, "").unwrap();
    spawned.gateway.line_with("the file is empty").await;
    std::fs::write(&path, CLIENT_SECRET).unwrap();
    let line = spawned.gateway.line_with("the configuration has changed").await;
    assert!(line.contains("credentials.client_secret_file"), "{line}");
    metric(&spawned, "defender_gateway_config_last_reload_successful 1").await;
    // What stays wrong is said once.
    metric(&spawned, "defender_gateway_config_reload_total{result=\"failed\"} 2").await;
    spawned.finish().await;
}

#[tokio::test]
async fn other_authorities_in_the_same_file_are_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    let authority = || {
        let made = rcgen::generate_simple_self_signed(["proxy.example".to_owned()]).unwrap();
        std::fs::write(&path, made.cert.pem()).unwrap();
    };
    authority();
    let named = format!("{:?}", path.to_str().unwrap());
    let spawned = Setup::new().write("defender.ca_file", &named).spawn().await;
    authority();
    let line = spawned.gateway.line_with("the configuration has changed").await;
    assert!(line.contains("defender.ca_file"), "{line}");
    std::fs::write(&path, "no certificate").unwrap();
    spawned.gateway.line_with("holds no PEM certificate").await;
    authority();
    metric(&spawned, "defender_gateway_config_last_reload_successful 1").await;
    assert_eq!(spawned.caller().ask(&[id(1)]).await.status, StatusCode::OK);
    metric(&spawned, "defender_gateway_config_reload_total{result=\"ok\"} 2").await;
    metric(&spawned, "defender_gateway_config_reload_total{result=\"failed\"} 1").await;
    spawned.finish().await;
}

#[tokio::test]
async fn a_config_map_is_followed_through_its_links() {
    let setup = Setup::new().spawn().await;
    let toml = setup.toml().to_owned();
    let mut mount = Mount::new("gateway.toml", &toml);
    let arguments = ["run", "--config", mount.file().to_str().unwrap()].map(str::to_owned);
    let mut gateway = Program::start(&arguments, setup.variables());
    gateway.line("admin on ").await;
    mount.swap(&with(&toml, "quota.limits", "[\"10/1m\"]"));
    let line = gateway.line_with("the configuration has changed").await;
    assert!(line.contains("quota.limits"), "{line}");
    // The content is what counts.
    mount.swap(&with(&toml, "quota.limits", "[ \"10/1m\" ]"));
    mount.swap(&with(&toml, "quota.limits", "[\"20/1m\"]"));
    until("the latest is taken over", async || {
        let status = gateway.admin().fetch("/status").await.json();
        (status["quota"]["windows"][0]["limit"] == 20).then_some(())
    })
    .await;
    gateway.signal("TERM").await;
    assert_eq!(gateway.ended().await.code, Some(0));
    setup.finish().await;
}
