//! Changes while the simulator runs, and its records.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::StatusCode;

use super::Controls;
use super::client::{Client, ID, body, call};
use crate::control::Action;
use crate::control::Event;
use crate::{Config, Log, Region, Shape, Simulator};

fn start() -> (Simulator, Client) {
    (Simulator::start(Config::instant()).unwrap(), Client::http1())
}

#[tokio::test]
async fn a_region_goes_away_and_comes_back_on_its_port() {
    let (sim, client) = start();
    let token = client.token(&sim).await;
    let before = sim.region("eu").unwrap();
    assert_eq!(client.ask(&sim, "eu", &token).await.unwrap().status, StatusCode::OK);
    sim.shut("eu").await.unwrap();
    sim.shut("eu").await.unwrap();
    let addr = before.socket_addrs(|| None).unwrap();
    let refused = tokio::net::TcpStream::connect(&*addr).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    assert!(client.ask(&sim, "eu", &token).await.is_err());
    assert_eq!(
        client.ask(&sim, "us", &token).await.unwrap().status,
        StatusCode::OK,
        "the others stay"
    );
    sim.open("eu").await.unwrap();
    sim.open("eu").await.unwrap();
    assert_eq!(sim.region("eu").unwrap(), before);
    assert_eq!(client.ask(&sim, "eu", &token).await.unwrap().status, StatusCode::OK);
    assert_eq!(sim.shut("xx").await.unwrap_err().kind(), io::ErrorKind::NotFound);
    assert!(sim.set_latency("xx", Duration::ZERO).is_none());
    assert_eq!(sim.stop().await, 0);
}

#[tokio::test]
async fn sign_in_goes_away_and_comes_back() {
    let (sim, client) = start();
    sim.shut_sign_in().await.unwrap();
    let url = sim.authority().to_string();
    assert!(
        client
            .send(http::Request::post(&url).body("".into()).unwrap())
            .await
            .is_err()
    );
    sim.open_sign_in().await.unwrap();
    client.token(&sim).await;
}

#[tokio::test]
async fn cutting_connections_resets_open_ones() {
    let (sim, client) = start();
    let token = client.token(&sim).await;
    sim.set_latency("us", Duration::from_mins(1)).unwrap();
    let mut stream = {
        let addr = sim.region("us").unwrap().socket_addrs(|| None).unwrap();
        tokio::net::TcpStream::connect(&*addr).await.unwrap()
    };
    // The host may still be about to accept it: connections are cut until it is gone.
    let mut byte = [0];
    let end = loop {
        sim.cut_connections().await;
        let read = tokio::io::AsyncReadExt::read(&mut stream, &mut byte);
        if let Ok(end) = tokio::time::timeout(Duration::from_millis(10), read).await {
            break end;
        }
    };
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    sim.set_latency("us", Duration::ZERO).unwrap();
    assert_eq!(client.ask(&sim, "us", &token).await.unwrap().status, StatusCode::OK);
}

#[tokio::test]
async fn latency_is_felt_and_can_change() {
    let (sim, client) = start();
    let token = client.token(&sim).await;
    client.ask(&sim, "us", &token).await.unwrap();
    sim.set_latency("us", Duration::from_millis(80)).unwrap();
    let before = sim.elapsed();
    client.ask(&sim, "us", &token).await.unwrap();
    assert!(sim.elapsed() >= before + Duration::from_millis(80));
    let record = &sim.calls()[1];
    assert!(
        record.at >= before + Duration::from_millis(40),
        "half of it passes before it counts"
    );
    assert!(record.latency.unwrap() >= Duration::from_millis(80));
}

#[tokio::test]
async fn limits_change_and_others_use_them_up() {
    let (sim, client) = start();
    let token = client.token(&sim).await;
    let limits = vec!["5/1h".parse().unwrap()];
    sim.apply(Action::Limits {
        limits,
        shape: Shape::Aligned,
    })
    .await
    .unwrap();
    assert_eq!(sim.other_calls(4), 4);
    assert_eq!(client.ask(&sim, "us", &token).await.unwrap().status, StatusCode::OK);
    assert_eq!(
        client.ask(&sim, "us", &token).await.unwrap().status,
        StatusCode::TOO_MANY_REQUESTS
    );
    assert_eq!(sim.other_calls(3), 0);
}

#[tokio::test]
async fn another_clients_calls_use_up_the_limits() {
    let (sim, client) = start();
    let token = client.token(&sim).await;
    let limits = vec!["50/1h".parse().unwrap()];
    let shape = Shape::Aligned;
    sim.apply(Action::Limits { limits, shape }).await.unwrap();
    // A thousand a second: the limit is reached in about 50 ms.
    sim.apply(Action::Neighbour { per_hour: 3_600_000 }).await.unwrap();
    let refused = async {
        while client.ask(&sim, "us", &token).await.unwrap().status == StatusCode::OK {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), refused).await.unwrap();
    assert!(sim.calls().len() < 50, "{} calls of ours", sim.calls().len());
}

#[tokio::test]
async fn a_scan_brings_a_newer_row() {
    let (sim, client) = start();
    let token = client.token(&sim).await;
    let rows = async || {
        client.ask(&sim, "us", &token).await.unwrap().json()["value"]
            .as_array()
            .unwrap()
            .len()
    };
    let before = rows().await;
    sim.scan().await;
    assert_eq!(rows().await, before + 1);
}

