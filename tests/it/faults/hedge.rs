//! A late answer is asked for elsewhere, and both calls are paid for.

use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use defender_gateway::sim::{self, Simulator};

use super::bench::Bench;
use super::host::Fault;

const HEDGING: &str = "[quota]\nlimits = [\"400/1m\"]\nburst = 400\n[defender]\ntimeout = \"1m\"\nhedge = true\n";
const NOT_HEDGING: &str = "[quota]\nlimits = [\"400/1m\"]\nburst = 400\n[defender]\ntimeout = \"2s\"\n";

/// Enough answers for their 95th percentile to be known.
async fn warm(settings: &str) -> (Simulator, Bench) {
    let sign_in = Simulator::start(sim::Config::instant()).unwrap();
    let bench = Bench::start(&sign_in, settings).await;
    bench.until_measured().await;
    for _ in 0..30 {
        assert_eq!(bench.ask().await, StatusCode::OK);
    }
    (sign_in, bench)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_answer_comes_from_the_next_region_and_both_calls_are_charged() {
    let (_sign_in, bench) = warm(HEDGING).await;
    // Some of the answers may have been late by chance, on a busy machine.
    let (charged, near, far) = (bench.charged().await, bench.near.calls(), bench.far.calls());
    bench.near.set(Fault::SlowHead).await;
    let begun = Instant::now();
    assert_eq!(bench.ask().await, StatusCode::OK);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!((bench.near.calls() - near, bench.far.calls() - far), (1, 1));
    assert_eq!(bench.charged().await - charged, 2);
    let status = bench.status().await;
    assert!(status["quota"]["in_flight"].as_u64().unwrap() >= 1, "{status}");
    let metrics = bench.metrics().await;
    let won = "defender_gateway_upstream_hedges_total{result=\"won\"}";
    assert!(metrics.contains(won), "{metrics}");
    assert!(bench.near_is_selected().await, "a late answer is no fault");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_default_nothing_is_asked_twice() {
    let (_sign_in, bench) = warm(NOT_HEDGING).await;
    assert_eq!(
        (bench.charged().await, bench.near.calls(), bench.far.calls()),
        (30, 30, 0)
    );
    bench.near.set(Fault::SlowHead).await;
    let begun = Instant::now();
    assert_eq!(bench.ask().await, StatusCode::OK);
    assert!(
        begun.elapsed() >= Duration::from_millis(1500),
        "only after the attempt's timeout"
    );
    let metrics = bench.metrics().await;
    for result in ["won", "lost"] {
        let none = format!("defender_gateway_upstream_hedges_total{{result=\"{result}\"}} 0");
        assert!(metrics.contains(&none), "{none}: {metrics}");
    }
}
