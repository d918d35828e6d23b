//! Hosts that make no progress, or send invalid responses: what callers notice, what it costs, and when they are left and taken back.

use std::time::Duration;

use futures_util::future::join_all;
use http::StatusCode;

use super::{Bench, HEAD, Is, ROUND, WAIT, pass};

/// What a caller may wait beyond another host's answer.
const BEYOND: Duration = Duration::from_secs(5);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// Hosts of which the first is the nearest, measured; with so many answers behind them.
async fn warm<const N: usize>(hosts: [(&str, Is); N], answers: usize) -> Bench {
    let bench = Bench::new(hosts);
    pass(ROUND).await;
    for _ in 0..answers {
        bench.ask(WAIT).await.0.unwrap();
    }
    bench.world.called();
    bench
}

#[tokio::test(start_paused = true)]
async fn calls_under_way_to_a_host_that_went_silent_are_made_elsewhere_in_time() {
    // With nothing known yet, little, and much.
    for answers in [0, 3, 150] {
        let bench = warm([("eu", Is::Up(10)), ("us", Is::Up(80))], answers).await;
        bench.world.set("eu", Is::Silent);
        let slowest = bench.ask_all(30).await;
        println!("{answers} answers before: the slowest of 30 took {slowest:?}");
        assert!(slowest <= ms(80) + BEYOND, "{slowest:?}");
        assert_eq!(
            bench.world.counted(["eu", "us"]),
            [30, 30],
            "each is made once more, and no more"
        );
        assert!(!bench.healthy("eu"));
        bench.ask_all(10).await;
        assert_eq!(bench.world.counted(["eu", "us"]), [0, 10], "it draws no further calls");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_host_costs_one_call_at_a_time_to_find_out_and_comes_back_by_itself() {
    let bench = warm([("eu", Is::Up(10)), ("us", Is::Up(80))], 30).await;
    bench.world.set("eu", Is::Silent);
    // An hour in which somebody asks every second.
    let mut slowest = Duration::ZERO;
    for _ in 0..1200 {
        slowest = slowest.max(bench.ask_all(3).await);
        pass(secs(3)).await;
    }
    let [eu, us] = bench.world.counted(["eu", "us"]);
    println!("{eu} calls of 3600 went to the silent host, the slowest took {slowest:?}");
    assert!(slowest <= ms(80) + BEYOND, "{slowest:?}");
    // Three at first, then one each time that its backoff is over: 30 s, 60 s ... 10 min.
    assert!(eu <= 3 + 11, "{eu}");
    assert_eq!(us, 3600);
    bench.world.set("eu", Is::Up(10));
    pass(secs(601)).await;
    bench.ask_all(3).await;
    bench.ask_all(3).await;
    assert!(bench.healthy("eu"));
    assert_eq!(bench.selected(), "eu");
}

#[tokio::test(start_paused = true)]
async fn a_host_that_may_be_back_is_asked_by_one_caller_first() {
    let bench = warm([("eu", Is::Up(10)), ("us", Is::Up(80))], 30).await;
    bench.world.set("eu", Is::Silent);
    bench.ask_all(1).await;
    pass(secs(31)).await;
    bench.world.called();
    bench.ask_all(50).await;
    assert_eq!(bench.world.counted(["eu", "us"]), [1, 50]);
    bench.world.set("eu", Is::Slow(100));
    pass(secs(61)).await;
    bench.ask_all(50).await;
    assert_eq!(bench.world.counted(["eu", "us"]), [1, 49]);
    bench.ask_all(50).await;
    assert_eq!(bench.world.counted(["eu", "us"]), [50, 0], "one good answer is enough");
}

#[tokio::test(start_paused = true)]
async fn where_answers_are_slow_nothing_is_asked_twice() {
    let bench = warm([("eu", Is::Slow(8000)), ("us", Is::Slow(8000))], 1).await;
    for _ in 0..20 {
        assert!(bench.ask_all(25).await < secs(9));
    }
    assert_eq!(bench.world.counted(["eu", "us"]), [500, 0]);
    assert!(bench.healthy("eu") && bench.healthy("us"));
}

#[tokio::test(start_paused = true)]
async fn that_all_are_slow_is_found_out_by_one_call() {
    // From the first call on, and after a time in which all were fast.
    for answers in [0, 150] {
        let bench = warm([("eu", Is::Up(10)), ("us", Is::Up(80))], answers).await;
        bench.world.set("eu", Is::Slow(8000));
        bench.world.set("us", Is::Slow(8000));
        let slowest = bench.ask_all(30).await;
        assert!(slowest < secs(3) + secs(9), "{slowest:?}");
        for _ in 0..10 {
            bench.ask_all(30).await;
        }
        let [eu, us] = bench.world.counted(["eu", "us"]);
        println!("{answers} answers before: {} further calls of 330", eu + us - 330);
        assert!(eu + us <= 330 + 2, "{eu} and {us}");
        assert!(bench.healthy("eu") && bench.healthy("us"));
    }
}

#[tokio::test(start_paused = true)]
async fn without_another_host_a_silent_one_is_waited_for() {
    let bench = warm([("eu", Is::Up(10))], 30).await;
    bench.world.set("eu", Is::Silent);
    let (result, took) = bench.ask(WAIT).await;
    assert!(result.is_err());
    assert!(took >= HEAD && took < HEAD + secs(1), "{took:?}");
    assert_eq!(bench.world.called().len(), 1, "no further call");
    // One that cannot be connected to is none either.
    let bench = warm([("eu", Is::Up(10)), ("us", Is::Refused)], 30).await;
    bench.world.set("eu", Is::Silent);
    let (_, took) = bench.ask(WAIT).await;
    assert!(took >= HEAD, "{took:?}");
    assert_eq!(bench.world.counted(["eu"]), [1]);
}

#[tokio::test(start_paused = true)]
async fn where_all_are_silent_the_last_attempt_has_all_the_time() {
    let bench = warm([("eu", Is::Up(10)), ("us", Is::Up(80)), ("uk", Is::Up(90))], 30).await;
    for host in ["eu", "us", "uk"] {
        bench.world.set(host, Is::Silent);
    }
    let all = join_all((0..10).map(|_| bench.ask(WAIT))).await;
    let calls = bench.world.called().len();
    println!("{calls} calls for 10 requests");
    for (result, took) in all {
        assert!(result.is_err());
        assert!(took <= secs(10) + HEAD, "{took:?}");
    }
    assert_eq!(calls, 10 + 2, "one at each of the two that it could go on from");
}

#[tokio::test(start_paused = true)]
async fn two_silent_hosts_of_three_are_survived() {
    let bench = warm([("eu", Is::Up(10)), ("uk", Is::Up(20)), ("us", Is::Up(80))], 30).await;
    bench.world.set("eu", Is::Silent);
    bench.world.set("uk", Is::Silent);
    let slowest = bench.ask_all(20).await;
    println!("the slowest of 20 took {slowest:?}");
    assert!(slowest <= ms(80) + 2 * BEYOND, "{slowest:?}");
    assert_eq!(bench.ask_all(20).await, ms(80));
}

#[tokio::test(start_paused = true)]
async fn one_call_that_stalls_among_answered_ones_is_made_elsewhere_alone() {
    let bench = warm([("eu", Is::Up(10)), ("us", Is::Up(80))], 30).await;
    bench.world.set("eu", Is::Patchy);
    let slowest = {
        let all = (0..4).map(|_| bench.ask_all(1));
        let asked = join_all(all).await;
        asked.into_iter().max().unwrap()
    };
    assert_eq!(slowest, ms(1));
    // The fifth stalls, and others are answered meanwhile.
    let stalled = bench.ask_all(1);
    let others = async {
        for _ in 0..3 {
            pass(ms(900)).await;
            bench.ask_all(1).await;
        }
    };
    let (slowest, ()) = tokio::join!(stalled, others);
    assert!(slowest <= ms(80) + BEYOND, "{slowest:?}");
    assert_eq!(bench.world.counted(["eu", "us"]), [8, 1]);
}

#[tokio::test(start_paused = true)]
async fn who_started_in_time_is_made_elsewhere_past_the_deadline_too() {
    for left_ms in [0, 50, 1000, 2999, 3001, 5000] {
        let bench = warm([("eu", Is::Up(10)), ("us", Is::Up(80))], 30).await;
        bench.world.set("eu", Is::Silent);
        let (result, took) = bench.ask(ms(left_ms)).await;
        assert_eq!(result.unwrap().status, StatusCode::OK, "{left_ms} ms left");
        assert!(took <= ms(80) + BEYOND, "{left_ms} ms left: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_answers_with_a_page_costs_one_call() {
    for status in [200, 403, 404] {
        let bench = warm([("eu", Is::Up(10)), ("us", Is::Up(80))], 3).await;
        bench.world.set("eu", Is::Page(status));
        for _ in 0..12 {
            let slowest = bench.ask_all(1).await;
            assert!(slowest < ms(500), "{status}: {slowest:?}");
        }
        assert_eq!(bench.world.counted(["eu", "us"]), [1, 12], "{status}");
        assert!(!bench.healthy("eu"), "{status}");
        bench.world.set("eu", Is::Up(10));
        pass(secs(31)).await;
        bench.ask_all(1).await;
        assert!(bench.healthy("eu"), "{status}");
        assert_eq!(bench.world.counted(["eu", "us"]), [1, 0], "{status}: back");
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_says_that_it_cannot_is_left_after_three_times() {
    for status in [421, 502, 503, 520] {
        let bench = warm([("eu", Is::Up(10)), ("us", Is::Up(80))], 3).await;
        bench.world.set("eu", Is::Page(status));
        for _ in 0..100 {
            bench.ask_all(1).await;
        }
        let [eu, us] = bench.world.counted(["eu", "us"]);
        assert!(eu <= 3, "{status}: {eu}");
        assert_eq!(us, 100, "{status}");
        assert!(!bench.healthy("eu"), "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn where_all_answer_with_pages_nobody_pays_for_more_than_one_further_call() {
    let bench = warm([("eu", Is::Up(10)), ("us", Is::Up(80)), ("uk", Is::Up(90))], 3).await;
    for host in ["eu", "us", "uk"] {
        bench.world.set(host, Is::Page(404));
    }
    for _ in 0..10 {
        assert!(bench.ask(WAIT).await.0.is_err());
        assert!(bench.world.called().len() <= 2);
    }
    // Alone, there is nowhere to go.
    let bench = warm([("eu", Is::Page(404))], 0).await;
    assert!(bench.ask(WAIT).await.0.is_err());
    assert_eq!(bench.world.called().len(), 1);
}
