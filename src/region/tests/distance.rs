//! The nearest host is selected, without flapping.

use std::time::Duration;

use tokio::time::Instant;

use super::{Behaviour, Fixture, ROUND, pass};

#[tokio::test(start_paused = true)]
async fn the_first_call_waits_for_the_first_probe_and_goes_to_the_nearest() {
    let fixture = Fixture::new([
        ("us", Behaviour::Up(90)),
        ("eu", Behaviour::Up(10)),
        ("au", Behaviour::Up(300)),
    ]);
    let begun = Instant::now();
    fixture.call().await.unwrap();
    assert_eq!(fixture.network.called(), ["eu"]);
    assert_eq!(begun.elapsed(), Duration::from_millis(20), "one probe, one call");
}

#[tokio::test(start_paused = true)]
async fn without_any_probe_the_first_call_goes_to_the_first_candidate_after_a_second() {
    let fixture = Fixture::unwatched([("us", Behaviour::Up(90)), ("eu", Behaviour::Up(10))]);
    let begun = Instant::now();
    fixture.call().await.unwrap();
    fixture.call().await.unwrap();
    assert_eq!(fixture.network.called(), ["us", "us"]);
    assert_eq!(
        begun.elapsed(),
        Duration::from_millis(1000 + 2 * 90),
        "only the first one waited"
    );
}

#[tokio::test(start_paused = true)]
async fn swapped_latencies_are_followed_within_two_rounds() {
    let fixture = Fixture::new([("us", Behaviour::Up(80)), ("eu", Behaviour::Up(10))]);
    pass(3 * ROUND).await;
    assert_eq!(fixture.selected(), "eu");
    fixture.network.set("us", Behaviour::Up(10));
    fixture.network.set("eu", Behaviour::Up(80));
    pass(2 * ROUND).await;
    assert_eq!(fixture.selected(), "us");
    pass(100 * ROUND).await;
    assert_eq!(fixture.selected(), "us");
}

#[tokio::test(start_paused = true)]
async fn a_latency_step_is_left_within_two_rounds() {
    let fixture = Fixture::new([("us", Behaviour::Up(80)), ("eu", Behaviour::Up(10))]);
    pass(3 * ROUND).await;
    fixture.network.set("eu", Behaviour::Up(310));
    pass(2 * ROUND).await;
    assert_eq!(fixture.selected(), "us");
}

#[tokio::test(start_paused = true)]
async fn equal_noisy_latencies_do_not_flap_for_a_day() {
    let fixture = Fixture::new([
        ("us", Behaviour::Noisy(40)),
        ("eu", Behaviour::Noisy(40)),
        ("uk", Behaviour::Noisy(42)),
    ]);
    pass(10 * ROUND).await;
    let mut selected = fixture.selected();
    let mut changes = 0;
    for _ in 0..2_500 {
        pass(ROUND).await;
        if fixture.selected() != selected {
            selected = fixture.selected();
            changes += 1;
        }
    }
    assert!(changes <= 1, "{changes} changes");
}