#[tokio::test]
async fn the_schedule_happens_in_the_order_of_its_times() {
    let at = Duration::from_millis(20);
    let config = Config {
        schedule: vec![
            Event {
                at: at * 2,
                action: Action::Shut { region: "us".into() },
            },
            Event {
                at,
                action: Action::Shut { region: "eu".into() },
            },
            Event {
                at: Duration::from_hours(1),
                action: Action::Open { region: "eu".into() },
            },
        ],
        ..Config::instant()
    };
    let (sim, client) = (Simulator::start(config).unwrap(), Client::http1());
    let token = client.token(&sim).await;
    let limit = Duration::from_secs(10);
    let until_gone = async |region| while client.ask(&sim, region, &token).await.is_ok() {};
    tokio::time::timeout(limit, until_gone("us")).await.unwrap();
    assert!(sim.elapsed() >= at * 2);
    assert!(
        client.ask(&sim, "eu", &token).await.is_err(),
        "it was named later, but goes first"
    );
    assert_eq!(sim.stop().await, 0, "what is still to come keeps nothing alive");
}

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_log_has_a_line_per_call_by_the_time_of_its_answer() {
    let sink = Sink::default();
    let config = Config {
        log: Some(Log::to_writer(sink.clone())),
        ..Config::instant()
    };
    let (sim, client) = (Simulator::start(config).unwrap(), Client::http1());
    let token = client.token(&sim).await;
    for n in 0..3u64 {
        let request = call(&sim, "eu", &token)
            .header("x-request-id", format!("r{n}"))
            .body(body(&[ID]))
            .unwrap();
        client.send(request).await.unwrap();
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let line = lines.last().unwrap();
        assert_eq!(lines.len() as u64, n + 1);
        assert_eq!(line["request_id"], format!("r{n}"));
        assert_eq!(
            (&line["region"], &line["status"], &line["number"]),
            (&"eu".into(), &200.into(), &n.into())
        );
        assert_eq!(line["ids"], serde_json::json!([ID]));
        assert!(line["at_us"].is_u64() && line["latency_us"].is_u64() && line["top"].is_null());
        assert!(!text.contains(&token));
    }
}

#[tokio::test]
async fn the_journal_is_bounded() {
    let config = Config {
        remember: 2,
        ..Config::instant()
    };
    let (sim, client) = (Simulator::start(config).unwrap(), Client::http1());
    let token = client.token(&sim).await;
    for _ in 0..5 {
        client.ask(&sim, "us", &token).await.unwrap();
    }
    let calls = sim.wait_for_calls(5).await.unwrap();
    assert_eq!(
        calls.iter().map(|call| (call.number, call.status)).collect::<Vec<_>>(),
        [(3, Some(200)), (4, Some(200))]
    );
}

#[tokio::test]
async fn settings_that_make_no_sense_are_refused() {
    let refused = |config: Config| Simulator::start(config).unwrap_err();
    let with = |change: fn(&mut Config)| {
        let mut config = Config::instant();
        change(&mut config);
        refused(config)
    };
    for (error, part) in [
        (with(|config| config.listen = "0.0.0.0:0".parse().unwrap()), "loopback"),
        (
            with(|config| config.listen = "127.0.0.1:65533".parse().unwrap()),
            "ports",
        ),
        (with(|config| config.regions.clear()), "a region"),
        (
            with(|config| config.regions.push(Region::new("us", Duration::ZERO))),
            "\"us\"",
        ),
        (with(|config| config.regions[0].name = "U S".into()), "U S"),
        (
            with(|config| {
                let action = Action::Shut { region: "xx".into() };
                config.schedule = vec![Event {
                    at: Duration::ZERO,
                    action,
                }];
            }),
            "\"xx\"",
        ),
    ] {
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[tokio::test]
async fn a_taken_port_is_an_error_and_leaves_nothing_behind() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let config = Config {
        listen: taken.local_addr().unwrap(),
        ..Config::instant()
    };
    assert_eq!(Simulator::start(config).unwrap_err().kind(), io::ErrorKind::AddrInUse);
}

#[tokio::test]
async fn the_gateway_configuration_names_every_region_and_no_secret() {
    let (sim, _) = start();
    let text = sim.config_toml();
    let parsed: toml::Table = text.parse().unwrap();
    let regions = parsed["defender"]["regions"].as_array().unwrap();
    let named: Vec<(String, String)> = sim
        .regions()
        .into_iter()
        .map(|(name, url)| (name, url.to_string()))
        .collect();
    for (region, (name, url)) in regions.iter().zip(&named) {
        assert_eq!(region["name"].as_str(), Some(name.as_str()));
        assert_eq!(format!("{}/", region["url"].as_str().unwrap()), *url);
    }
    assert_eq!(regions.len(), named.len());
    let credentials = parsed["credentials"].as_table().unwrap();
    let keys: Vec<_> = credentials.keys().map(String::as_str).collect();
    assert_eq!(keys, ["authority", "client_id", "scope", "tenant_id"]);
    assert!(!text.contains(crate::CLIENT_SECRET) && text.contains("AZURE_CLIENT_SECRET"));
}

#[tokio::test]
async fn dropping_it_ends_it() {
    let (sim, client) = start();
    let url = sim.authority().to_string();
    client.token(&sim).await;
    drop(sim);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while client
        .send(http::Request::post(&url).body("".into()).unwrap())
        .await
        .is_ok()
    {
        assert!(tokio::time::Instant::now() < deadline);
    }
}

#[tokio::test]
async fn as_a_program_it_prints_its_addresses_and_a_summary() {
    let mut lines = Vec::new();
    let config = Config {
        regions: vec![Region::new("eu", Duration::ZERO)],
        ..Config::instant()
    };
    crate::run(config, |line| lines.push(line.to_owned()), std::future::ready(()))
        .await
        .unwrap();
    let text = lines.join("\n");
    for part in [
        "# sign-in on http://127.0.0.1:",
        "region eu on http://",
        "[[defender.regions]]",
        "# export AZURE_CLIENT_SECRET='",
        "within 100/1m: no call",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}
