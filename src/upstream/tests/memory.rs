//! Calls that wait for memory.

use std::sync::Arc;
use std::time::Duration;

use http::Response;
use http_body_util::Full;
use prometheus_client::registry::Registry;
use tokio::time::Instant;
use tower::ServiceExt as _;
use url::Url;

use super::caller;
use super::client::signed;
use crate::attempt::{Delivery, RetryHint};
use crate::memory::Shares;
use crate::net::testing::{Http, Names, client, quick};
use crate::scan::Endpoint;
use crate::upstream::{Client, Config, Error, Metrics};

#[tokio::test]
async fn a_call_waits_for_memory_and_is_not_made_without_any() {
    let host = Http::new(|_| Response::new(Full::from("{}")));
    let names = Names::new([("eu.test", host.start().await)]);
    let mut registry = Registry::default();
    let regions = [(Arc::new("http://eu.test".parse::<Url>().unwrap()), Arc::from("eu"))];
    let metrics = Metrics::register(&mut registry).of_regions(regions);
    let memory = Shares::of(64 << 20, None).answers();
    let config = Config::new(Duration::from_secs(5));
    let client = Client::new(client(&quick(), &names), config, memory.clone(), metrics);
    let ask = || {
        client
            .clone()
            .oneshot(signed("http://eu.test", Endpoint::HISTORY, None))
    };
    let held = memory.small.try_reserve(memory.small.bytes()).unwrap();
    let (answer, ()) = tokio::join!(ask(), async {
        tokio::task::yield_now().await;
        assert!(memory.small.is_wanted());
        drop(held);
    });
    // The answer keeps the memory it takes, and no more.
    let answer = answer.unwrap();
    assert_eq!(memory.small.left(), memory.small.bytes() - answer.body.len());
    drop(answer);
    let _held = memory.small.try_reserve(memory.small.bytes()).unwrap();
    tokio::time::pause();
    // Where its caller's wait was too short for it, who shares the call may have more time.
    for (patience, waited, again) in [
        (0, 1, RetryHint::Once),
        (4, 4, RetryHint::Once),
        (300, 15, RetryHint::Never),
    ] {
        let mut impatient = signed("http://eu.test", Endpoint::HISTORY, None);
        impatient.routed.charged.caller = caller(Duration::from_secs(patience));
        let begun = Instant::now();
        let failure = client.clone().oneshot(impatient).await.unwrap_err();
        assert_eq!((failure.delivery, failure.again), (Delivery::NotSent, again));
        assert_eq!(begun.elapsed().as_secs(), waited, "with a wait of {patience} s");
    }
    let failure = ask().await.unwrap_err();
    assert_eq!((failure.delivery, failure.again), (Delivery::NotSent, RetryHint::Never));
    let error = failure.source.downcast_ref::<Error>().unwrap();
    assert!(error.is_exhausted() && !error.is_timeout(), "{error:?}");
    // Only the call that left says how long Defender takes.
    let mut shown = String::new();
    prometheus_client::encoding::text::encode(&mut shown, &registry).unwrap();
    assert!(
        shown.contains("upstream_duration_seconds_count{region=\"eu\"} 1\n"),
        "{shown}"
    );
}

#[tokio::test]
async fn the_time_until_there_is_memory_is_not_defenders() {
    let host = Http::new(|_| Response::new(Full::from("{}")));
    let names = Names::new([("eu.test", host.start().await)]);
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let memory = Shares::of(64 << 20, None).answers();
    let config = Config::new(Duration::from_secs(5));
    let client = Client::new(client(&quick(), &names), config, memory.clone(), metrics);
    let held = memory.small.try_reserve(memory.small.bytes()).unwrap();
    let asked = client.oneshot(signed("http://eu.test", Endpoint::HISTORY, None));
    let (answer, ()) = tokio::join!(asked, async {
        tokio::task::yield_now().await;
        assert!(memory.small.is_wanted());
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(12)).await;
        tokio::time::resume();
        drop(held);
    });
    answer.unwrap();
    let mut shown = String::new();
    prometheus_client::encoding::text::encode(&mut shown, &registry).unwrap();
    assert!(
        shown.contains("upstream_duration_seconds_bucket{le=\"10.0\",region=\"other\"} 1\n"),
        "{shown}"
    );
}
