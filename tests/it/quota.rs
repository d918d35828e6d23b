//! The upstream's limits are kept, whatever callers do, and callers learn the truth about when to
//! come back.

use std::time::Duration;

use futures_util::future::join_all;
use http::StatusCode;
use tokio::time::Instant;

use defender_gateway::testing::sim::{Fault, Limit, Often, Plan, Shape};

use crate::support::{Answer, Controls, Running, Setup, id};

fn statuses(answers: &[Answer]) -> Vec<u16> {
    answers.iter().map(|answer| answer.status.as_u16()).collect()
}

/// No window over, and not one 429.
fn assert_within(running: &Running) {
    let judge = running.simulator.judge();
    assert!(judge.is_satisfied(), "{:?}", judge.findings());
    let refused = running
        .upstream_statuses()
        .iter()
        .filter(|status| **status == Some(429))
        .count();
    assert_eq!(refused, 0, "the upstream had to refuse");
}

#[tokio::test]
async fn a_second_hundred_is_refused_at_once_with_the_exact_time() {
    let running = Setup::new().start().await;
    let start = Instant::now();
    let first = running.caller.ask_each(0..100).await;
    assert_eq!(statuses(&first), [200; 100]);
    let before = Instant::now();
    let second = running.caller.ask_each(100..200).await;
    assert!(
        before.elapsed() < Duration::from_secs(40),
        "nobody is kept waiting in vain: a slot comes after a minute"
    );
    for answer in &second {
        assert_eq!(
            (answer.status.as_u16(), &*answer.error_code()),
            (429, "TooManyRequests")
        );
        assert!(answer.json()["type"].as_str().unwrap().ends_with("#quota-exceeded"));
    }
    // The first slot is a minute after the first call was answered; later ones are spread so that
    // the hour lasts. Who may wait 20 s is told to come ten seconds before its slot.
    let mut waits: Vec<_> = second.iter().map(|answer| answer.retry_after().unwrap()).collect();
    waits.sort_unstable();
    let passed = start.elapsed().as_secs();
    assert!((49 - passed..=51).contains(&waits[0]), "{waits:?}");
    assert_eq!(running.simulator.calls().len(), 100);
    assert_within(&running);
    running.finish().await;
}

#[tokio::test]
async fn a_second_hundred_that_can_wait_is_answered_in_the_next_window() {
    // The documented limits, sixty times as fast: what is an hour there is a minute here.
    let running = Setup::new()
        .limits(Shape::SlidingLog, &["100/1s", "1500/1m"])
        .start()
        .await;
    let first = running.caller.ask_each(0..100).await;
    assert_eq!(statuses(&first), [200; 100]);
    // The short window is free again after a second, but the long one has to last: some of them
    // wait for seconds.
    let second = running.caller.ask_each(100..200).await;
    assert_eq!(statuses(&second), [200; 100]);
    let calls = running.simulator.calls();
    assert_eq!(calls.len(), 200);
    assert!(calls[100].at >= calls[0].at + Duration::from_secs(1));
    assert_eq!(running.status().await["queue"]["waiting"], 0);
    assert_within(&running);
    running.finish().await;
}

#[tokio::test]
async fn a_retry_after_that_is_obeyed_is_early_enough() {
    let running = Setup::new().limits(Shape::SlidingLog, &["5/3s"]).start().await;
    assert_eq!(statuses(&running.caller.ask_each(0..5).await), [200; 5]);
    let refused = running.caller.ask_with(&[id(5)], &[("prefer", "wait=1")]).await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    let wait = refused.retry_after().unwrap();
    assert!((2..=4).contains(&wait), "{wait}");
    tokio::time::sleep(Duration::from_secs(wait)).await;
    let answer = running.caller.ask_with(&[id(5)], &[("prefer", "wait=1")]).await;
    assert_eq!(
        answer.status,
        StatusCode::OK,
        "the same request came when it was told to"
    );
    assert_eq!(answer.field("preference-applied"), "wait=1");
    assert_within(&running);
    running.finish().await;
}

/// As many callers as there are calls in two short windows ask without a pause for several short
/// windows.
async fn saturate(shape: Shape) {
    let limits = ["20/1s", "200/30s"];
    let running = Setup::new()
        .region("eu", 20)
        .simulator(|config| config.regions[0].jitter = Duration::from_millis(20))
        .limits(shape, &limits)
        .start()
        .await;
    let end = Instant::now() + Duration::from_secs(5);
    let caller = running.caller();
    let greedy = (0..40).map(|n| async move {
        let mut answered = 0;
        for round in 0.. {
            if Instant::now() > end {
                break;
            }
            let answer = caller
                .ask_with(&[id(n * 10_000 + round)], &[("prefer", "wait=2")])
                .await;
            match answer.status.as_u16() {
                200 => answered += 1,
                429 => assert!(answer.retry_after().is_some()),
                other => panic!("{shape}: {other}: {}", answer.text()),
            }
        }
        answered
    });
    let answered: usize = join_all(greedy).await.into_iter().sum();
    assert_within(&running);
    // The first second's worth and then the share that makes the long window last, at the very
    // least.
    let allowed: Limit = limits[0].parse().unwrap();
    assert!(answered >= 2 * allowed.calls() as usize, "{shape}: only {answered}");
    running.finish().await;
}

