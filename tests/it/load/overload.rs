//! Ten times as many requests as the quota answers.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::{Instant, sleep, sleep_until};

use defender_gateway::testing::sim::Shape;
use defender_gateway::testing::task::Tasks;

use super::ALONE;
use super::tally::{Request, Tally};
use super::watch::Watch;
use crate::support::{Caller, ProcessUsage, Setup, Spawned, id, until};

const SECOND: Duration = Duration::from_secs(1);

/// How long callers wait. Whoever waits for nothing is answered now or refused.
const WAITS: [Duration; 4] = [Duration::ZERO, SECOND, Duration::from_secs(2), Duration::from_secs(5)];

/// What is measured, and against what.
struct Run {
    limits: &'static [&'static str],
    /// Calls a second that the limits allow for long.
    capacity: u32,
    time: Duration,
    late: Duration,
    lives: Duration,
}

/// Which part of the time counts as the beginning.
const BEGINNING: f64 = 0.4;

async fn overload(run: Run) {
    let _alone = ALONE.lock().await;
    let spawned = Setup::new()
        .limits(Shape::SlidingLog, run.limits)
        .set("cache.ttl", "0s")
        .spawn()
        .await;
    let base = spawned.caller().base().to_owned();
    let callers: Vec<_> = (0..20)
        .map(|n| {
            if n % 2 == 0 {
                Caller::http1(&base)
            } else {
                Caller::http2(&base)
            }
        })
        .collect();
    let before = ProcessUsage::of(spawned.gateway.pid());
    let tally = Arc::new(Tally::new(run.late, &[200, 429]));
    let watch = Watch::over(&spawned.gateway);
    let (mut random, tasks, begun) = (StdRng::seed_from_u64(10), Tasks::new(), Instant::now());
    let every = SECOND / (run.capacity * 10);
    let mut asked = 0_u32;
    // Whatever is late is sent at once: callers do not wait for each other.
    while begun.elapsed() < run.time {
        sleep_until(begun + every * asked).await;
        let n = asked as usize;
        let request = Request {
            id: id(n),
            caller: format!("caller {}", random.random_range(0..30)),
            wait: WAITS[random.random_range(0..WAITS.len())],
            leaves: (n % 10 == 9).then(|| Duration::from_millis(random.random_range(0..1000))),
        };
        let (caller, tally) = (callers[n % callers.len()].clone(), Arc::clone(&tally));
        tasks.spawn("request", async move { tally.ask(&caller, request, || false).await });
        asked += 1;
    }
    let refused = tally.refused();
    until("all requests to be answered", async || tasks.is_empty().then_some(())).await;
    let seen = watch.finish();
    let served = f64::from(u32::try_from(tally.answers(200)).unwrap()) / run.time.as_secs_f64();
    println!("{asked} requests in {:?}: {}", run.time, tally.report());
    println!(
        "{served:.1} served a second of {} allowed; {}",
        run.capacity,
        seen.report(BEGINNING)
    );
    tally.assert_well();
    seen.assert_alive(run.lives, SECOND * 3);
    seen.assert_flat(BEGINNING, 8 * 1024);
    assert!(served >= f64::from(run.capacity) * 0.9, "the quota is used");
    come_back(&spawned, &refused).await;
    drop(callers);
    let returned = async || {
        let held = ProcessUsage::of(spawned.gateway.pid());
        (held.files <= before.files + 4 && held.threads <= before.threads + 2).then_some(held)
    };
    let after = until("files and threads to be given back", returned).await;
    println!("held before {before:?}, after {after:?}");
    spawned.finish().await;
}

/// Whoever comes back when it was told to is served, though nobody else of the crowd comes. It
/// comes by the name that was told: places in the queue belong to names.
async fn come_back(spawned: &Spawned, refused: &[(Duration, String, Instant)]) {
    assert_eq!(refused.len(), WAITS.len(), "some were refused of each kind");
    let mut all = refused.to_vec();
    all.sort_by_key(|(_, _, at)| *at);
    for (n, (wait, caller, at)) in all.into_iter().enumerate() {
        sleep_until(at).await;
        let late = at.elapsed();
        let wait = format!("wait={}", wait.as_secs());
        let fields = [("prefer", wait.as_str()), ("x-caller", caller.as_str())];
        let answer = spawned.caller().ask_with(&[id(0x0100_0000 + n)], &fields).await;
        assert_eq!(
            answer.status,
            200,
            "{wait}, {caller}, {late:?} after it was told to come back: {}",
            answer.text()
        );
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_ten_times_the_load_every_answer_is_in_time_and_every_refusal_honest() {
    overload(Run {
        limits: &["50/1s", "200/10s"],
        capacity: 20,
        time: Duration::from_secs(12),
        late: Duration::from_secs(5),
        lives: SECOND,
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "ten minutes, for a release build"]
async fn ten_minutes_of_ten_times_the_load() {
    overload(Run {
        limits: &["100/1s", "1500/1m"],
        capacity: 25,
        time: Duration::from_mins(10),
        late: SECOND,
        lives: Duration::from_millis(100),
    })
    .await;
}
