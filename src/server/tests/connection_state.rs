//! What a connection may do for how long.

use std::time::Duration;

use http::Version;
use tokio::time::Instant;

use crate::response::Body;
use crate::server::connection_state::{ConnectionState, Draining, FIRST_REQUEST, Limits, TAKING, Verdict};

const LIMITS: Limits = Limits {
    header: Duration::from_secs(10),
    idle: Duration::from_mins(1),
    memory_is_wanted: false,
};

fn serving(activity: &ConnectionState) -> Verdict {
    activity.verdict(LIMITS, None, Draining::No)
}

async fn pass(seconds: u64) -> Instant {
    tokio::time::advance(Duration::from_secs(seconds)).await;
    Instant::now()
}

#[tokio::test(start_paused = true)]
async fn the_first_request_must_come_soon() {
    let activity = ConnectionState::new();
    assert_eq!(serving(&activity), Verdict::Wait(Instant::now() + LIMITS.header));
    activity.read();
    activity.stamp();
    pass(10).await;
    assert_eq!(serving(&activity), Verdict::Cut);
}

#[tokio::test(start_paused = true)]
async fn a_pooled_connection_may_idle_longer_than_a_head_may_take() {
    let activity = ConnectionState::new();
    drop(activity.request(Version::HTTP_11));
    activity.stamp();
    let now = pass(30).await;
    assert_eq!(serving(&activity), Verdict::Wait(now + Duration::from_secs(30)));
    activity.read();
    activity.stamp();
    pass(10).await;
    assert_eq!(serving(&activity), Verdict::Cut);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_asked_to_close_and_then_cut() {
    let activity = ConnectionState::new();
    drop(activity.request(Version::HTTP_2));
    activity.stamp();
    let now = pass(60).await;
    assert_eq!(serving(&activity), Verdict::Close);
    pass(5).await;
    assert_eq!(activity.verdict(LIMITS, Some(now), Draining::No), Verdict::Cut);
}

#[tokio::test(start_paused = true)]
async fn pings_between_requests_are_no_slow_head() {
    let activity = ConnectionState::new();
    drop(activity.request(Version::HTTP_2));
    activity.stamp();
    activity.read();
    activity.stamp();
    pass(11).await;
    assert!(matches!(serving(&activity), Verdict::Wait(_)));
}

#[tokio::test(start_paused = true)]
async fn a_long_answer_that_is_taken_slowly_is_no_idleness() {
    let activity = ConnectionState::new();
    drop(activity.request(Version::HTTP_11));
    activity.stamp();
    pass(50).await;
    activity.wrote();
    activity.stamp();
    pass(50).await;
    assert!(matches!(serving(&activity), Verdict::Wait(_)));
    pass(10).await;
    assert_eq!(serving(&activity), Verdict::Close);
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_not_taken_are_not_held_for_ever_however_busy_the_peer_keeps() {
    let activity = ConnectionState::new();
    drop(activity.request(Version::HTTP_2));
    activity.stamp();
    for _ in 0..29 {
        pass(20).await;
        activity.wrote();
        activity.stamp();
        assert!(matches!(serving(&activity), Verdict::Wait(_)));
    }
    let closing = pass(20).await;
    assert_eq!(serving(&activity), Verdict::Close);
    pass(5).await;
    activity.wrote();
    activity.stamp();
    assert_eq!(activity.verdict(LIMITS, Some(closing), Draining::No), Verdict::Cut);
}

#[tokio::test(start_paused = true)]
async fn every_request_gives_its_connection_time_to_take_the_answer() {
    let activity = ConnectionState::new();
    for _ in 0..100 {
        drop(activity.request(Version::HTTP_11));
        activity.stamp();
        pass(59).await;
        assert!(matches!(serving(&activity), Verdict::Wait(_)));
    }
}

/// A caller that takes nothing and goes on asking, in time for every rule but one.
#[tokio::test(start_paused = true)]
async fn a_large_answer_is_held_no_longer_for_what_is_asked_meanwhile() {
    let activity = ConnectionState::new();
    let begun = Instant::now();
    let mut answer = Body::new(vec![7; 1 << 20].into());
    activity.watch(&mut answer);
    for _ in 0..10 {
        drop(activity.request(Version::HTTP_2));
        activity.stamp();
        pass(59).await;
        assert!(matches!(serving(&activity), Verdict::Wait(_)));
    }
    drop(activity.request(Version::HTTP_2));
    activity.stamp();
    assert_eq!(serving(&activity), Verdict::Wait(begun + TAKING));
    pass(10).await;
    assert_eq!(serving(&activity), Verdict::Close);
    drop(answer);
    assert!(matches!(serving(&activity), Verdict::Wait(_)), "it was taken after all");
}

#[tokio::test(start_paused = true)]
async fn nor_for_a_request_that_is_always_in_flight() {
    let activity = ConnectionState::new();
    let mut answer = Body::new(vec![7; 1 << 20].into());
    activity.watch(&mut answer);
    let _request = activity.request(Version::HTTP_2);
    pass(599).await;
    assert!(matches!(serving(&activity), Verdict::Wait(_)));
    let closing = Some(pass(1).await);
    assert_eq!(serving(&activity), Verdict::Close);
    pass(599).await;
    let verdict = || activity.verdict(LIMITS, closing, Draining::No);
    assert!(
        matches!(verdict(), Verdict::Wait(_)),
        "the request has its own deadline"
    );
    pass(1).await;
    assert_eq!(verdict(), Verdict::Cut);
    drop(answer);
    assert!(matches!(verdict(), Verdict::Wait(_)));
}

#[tokio::test(start_paused = true)]
async fn a_request_in_flight_is_never_cut() {
    let activity = ConnectionState::new();
    let _request = activity.request(Version::HTTP_11);
    let start = Instant::now();
    pass(1000).await;
    assert!(matches!(serving(&activity), Verdict::Wait(_)));
    let draining = Draining::Since(start);
    assert_eq!(activity.verdict(LIMITS, None, draining), Verdict::Close);
    assert!(matches!(
        activity.verdict(LIMITS, Some(start), draining),
        Verdict::Wait(_)
    ));
}

#[tokio::test(start_paused = true)]
async fn a_drain_leaves_a_new_connection_a_moment_and_an_idle_one_none() {
    let new = ConnectionState::new();
    let idle = ConnectionState::new();
    drop(idle.request(Version::HTTP_11));
    let draining = Draining::Since(Instant::now());
    assert_eq!(idle.verdict(LIMITS, None, draining), Verdict::Close);
    assert_eq!(
        new.verdict(LIMITS, None, draining),
        Verdict::Wait(Instant::now() + FIRST_REQUEST)
    );
    pass(1).await;
    assert_eq!(new.verdict(LIMITS, None, draining), Verdict::Close);
}

#[tokio::test(start_paused = true)]
async fn who_takes_nothing_is_cut_while_others_want_its_memory() {
    let activity = ConnectionState::new();
    let mut answer = Body::new(vec![7; 1 << 20].into());
    activity.watch(&mut answer);
    drop(activity.request(Version::HTTP_11));
    activity.stamp();
    let wanted = Limits {
        memory_is_wanted: true,
        ..LIMITS
    };
    pass(9).await;
    assert!(matches!(activity.verdict(wanted, None, Draining::No), Verdict::Wait(_)));
    activity.wrote();
    activity.stamp();
    pass(9).await;
    assert!(matches!(activity.verdict(wanted, None, Draining::No), Verdict::Wait(_)));
    let now = pass(1).await;
    // As long as nobody wants it, it looks again soon.
    assert_eq!(serving(&activity), Verdict::Wait(now + Duration::from_secs(1)));
    assert_eq!(activity.verdict(wanted, None, Draining::No), Verdict::Cut);
}
