//! The timeouts of a connection.

use std::time::Duration;

use http::Version;
use tokio::time::Instant;

use crate::response::Body;
use crate::server::connection_state::{Action, ConnectionState, Draining, FIRST_REQUEST, Limits, RESPONSE_TIMEOUT};

const LIMITS: Limits = Limits {
    header: Duration::from_secs(10),
    idle: Duration::from_mins(1),
    memory_is_wanted: false,
};

fn serving(state: &ConnectionState) -> Action {
    state.action(LIMITS, None, Draining::No)
}

async fn pass(seconds: u64) -> Instant {
    tokio::time::advance(Duration::from_secs(seconds)).await;
    Instant::now()
}

#[tokio::test(start_paused = true)]
async fn the_first_request_must_come_soon() {
    let state = ConnectionState::new();
    assert_eq!(serving(&state), Action::Wait(Instant::now() + LIMITS.header));
    state.bytes_arrived();
    state.stamp();
    pass(10).await;
    assert_eq!(serving(&state), Action::Cut);
}

#[tokio::test(start_paused = true)]
async fn a_pooled_connection_may_idle_longer_than_a_head_may_take() {
    let state = ConnectionState::new();
    drop(state.request(Version::HTTP_11));
    state.stamp();
    let now = pass(30).await;
    assert_eq!(serving(&state), Action::Wait(now + Duration::from_secs(30)));
    state.bytes_arrived();
    state.stamp();
    pass(10).await;
    assert_eq!(serving(&state), Action::Cut);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_asked_to_close_and_then_cut() {
    let state = ConnectionState::new();
    drop(state.request(Version::HTTP_2));
    state.stamp();
    let now = pass(60).await;
    assert_eq!(serving(&state), Action::Close);
    pass(5).await;
    assert_eq!(state.action(LIMITS, Some(now), Draining::No), Action::Cut);
}

#[tokio::test(start_paused = true)]
async fn pings_between_requests_are_no_slow_head() {
    let state = ConnectionState::new();
    drop(state.request(Version::HTTP_2));
    state.stamp();
    state.bytes_arrived();
    state.stamp();
    pass(11).await;
    assert!(matches!(serving(&state), Action::Wait(_)));
}

#[tokio::test(start_paused = true)]
async fn a_long_answer_that_is_taken_slowly_is_no_idleness() {
    let state = ConnectionState::new();
    drop(state.request(Version::HTTP_11));
    state.stamp();
    pass(50).await;
    state.progressed();
    state.stamp();
    pass(50).await;
    assert!(matches!(serving(&state), Action::Wait(_)));
    pass(10).await;
    assert_eq!(serving(&state), Action::Close);
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_not_taken_are_not_held_for_ever_however_busy_the_peer_keeps() {
    let state = ConnectionState::new();
    drop(state.request(Version::HTTP_2));
    state.stamp();
    for _ in 0..29 {
        pass(20).await;
        state.progressed();
        state.stamp();
        assert!(matches!(serving(&state), Action::Wait(_)));
    }
    let closing = pass(20).await;
    assert_eq!(serving(&state), Action::Close);
    pass(5).await;
    state.progressed();
    state.stamp();
    assert_eq!(state.action(LIMITS, Some(closing), Draining::No), Action::Cut);
}

#[tokio::test(start_paused = true)]
async fn every_request_gives_its_connection_time_to_take_the_answer() {
    let state = ConnectionState::new();
    for _ in 0..100 {
        drop(state.request(Version::HTTP_11));
        state.stamp();
        pass(59).await;
        assert!(matches!(serving(&state), Action::Wait(_)));
    }
}

/// A caller that reads nothing and goes on sending requests, in time for every limit but one.
#[tokio::test(start_paused = true)]
async fn a_large_answer_is_held_no_longer_because_of_further_requests() {
    let state = ConnectionState::new();
    let begun = Instant::now();
    let mut answer = Body::new(vec![7; 1 << 20].into());
    state.watch(&mut answer);
    for _ in 0..10 {
        drop(state.request(Version::HTTP_2));
        state.stamp();
        pass(59).await;
        assert!(matches!(serving(&state), Action::Wait(_)));
    }
    drop(state.request(Version::HTTP_2));
    state.stamp();
    assert_eq!(serving(&state), Action::Wait(begun + RESPONSE_TIMEOUT));
    pass(10).await;
    assert_eq!(serving(&state), Action::Close);
    drop(answer);
    assert!(matches!(serving(&state), Action::Wait(_)), "it was taken after all");
}

#[tokio::test(start_paused = true)]
async fn nor_for_a_request_that_is_always_in_flight() {
    let state = ConnectionState::new();
    let mut answer = Body::new(vec![7; 1 << 20].into());
    state.watch(&mut answer);
    let _request = state.request(Version::HTTP_2);
    pass(599).await;
    assert!(matches!(serving(&state), Action::Wait(_)));
    let closing = Some(pass(1).await);
    assert_eq!(serving(&state), Action::Close);
    pass(599).await;
    let action = || state.action(LIMITS, closing, Draining::No);
    assert!(matches!(action(), Action::Wait(_)), "the request has its own deadline");
    pass(1).await;
    assert_eq!(action(), Action::Cut);
    drop(answer);
    assert!(matches!(action(), Action::Wait(_)));
}

#[tokio::test(start_paused = true)]
async fn a_request_in_flight_is_never_cut() {
    let state = ConnectionState::new();
    let _request = state.request(Version::HTTP_11);
    let start = Instant::now();
    pass(1000).await;
    assert!(matches!(serving(&state), Action::Wait(_)));
    let draining = Draining::Since(start);
    assert_eq!(state.action(LIMITS, None, draining), Action::Close);
    assert!(matches!(state.action(LIMITS, Some(start), draining), Action::Wait(_)));
}

#[tokio::test(start_paused = true)]
async fn a_drain_leaves_a_new_connection_a_moment_and_an_idle_one_none() {
    let new = ConnectionState::new();
    let idle = ConnectionState::new();
    drop(idle.request(Version::HTTP_11));
    let draining = Draining::Since(Instant::now());
    assert_eq!(idle.action(LIMITS, None, draining), Action::Close);
    assert_eq!(
        new.action(LIMITS, None, draining),
        Action::Wait(Instant::now() + FIRST_REQUEST)
    );
    pass(1).await;
    assert_eq!(new.action(LIMITS, None, draining), Action::Close);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_reads_nothing_is_cut_off_while_others_wait_for_its_memory() {
    let state = ConnectionState::new();
    let mut answer = Body::new(vec![7; 1 << 20].into());
    state.watch(&mut answer);
    drop(state.request(Version::HTTP_11));
    state.stamp();
    let wanted = Limits {
        memory_is_wanted: true,
        ..LIMITS
    };
    pass(9).await;
    assert!(matches!(state.action(wanted, None, Draining::No), Action::Wait(_)));
    state.progressed();
    state.stamp();
    pass(9).await;
    assert!(matches!(state.action(wanted, None, Draining::No), Action::Wait(_)));
    let now = pass(1).await;
    // As long as the memory is not wanted, it is checked again soon.
    assert_eq!(serving(&state), Action::Wait(now + Duration::from_secs(1)));
    assert_eq!(state.action(wanted, None, Draining::No), Action::Cut);
    assert!(
        !state.is_cut(),
        "it is the peer's doing that its other requests end, too"
    );
    state.cut();
    assert!(state.is_cut());
}
