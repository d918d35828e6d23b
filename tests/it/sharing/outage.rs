//! The upstream is out of order for five minutes. In virtual time.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use defender_gateway::testing::scan::Outcome;

use super::stack_fixture::{Sharing, StackFixture};

/// So few that surplus alone can renew them all, every minute and a half: 25 calls a minute come
/// free.
const KEYS: u32 = 30;

/// Each key is asked for once in this time, one after the other.
const ROUND: Duration = Duration::from_secs(10);

/// Asks for every key in turn until `until`. Counts answers, and stale ones.
async fn ask_all(stack_fixture: &StackFixture, until: Instant) -> (u32, u32) {
    let (mut good, mut stale) = (0, 0);
    let mut next = Instant::now();
    while next < until {
        for key in 0..KEYS {
            sleep_until(next + ROUND / KEYS * key).await;
            let asked = Instant::now();
            let served = stack_fixture.ask("tool", &[format!("id{key}")]).await.unwrap();
            assert!(
                served.answer.status.is_success(),
                "{:?} after {:?}",
                served,
                asked.elapsed()
            );
            good += 1;
            stale += u32::from(served.outcome == Outcome::Stale);
            if served.outcome == Outcome::Stale {
                assert!(served.status.ttl.is_some_and(|ttl| ttl < 0), "{:?}", served.status);
            }
        }
        next += ROUND;
    }
    (good, stale)
}

#[tokio::test(start_paused = true)]
async fn repeat_requests_are_answered_through_an_outage_and_renewed_gently_after_it() {
    let stack_fixture = StackFixture::new(Sharing::Merge, &[(100, 60), (1500, 3600)]);
    ask_all(&stack_fixture, Instant::now() + ROUND).await;
    let warm = stack_fixture.arrivals.lock().unwrap().len();

    stack_fixture.down.store(true, Ordering::Relaxed);
    let begun = Instant::now();
    let (good, stale) = ask_all(&stack_fixture, begun + Duration::from_mins(5)).await;
    // All were answered, or `ask_all` would have failed. For the first half minute they were still
    // fresh.
    assert!(stale * 10 > good * 8, "{stale} of {good}");
    let tried = stack_fixture.arrivals.lock().unwrap().len() - warm;
    assert!(tried > 0 && tried <= 500, "{tried} calls in five minutes");

    stack_fixture.down.store(false, Ordering::Relaxed);
    let recovered = Instant::now();
    ask_all(&stack_fixture, recovered + Duration::from_mins(8)).await;
    let arrivals = stack_fixture.arrivals.lock().unwrap().clone();
    assert_gentle(&arrivals, recovered);
}

fn assert_gentle(arrivals: &[super::stack_fixture::Arrival], recovered: Instant) {
    let mut renewed: BTreeMap<&str, Vec<Instant>> = BTreeMap::new();
    for arrival in arrivals
        .iter()
        .filter(|arrival| arrival.at >= recovered && arrival.good)
    {
        for id in &arrival.ids {
            renewed.entry(id).or_default().push(arrival.at);
        }
    }
    assert_eq!(renewed.len(), KEYS as usize, "every key was renewed");
    // None waits for much longer than the longest pause after a failure and its turn among all of
    // them.
    let last = renewed.values().map(|at| at[0] - recovered).max().unwrap();
    let turns = Duration::from_mins(1) * KEYS / 25;
    println!("the last of {KEYS} keys was renewed {last:?} after the recovery");
    assert!(last <= Duration::from_mins(2) + turns + 2 * ROUND, "{last:?}");
    let mut by_second: BTreeMap<u64, u32> = BTreeMap::new();
    // One call renews many keys that are stale.
    for call in arrivals.iter().filter(|call| call.at >= recovered) {
        *by_second.entry((call.at - recovered).as_secs()).or_default() += 1;
    }
    for (id, at) in &renewed {
        let soon = at[1..].iter().find(|again| **again - at[0] < Duration::from_secs(25));
        assert_eq!(soon, None, "{id} was renewed twice: {at:?}");
    }
    assert!(
        by_second.values().all(|calls| *calls <= KEYS / 4),
        "not spread out: {by_second:?}"
    );
    // Half of what a minute allows is kept for those who wait.
    for first in arrivals.iter().filter(|arrival| arrival.at >= recovered) {
        let minute = arrivals
            .iter()
            .filter(|other| other.at >= first.at && other.at - first.at < Duration::from_mins(1));
        assert!(minute.count() < 100, "renewals used the whole quota");
    }
}
