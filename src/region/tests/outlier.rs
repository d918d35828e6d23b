//! Hosts that make no progress, or send invalid responses: what callers notice, what it costs, and
//! when the hosts are ejected and used again.

use std::time::Duration;

use futures_util::future::join_all;
use http::StatusCode;

use super::{Behaviour, Fixture, HEAD, ROUND, WAIT, pass};

/// How much longer than another host's answer a caller may wait.
const BEYOND: Duration = Duration::from_secs(5);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// Measured hosts of which the first is the nearest, after this many answers.
async fn warm<const N: usize>(hosts: [(&str, Behaviour); N], answers: usize) -> Fixture {
    let fixture = Fixture::new(hosts);
    pass(ROUND).await;
    for _ in 0..answers {
        fixture.ask(WAIT).await.0.unwrap();
    }
    fixture.network.called();
    fixture
}

#[tokio::test(start_paused = true)]
async fn calls_under_way_to_a_host_that_went_silent_are_made_elsewhere_in_time() {
    // With no answers known yet, a few, and many.
    for answers in [0, 3, 150] {
        let fixture = warm([("eu", Behaviour::Up(10)), ("us", Behaviour::Up(80))], answers).await;
        fixture.network.set("eu", Behaviour::Silent);
        let slowest = fixture.ask_all(30).await;
        println!("{answers} answers before: the slowest of 30 took {slowest:?}");
        assert!(slowest <= ms(80) + BEYOND, "{slowest:?}");
        assert_eq!(
            fixture.network.counted(["eu", "us"]),
            [30, 30],
            "each is made once more, and no more"
        );
        assert!(!fixture.healthy("eu"));
        fixture.ask_all(10).await;
        assert_eq!(
            fixture.network.counted(["eu", "us"]),
            [0, 10],
            "it draws no further calls"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_host_costs_one_call_at_a_time_to_find_out_and_comes_back_by_itself() {
    let fixture = warm([("eu", Behaviour::Up(10)), ("us", Behaviour::Up(80))], 30).await;
    fixture.network.set("eu", Behaviour::Silent);
    // An hour in which a caller asks every second.
    let mut slowest = Duration::ZERO;
    for _ in 0..1200 {
        slowest = slowest.max(fixture.ask_all(3).await);
        pass(secs(3)).await;
    }
    let [eu, us] = fixture.network.counted(["eu", "us"]);
    println!("{eu} calls of 3600 went to the silent host, the slowest took {slowest:?}");
    assert!(slowest <= ms(80) + BEYOND, "{slowest:?}");
    // Three at first, then one each time that its backoff is over: 30 s, 60 s ... 10 min.
    assert!(eu <= 3 + 11, "{eu}");
    assert_eq!(us, 3600);
    fixture.network.set("eu", Behaviour::Up(10));
    pass(secs(601)).await;
    fixture.ask_all(3).await;
    fixture.ask_all(3).await;
    assert!(fixture.healthy("eu"));
    assert_eq!(fixture.selected(), "eu");
}

#[tokio::test(start_paused = true)]
async fn a_host_that_may_be_back_is_asked_by_one_caller_first() {
    for under_way in [1, 5] {
        let fixture = warm([("eu", Behaviour::Up(10)), ("us", Behaviour::Up(80))], 30).await;
        fixture.network.set("eu", Behaviour::Silent);
        // Those that were under way, too, are given up.
        fixture.ask_all(under_way).await;
        pass(secs(31)).await;
        fixture.network.called();
        fixture.ask_all(50).await;
        assert_eq!(fixture.network.counted(["eu", "us"]), [1, 50]);
        fixture.network.set("eu", Behaviour::Slow(100));
        pass(secs(61)).await;
        fixture.ask_all(50).await;
        assert_eq!(fixture.network.counted(["eu", "us"]), [1, 49]);
        fixture.ask_all(50).await;
        assert_eq!(
            fixture.network.counted(["eu", "us"]),
            [50, 0],
            "one good answer is enough"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn where_answers_are_slow_nothing_is_asked_twice() {
    let fixture = warm([("eu", Behaviour::Slow(8000)), ("us", Behaviour::Slow(8000))], 1).await;
    for _ in 0..20 {
        assert!(fixture.ask_all(25).await < secs(9));
    }
    assert_eq!(fixture.network.counted(["eu", "us"]), [500, 0]);
    assert!(fixture.healthy("eu") && fixture.healthy("us"));
}

#[tokio::test(start_paused = true)]
async fn that_all_are_slow_is_found_out_by_one_call() {
    // From the first call on, and after a time in which all hosts were fast.
    for answers in [0, 150] {
        let fixture = warm([("eu", Behaviour::Up(10)), ("us", Behaviour::Up(80))], answers).await;
        fixture.network.set("eu", Behaviour::Slow(8000));
        fixture.network.set("us", Behaviour::Slow(8000));
        let slowest = fixture.ask_all(30).await;
        assert!(slowest < secs(3) + secs(9), "{slowest:?}");
        for _ in 0..10 {
            fixture.ask_all(30).await;
        }
        let [eu, us] = fixture.network.counted(["eu", "us"]);
        println!("{answers} answers before: {} further calls of 330", eu + us - 330);
        assert!(eu + us <= 330 + 2, "{eu} and {us}");
        assert!(fixture.healthy("eu") && fixture.healthy("us"));
    }
}

#[tokio::test(start_paused = true)]
async fn without_another_host_a_silent_one_is_waited_for() {
    // Also where a further call could begin in time.
    for wait in [WAIT, 3 * HEAD] {
        let fixture = warm([("eu", Behaviour::Up(10))], 30).await;
        fixture.network.set("eu", Behaviour::Silent);
        let (result, took) = fixture.ask(wait).await;
        assert!(result.is_err());
        assert!(took >= HEAD && took < HEAD + secs(1), "{took:?}");
        assert_eq!(fixture.network.called().len(), 1, "no further call");
    }
    // A host that cannot be connected to does not count as another host.
    let fixture = warm([("eu", Behaviour::Up(10)), ("us", Behaviour::Refused)], 30).await;
    fixture.network.set("eu", Behaviour::Silent);
    let (_, took) = fixture.ask(WAIT).await;
    assert!(took >= HEAD, "{took:?}");
    assert_eq!(fixture.network.counted(["eu"]), [1]);
}

#[tokio::test(start_paused = true)]
async fn where_all_are_silent_the_last_attempt_has_all_the_time() {
    let fixture = warm(
        [
            ("eu", Behaviour::Up(10)),
            ("us", Behaviour::Up(80)),
            ("uk", Behaviour::Up(90)),
        ],
        30,
    )
    .await;
    for host in ["eu", "us", "uk"] {
        fixture.network.set(host, Behaviour::Silent);
    }
    let all = join_all((0..10).map(|_| fixture.ask(WAIT))).await;
    let calls = fixture.network.called().len();
    println!("{calls} calls for 10 requests");
    for (result, took) in all {
        assert!(result.is_err());
        assert!(took <= secs(10) + HEAD, "{took:?}");
    }
    assert_eq!(calls, 10 + 2, "one at each of the two that it could go on from");
}

/// Answers usually take so long that the client gives up before a host is found to be silent.
#[tokio::test(start_paused = true)]
async fn a_call_that_timed_out_is_made_at_another_host_and_not_at_the_same_one() {
    let slow = Behaviour::Slow(30_000);
    let fixture = warm([("eu", slow), ("us", slow)], 30).await;
    fixture.network.set("eu", Behaviour::Silent);
    let (result, _) = fixture.ask(3 * HEAD).await;
    assert_eq!(result.unwrap().status, StatusCode::OK);
    assert_eq!(fixture.network.called(), ["eu", "us"]);
    fixture.network.set("us", Behaviour::Silent);
    pass(secs(61)).await;
    let (result, _) = fixture.ask(3 * HEAD).await;
    assert!(result.is_err());
    assert_eq!(fixture.network.counted(["eu", "us"]), [1, 1], "each is asked once");
}

#[tokio::test(start_paused = true)]
async fn two_silent_hosts_of_three_are_survived() {
    let fixture = warm(
        [
            ("eu", Behaviour::Up(10)),
            ("uk", Behaviour::Up(20)),
            ("us", Behaviour::Up(80)),
        ],
        30,
    )
    .await;
    fixture.network.set("eu", Behaviour::Silent);
    fixture.network.set("uk", Behaviour::Silent);
    let slowest = fixture.ask_all(20).await;
    println!("the slowest of 20 took {slowest:?}");
    assert!(slowest <= ms(80) + 2 * BEYOND, "{slowest:?}");
    assert_eq!(fixture.ask_all(20).await, ms(80));
}

#[tokio::test(start_paused = true)]
async fn one_call_that_stalls_among_answered_ones_is_made_elsewhere_alone() {
    let fixture = warm([("eu", Behaviour::Up(10)), ("us", Behaviour::Up(80))], 30).await;
    fixture.network.set("eu", Behaviour::Patchy);
    let slowest = {
        let all = (0..4).map(|_| fixture.ask_all(1));
        let asked = join_all(all).await;
        asked.into_iter().max().unwrap()
    };
    assert_eq!(slowest, ms(1));
    // The fifth call stalls, while others are answered.
    let stalled = fixture.ask_all(1);
    let others = async {
        for _ in 0..3 {
            pass(ms(900)).await;
            fixture.ask_all(1).await;
        }
    };
    let (slowest, ()) = tokio::join!(stalled, others);
    assert!(slowest <= ms(80) + BEYOND, "{slowest:?}");
    assert_eq!(fixture.network.counted(["eu", "us"]), [8, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_started_in_time_is_retried_past_its_deadline() {
    for left_ms in [0, 50, 1000, 2999, 3001, 5000] {
        let fixture = warm([("eu", Behaviour::Up(10)), ("us", Behaviour::Up(80))], 30).await;
        fixture.network.set("eu", Behaviour::Silent);
        let (result, took) = fixture.ask(ms(left_ms)).await;
        assert_eq!(result.unwrap().status, StatusCode::OK, "{left_ms} ms left");
        assert!(took <= ms(80) + BEYOND, "{left_ms} ms left: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_answers_with_a_page_costs_one_call() {
    for status in [200, 403, 404] {
        let fixture = warm([("eu", Behaviour::Up(10)), ("us", Behaviour::Up(80))], 3).await;
        fixture.network.set("eu", Behaviour::Page(status));
        for _ in 0..12 {
            let slowest = fixture.ask_all(1).await;
            assert!(slowest < ms(500), "{status}: {slowest:?}");
        }
        assert_eq!(fixture.network.counted(["eu", "us"]), [1, 12], "{status}");
        assert!(!fixture.healthy("eu"), "{status}");
        fixture.network.set("eu", Behaviour::Up(10));
        pass(secs(31)).await;
        fixture.ask_all(1).await;
        assert!(fixture.healthy("eu"), "{status}");
        assert_eq!(fixture.network.counted(["eu", "us"]), [1, 0], "{status}: back");
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_says_that_it_cannot_is_left_after_three_times() {
    for status in [421, 502, 503, 520] {
        let fixture = warm([("eu", Behaviour::Up(10)), ("us", Behaviour::Up(80))], 3).await;
        fixture.network.set("eu", Behaviour::Page(status));
        for _ in 0..100 {
            fixture.ask_all(1).await;
        }
        let [eu, us] = fixture.network.counted(["eu", "us"]);
        assert!(eu <= 3, "{status}: {eu}");
        assert_eq!(us, 100, "{status}");
        assert!(!fixture.healthy("eu"), "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn when_all_hosts_answer_with_pages_one_further_call_is_made() {
    let fixture = warm(
        [
            ("eu", Behaviour::Up(10)),
            ("us", Behaviour::Up(80)),
            ("uk", Behaviour::Up(90)),
        ],
        3,
    )
    .await;
    for host in ["eu", "us", "uk"] {
        fixture.network.set(host, Behaviour::Page(404));
    }
    for _ in 0..10 {
        assert!(fixture.ask(WAIT).await.0.is_err());
        assert!(fixture.network.called().len() <= 2);
    }
    // It is one and the same request, which may be the cause, so no host is ejected for it.
    for host in ["eu", "us", "uk"] {
        assert!(fixture.healthy(host), "{host}");
    }
    // Alone, there is no other host.
    for bad in [Behaviour::Page(404), Behaviour::Redirecting] {
        let fixture = warm([("eu", bad)], 0).await;
        assert!(fixture.ask(WAIT).await.0.is_err());
        assert_eq!(fixture.network.called().len(), 1, "{bad:?}");
    }
}

/// The further attempt that would decide needs somebody who still waits for it.
#[tokio::test(start_paused = true)]
async fn a_silent_host_is_left_although_callers_hang_up_before_it_is_found_out() {
    for every in [60, 90, 150] {
        let fixture = warm([("eu", Behaviour::Up(10)), ("us", Behaviour::Up(80))], 3).await;
        pass(secs(every)).await;
        fixture.network.set("eu", Behaviour::Silent);
        for _ in 0..40 {
            let _ = fixture.call().await;
            pass(secs(every)).await;
        }
        let [eu, us] = fixture.network.counted(["eu", "us"]);
        println!("every {every} s: {eu} calls to the silent host, {us} to the other");
        // Twice until it is ejected, and then one each time that it may be tried again.
        assert!(eu <= 15 && us >= 25, "every {every} s: {eu}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_standstill_of_the_gateway_is_no_silence_of_a_host() {
    // After a standstill of half a minute the answers of five calls are there, or come soon.
    for (answer_ms, answers) in [(500, 3), (32_000, 3), (32_000, 150)] {
        let fixture = warm([("eu", Behaviour::Up(10)), ("us", Behaviour::Up(80))], answers).await;
        fixture.network.set("eu", Behaviour::Slow(answer_ms));
        let standstill = async {
            pass(ms(100)).await;
            tokio::time::advance(secs(30)).await;
        };
        tokio::join!(fixture.ask_all(5), standstill);
        assert_eq!(fixture.network.counted(["eu", "us"]), [5, 0], "{answer_ms} ms");
        assert!(fixture.healthy("eu") && fixture.healthy("us"));
        pass(secs(61)).await;
        fixture.network.set("eu", Behaviour::Silent);
        let slowest = fixture.ask_all(5).await;
        assert!(slowest <= ms(80) + BEYOND, "{answer_ms} ms: {slowest:?}");
    }
}
