//! Nearness decides, without flapping.

use std::time::Duration;

use tokio::time::Instant;

use super::{Bench, Is, ROUND, pass};

#[tokio::test(start_paused = true)]
async fn the_first_call_waits_for_the_first_probe_and_goes_to_the_nearest() {
    let bench = Bench::new([("us", Is::Up(90)), ("eu", Is::Up(10)), ("au", Is::Up(300))]);
    let begun = Instant::now();
    bench.call().await.unwrap();
    assert_eq!(bench.world.called(), ["eu"]);
    assert_eq!(begun.elapsed(), Duration::from_millis(20), "one probe, one call");
}

#[tokio::test(start_paused = true)]
async fn without_any_probe_the_first_call_goes_to_the_first_candidate_after_a_second() {
    let bench = Bench::unwatched([("us", Is::Up(90)), ("eu", Is::Up(10))]);
    let begun = Instant::now();
    bench.call().await.unwrap();
    bench.call().await.unwrap();
    assert_eq!(bench.world.called(), ["us", "us"]);
    assert_eq!(
        begun.elapsed(),
        Duration::from_millis(1000 + 2 * 90),
        "only the first one waited"
    );
}

#[tokio::test(start_paused = true)]
async fn swapped_latencies_are_followed_within_two_rounds() {
    let bench = Bench::new([("us", Is::Up(80)), ("eu", Is::Up(10))]);
    pass(3 * ROUND).await;
    assert_eq!(bench.selected(), "eu");
    bench.world.set("us", Is::Up(10));
    bench.world.set("eu", Is::Up(80));
    pass(2 * ROUND).await;
    assert_eq!(bench.selected(), "us");
    pass(100 * ROUND).await;
    assert_eq!(bench.selected(), "us");
}

#[tokio::test(start_paused = true)]
async fn a_latency_step_is_left_within_two_rounds() {
    let bench = Bench::new([("us", Is::Up(80)), ("eu", Is::Up(10))]);
    pass(3 * ROUND).await;
    bench.world.set("eu", Is::Up(310));
    pass(2 * ROUND).await;
    assert_eq!(bench.selected(), "us");
}

#[tokio::test(start_paused = true)]
async fn equal_noisy_latencies_do_not_flap_for_a_day() {
    let bench = Bench::new([("us", Is::Noisy(40)), ("eu", Is::Noisy(40)), ("uk", Is::Noisy(42))]);
    pass(10 * ROUND).await;
    let mut selected = bench.selected();
    let mut changes = 0;
    for _ in 0..2_500 {
        pass(ROUND).await;
        if bench.selected() != selected {
            selected = bench.selected();
            changes += 1;
        }
    }
    assert!(changes <= 1, "{changes} changes");
}
