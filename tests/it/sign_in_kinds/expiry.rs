//! Tokens end at every moment of a request, and nobody notices.

use crate::support::Controls;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt as _};
use tokio::time::{Instant, sleep, sleep_until};

use super::gateway::{Answer, Running, one_region, roomy, simulator};
use defender_gateway::testing::sim::{CLIENT_SECRET, Often, Plan, SignInFault, Simulator};
use defender_gateway::testing::task::Tasks;

const SECRET: [(&str, &str); 1] = [("AZURE_CLIENT_SECRET", CLIENT_SECRET)];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_may_be_revoked_at_any_moment_of_a_request() {
    let mut config = roomy(one_region());
    config.regions[0].latency = Duration::from_millis(80);
    let sim = Simulator::start(config).unwrap();
    let gateway = Arc::new(Running::start(&sim, &SECRET).await);
    gateway.until_signed_in().await;
    assert_eq!(gateway.ask().await.status, 200);
    // One every two milliseconds; the revocation comes in the middle, so that it meets requests
    // that have not left, are on their way, have arrived, and are on their way back.
    let begun = Instant::now();
    let requests = (1..=200).map(|nth| {
        let gateway = Arc::clone(&gateway);
        async move {
            sleep_until(begun + Duration::from_millis(2) * u32::try_from(nth).unwrap()).await;
            gateway.ask_with(nth, &[]).await
        }
    });
    let revocation = async {
        sleep_until(begun + Duration::from_millis(200)).await;
        sim.revoke_tokens().await;
    };
    let (answers, ()) = tokio::join!(join_all(requests), revocation);
    let bad: Vec<_> = answers.iter().filter(|answer| answer.status != 200).collect();
    assert!(bad.is_empty(), "{} failed: {bad:?}", bad.len());
    let rejected = sim.calls().iter().filter(|call| call.status == Some(401)).count();
    assert!(rejected > 0, "the revocation met no request");
    assert_eq!(sim.token_requests().len(), 2, "one renewal for all");
    println!("{rejected} of 200 requests were answered 401 first");
    Arc::into_inner(gateway).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_seconds_with_a_sign_in_of_a_second_fail_nobody() {
    let sim = simulator();
    sim.set_token_lifetime(Duration::from_secs(3), None);
    sim.set_sign_in_faults(Plan::of(SignInFault::Slow(Duration::from_secs(1)), Often::Always));
    let gateway = Arc::new(Running::start(&sim, &SECRET).await);
    gateway.until_signed_in().await;
    let begun = Instant::now();
    let tasks = Tasks::new();
    let mut requests = Vec::new();
    while begun.elapsed() < Duration::from_secs(5) {
        let (gateway, nth) = (Arc::clone(&gateway), requests.len());
        requests.push(tasks.spawn("request", async move { gateway.ask_with(nth, &[]).await }));
        sleep(Duration::from_millis(10)).await;
    }
    for (nth, request) in requests.into_iter().enumerate() {
        let answer = request.await.unwrap();
        assert_eq!(answer.status, 200, "request {nth}: {}", answer.text);
    }
    assert!(sim.token_requests().len() >= 3, "{:?}", sim.token_requests());
    Arc::into_inner(gateway).unwrap().stop().await;
}

const STORM: usize = 300;

/// More would measure how fast connections are made.
const AT_ONCE: usize = 30;

/// A storm, and how long the slowest and the middle request took.
async fn storm(gateway: &Running, first: usize) -> (Duration, Duration) {
    let asking = (0..STORM).map(|nth| gateway.ask_with(first + nth, &[]));
    let answers: Vec<_> = stream::iter(asking).buffer_unordered(AT_ONCE).collect().await;
    let bad = answers.iter().find(|answer: &&Answer| answer.status != 200);
    assert!(bad.is_none(), "{bad:?}");
    let mut took: Vec<_> = answers.iter().map(|answer| answer.took).collect();
    took.sort_unstable();
    (took[STORM - 1], took[STORM / 2])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_at_the_moment_of_expiry_is_one_token_request_and_no_slower_than_any_other() {
    let sim = simulator();
    // Signing in takes half a second, which would be seen.
    let delay = Duration::from_millis(500);
    sim.set_sign_in_faults(Plan::of(SignInFault::Slow(delay), Often::Always));
    let life = Duration::from_secs(5);
    sim.set_token_lifetime(life, None);
    let gateway = Running::start(&sim, &SECRET).await;
    gateway.until_signed_in().await;
    let begun = Instant::now();
    sim.set_token_lifetime(Duration::from_hours(1), None);
    let calm = storm(&gateway, 1).await;
    // The first token ends; its successor has been there for a while.
    sleep_until(begun + life - delay - Duration::from_millis(200)).await;
    let busy = storm(&gateway, 2000).await;
    println!("slowest and median of {STORM}: {calm:?} with a fresh token, {busy:?} at the moment of expiry");
    assert_eq!(sim.token_requests().len(), 2, "one token request for everybody");
    assert!(busy.1 < calm.1 * 3 + delay / 2, "{calm:?} {busy:?}");
    gateway.stop().await;
}
