//! HTTP/1.1, HTTP/2 and concurrent calls.

use std::time::Duration;

use futures_util::future::join_all;
use http::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::client::Client;
use crate::{Config, Shape, Simulator};

#[tokio::test]
async fn both_versions_of_http_are_spoken() {
    let sim = Simulator::start(Config::instant()).unwrap();
    for (client, version) in [(Client::http1(), "HTTP/1.1"), (Client::http2(), "HTTP/2.0")] {
        let token = client.token(&sim).await;
        assert_eq!(client.ask(&sim, "us", &token).await.unwrap().status, StatusCode::OK);
        assert_eq!(sim.calls().last().unwrap().version, version);
    }
    assert_eq!(sim.stop().await, 0);
}

#[tokio::test]
async fn of_many_calls_at_once_exactly_the_limit_is_admitted_under_every_shape() {
    for shape in Shape::ALL {
        let sim = Simulator::start(Config {
            shape,
            limits: vec!["20/1h".parse().unwrap()],
            ..Config::instant()
        })
        .unwrap();
        let client = Client::http2();
        let token = client.token(&sim).await;
        let regions = ["us", "eu", "uk", "au"];
        let answers = join_all((0..50).map(|n| client.ask(&sim, regions[n % 4], &token))).await;
        let admitted = answers
            .iter()
            .filter(|answer| answer.as_ref().unwrap().status == StatusCode::OK)
            .count();
        assert_eq!(admitted, 20, "{shape}");
        let calls = sim.calls();
        assert!(calls.is_sorted_by_key(|call| call.at));
        assert_eq!(calls.iter().filter(|call| call.status == Some(429)).count(), 30);
    }
}

/// The opening of an HTTP/2 client: the preface of RFC 9113 §3.4, and an empty SETTINGS frame.
const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

#[tokio::test]
async fn distance_shows_in_the_set_up_of_a_connection_and_costs_no_call() {
    let sim = Simulator::start(Config::default()).unwrap();
    for region in Config::default().regions {
        let addr = sim.region(&region.name).unwrap().socket_addrs(|| None).unwrap();
        let before = sim.elapsed();
        let mut stream = TcpStream::connect(&*addr).await.unwrap();
        stream.write_all(GREETING).await.unwrap();
        stream.read_u8().await.unwrap();
        let took = sim.elapsed().checked_sub(before).unwrap();
        assert!(took >= region.latency, "{}: {took:?}", region.name);
        // A generous bound for a busy machine.
        assert!(
            took < region.latency + Duration::from_secs(30),
            "{}: {took:?}",
            region.name
        );
    }
    assert!(sim.calls().is_empty());
    assert_eq!(sim.stop().await, 0);
}