#[tokio::test]
async fn saturated_callers_earn_no_429_from_an_anchored_window() {
    saturate(Shape::Anchored).await;
}

#[tokio::test]
async fn saturated_callers_earn_no_429_from_an_aligned_window() {
    saturate(Shape::Aligned).await;
}

#[tokio::test]
async fn saturated_callers_earn_no_429_from_a_sliding_log() {
    saturate(Shape::SlidingLog).await;
}

#[tokio::test]
async fn saturated_callers_earn_no_429_from_a_token_bucket() {
    saturate(Shape::TokenBucket).await;
}

#[tokio::test]
async fn an_upstream_429_pauses_everybody_and_nobody_sees_it() {
    let running = Setup::new().start().await;
    let wait = Duration::from_secs(2);
    running
        .simulator
        .set_faults("eu", &Plan::of(Fault::Throttle(wait), Often::Times(1)))
        .unwrap();
    let asked = running.caller.ask_each(0..1);
    let paused = async {
        let status = running
            .until_status("a pause", |status| status["quota"]["paused_until_s"].is_number())
            .await;
        let left = status["quota"]["paused_until_s"].as_f64().unwrap();
        assert!((0.0..=4.0).contains(&left), "{status}");
        // Whoever comes now waits as well; who cannot wait is told.
        let hurried = running.caller.ask_with(&[id(100)], &[("prefer", "wait=0")]).await;
        assert_eq!(
            (hurried.status.as_u16(), &*hurried.error_code()),
            (429, "TooManyRequests")
        );
        assert!((1..=4).contains(&hurried.retry_after().unwrap()), "{hurried:?}");
        running.caller.ask_each(1..6).await
    };
    let (hit, others) = tokio::join!(asked, paused);
    assert_eq!((statuses(&hit), statuses(&others)), (vec![200], vec![200; 5]));
    let calls = running.simulator.calls();
    assert_eq!(calls[0].status, Some(429));
    let pause = calls[1].at.saturating_sub(calls[0].at);
    assert!(pause >= wait, "only {pause:?}");
    assert_eq!(calls.len(), 7, "each is retried in place, once");
    let status = running.status().await;
    assert_eq!(
        status["quota"]["foreign_calls"], 0,
        "one refusal says nothing of others: {status}"
    );
    assert!(status["quota"]["paused_until_s"].is_null(), "{status}");
    running.finish().await;
}

#[tokio::test]
async fn calls_of_others_with_the_same_app_are_waited_out_and_estimated() {
    let running = Setup::new()
        .limits(Shape::SlidingLog, &["100/1s", "20/4s"])
        .start()
        .await;
    assert_eq!(running.simulator.other_calls(20), 20);
    let answers = running.caller.ask_each(0..3).await;
    assert_eq!(statuses(&answers), [200; 3], "they wait and are answered");
    let status = running.status().await;
    // What is estimated of others is forgotten within such a short window; our own ledger never
    // held it.
    assert!(status["quota"]["windows"][1]["used"].as_u64().unwrap() <= 5, "{status}");
    running.finish().await;
}

#[tokio::test]
async fn what_is_estimated_of_others_is_shown() {
    let running = Setup::new()
        .limits(Shape::SlidingLog, &["100/1s", "20/1m"])
        .start()
        .await;
    let shown = async || {
        let scraped = running.admin.fetch("/metrics").await;
        let name = "defender_gateway_quota_foreign_calls{window=\"1m\"} ";
        let text = scraped.text().to_owned();
        let value = text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        value.unwrap_or_else(|| panic!("{text}")).parse::<u64>().unwrap()
    };
    assert_eq!(shown().await, 0);
    assert_eq!(running.simulator.other_calls(20), 20);
    let refused = running.caller.ask_with(&[id(1)], &[("prefer", "wait=0")]).await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS, "{refused:?}");
    assert!((1..=62).contains(&refused.retry_after().unwrap()), "{refused:?}");
    // The window was named, and a wait that only it can need. Some calls always find out, so nine
    // tenths are the most.
    let status = running.status().await;
    assert_eq!(status["quota"]["foreign_calls"], 18, "{status}");
    assert_eq!(shown().await, 18);
    // Our own call is in the ledger, and nothing else.
    assert_eq!(status["quota"]["windows"][1]["used"], 1, "{status}");
    running.finish().await;
}

#[tokio::test]
async fn a_429_that_passes_through_says_when_to_come_back() {
    let running = Setup::new().start().await;
    // No field and no message tells the wait: the gateway knows when it tries again.
    running
        .simulator
        .set_faults("eu", &Plan::of(Fault::Busy(None), Often::Times(1)))
        .unwrap();
    let answer = running.caller.ask_with(&[id(0)], &[("prefer", "wait=0")]).await;
    assert_eq!(answer.status.as_u16(), 429, "{answer:?}");
    assert!((1..=5).contains(&answer.retry_after().unwrap()), "{answer:?}");
    running.finish().await;
}
