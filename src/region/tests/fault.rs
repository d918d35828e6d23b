//! Failing hosts are ejected, and used again later.

use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;
use tower::service_fn;

use super::{Behaviour, Fixture, ROUND, charged, pass};
use crate::attempt::{Delivery, Failure, RetryHint, Routed};
use crate::middleware::{Middleware as _, Next};
use crate::scan::UpstreamResponse;

#[tokio::test(start_paused = true)]
async fn a_refusing_host_is_left_at_once_without_an_error_and_taken_back() {
    let fixture = Fixture::new([("us", Behaviour::Up(80)), ("eu", Behaviour::Up(10))]);
    pass(ROUND).await;
    fixture.network.set("eu", Behaviour::Refused);
    fixture.call().await.unwrap();
    fixture.call().await.unwrap();
    assert_eq!(fixture.network.called(), ["eu", "us", "us"], "one try, then no more");
    assert!(!fixture.healthy("eu"));
    pass(20 * ROUND).await;
    fixture.network.set("eu", Behaviour::Up(10));
    pass(Duration::from_secs(61)).await;
    assert!(fixture.healthy("eu"));
    assert_eq!(fixture.selected(), "eu");
}

#[tokio::test(start_paused = true)]
async fn a_failed_probe_moves_calls_away_before_any_call_fails() {
    let fixture = Fixture::new([("us", Behaviour::Up(80)), ("eu", Behaviour::Up(10))]);
    pass(ROUND).await;
    fixture.network.set("eu", Behaviour::BlackHole);
    pass(ROUND + Duration::from_secs(4)).await;
    fixture.call().await.unwrap();
    assert_eq!(fixture.network.called(), ["us"]);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_may_have_arrived_goes_nowhere_else_but_the_next_one_does() {
    let fixture = Fixture::new([("us", Behaviour::Up(80)), ("eu", Behaviour::Losing(10))]);
    pass(ROUND).await;
    assert_eq!(fixture.call().await.unwrap_err().delivery, Delivery::Unknown);
    assert_eq!(fixture.network.called(), ["eu"]);
    fixture.call().await.unwrap();
    assert_eq!(
        fixture.network.called(),
        ["us"],
        "the retry layer's attempt meets another host"
    );
}

#[tokio::test(start_paused = true)]
async fn a_5xx_passes_and_repeated_ones_are_left() {
    let fixture = Fixture::new([("us", Behaviour::Up(80)), ("eu", Behaviour::Busy(10))]);
    pass(ROUND).await;
    let mut at_eu = 0;
    for _ in 0..60 {
        let answer = fixture.call().await.unwrap();
        at_eu += u32::from(answer.status == StatusCode::SERVICE_UNAVAILABLE);
        pass(Duration::from_secs(3)).await;
    }
    // Three until it is ejected, then one each time it may be tried again: after 30 s, 60 s ...
    assert!((3..=6).contains(&at_eu), "{at_eu}");
    fixture.network.set("eu", Behaviour::Up(10));
    pass(Duration::from_mins(11)).await;
    assert_eq!(fixture.selected(), "eu");
}

#[tokio::test(start_paused = true)]
async fn when_all_go_down_each_is_tried_once_and_then_one_per_call() {
    let fixture = Fixture::unwatched([
        ("us", Behaviour::Refused),
        ("eu", Behaviour::Refused),
        ("uk", Behaviour::Refused),
    ]);
    assert!(fixture.call().await.is_err());
    assert_eq!(fixture.network.called(), ["us", "eu", "uk"]);
    assert!(fixture.call().await.is_err());
    assert_eq!(fixture.network.called().len(), 1);
    pass(Duration::from_secs(2)).await;
    fixture.network.set("uk", Behaviour::Up(10));
    fixture.call().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn looking_for_a_host_is_bounded_in_time() {
    let fixture = Fixture::unwatched(["a", "b", "c", "d", "e", "f", "g", "h"].map(|name| (name, Behaviour::BlackHole)));
    pass(Duration::from_secs(1)).await;
    let begun = Instant::now();
    assert_eq!(fixture.call().await.unwrap_err().delivery, Delivery::NotSent);
    assert_eq!(begun.elapsed(), Duration::from_secs(12), "four attempts of 3 s");
}

#[tokio::test(start_paused = true)]
async fn the_least_bad_serves_when_all_have_been_left() {
    let fixture = Fixture::new([("us", Behaviour::Refused), ("eu", Behaviour::Busy(10))]);
    pass(ROUND).await;
    for _ in 0..10 {
        fixture.call().await.unwrap();
    }
    fixture.network.called();
    assert!(!fixture.healthy("us") && !fixture.healthy("eu"));
    fixture.network.set("eu", Behaviour::Up(10));
    assert_eq!(fixture.call().await.unwrap().status, StatusCode::OK);
    assert_eq!(
        fixture.network.called(),
        ["eu"],
        "one that connects before one that does not"
    );
}

#[tokio::test(start_paused = true)]
async fn failures_that_are_not_the_hosts_leave_it_alone() {
    let fixture = Fixture::new([("us", Behaviour::Up(80)), ("eu", Behaviour::Up(10))]);
    pass(ROUND).await;
    let no_token = service_fn(|_: Routed| async {
        Err::<UpstreamResponse, _>(Failure {
            delivery: Delivery::NotSent,
            again: RetryHint::Never,
            answer: None,
            source: "no token".into(),
        })
    });
    for _ in 0..10 {
        assert!(fixture.selector.call(charged(), &Next::new(no_token)).await.is_err());
    }
    assert!(fixture.healthy("eu"));
    assert_eq!(fixture.selected(), "eu");
}

#[tokio::test(start_paused = true)]
async fn the_only_host_is_well_again_with_its_first_good_answer() {
    let fixture = Fixture::new([("eu", Behaviour::Busy(10))]);
    pass(ROUND).await;
    // Long enough for the longest backoff.
    for _ in 0..1_200 {
        fixture.call().await.unwrap();
        pass(Duration::from_secs(1)).await;
    }
    assert!(!fixture.healthy("eu"));
    fixture.network.set("eu", Behaviour::Up(10));
    assert_eq!(fixture.call().await.unwrap().status, StatusCode::OK);
    assert!(fixture.healthy("eu"));
}

#[tokio::test(start_paused = true)]
async fn a_host_that_only_may_be_tried_again_is_shown_as_ejected() {
    let fixture = Fixture::new([("eu", Behaviour::Busy(10))]);
    pass(ROUND).await;
    let mut shown = Vec::new();
    for _ in 0..600 {
        // Its time may just be over, and no call has tried it.
        let row = fixture.selector.snapshot().remove(0);
        if shown.last() != Some(&row.ejection_reason) {
            shown.push(row.ejection_reason);
        }
        assert_eq!(row.healthy, row.ejection_reason.is_none());
        fixture.call().await.unwrap();
        pass(Duration::from_secs(1)).await;
    }
    assert_eq!(shown, [None, Some("answers badly or not at all")]);
}
