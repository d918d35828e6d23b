//! The program is killed at random moments, with calls under way: it is back at once, and
//! remembers.
//!
//! The long form, with what it measures: `cargo test --release --test it crash -- --ignored
//! --nocapture`.

use std::path::Path;
use std::time::Duration;

use defender_gateway::testing::sim::Shape;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::Instant;

use crate::support::{Program, Setup, Spawned, id, until};

/// From the start of a process: to its ready line, to a good `/readyz`, to the first answer from
/// upstream.
#[derive(Clone, Copy, Debug, Default)]
struct Times([Duration; 3]);

/// A gateway with a state file that lets 20 calls a second through.
async fn start(file: &Path) -> Spawned {
    Setup::new()
        .limits(Shape::SlidingLog, &["20/1s", "100000/1h"])
        .set("quota.burst", "20")
        .set("quota.state_file", file.to_str().unwrap())
        .spawn()
        .await
}

/// No restart takes this long, however busy the machine is, and no wait for a window, a pause or a
/// call's timeout is shorter.
const AT_ONCE: Duration = Duration::from_secs(30);

/// Kills it when some call of the twenty that may leave at once has arrived upstream, others being
/// under way, and starts it again.
async fn kill(spawned: &mut Spawned, rng: &mut StdRng, life: usize, file: &Path) -> Times {
    let caller = spawned.caller();
    let first = life * 1000;
    let arrived = spawned.simulator.calls().len() + rng.random_range(1..20);
    let simulator = &spawned.simulator;
    let killed = until("calls", async || (simulator.calls().len() >= arrived).then_some(()));
    tokio::select! {
        () = killed => {}
        _ = caller.ask_each(first..first + 100) => {}
    }
    spawned.gateway.signal("KILL").await;
    spawned.gateway.ended().await;
    assert_valid(&tokio::fs::read_to_string(file).await.unwrap());

    let begun = Instant::now();
    let gateway = Program::gateway(spawned.toml(), spawned.variables()).await;
    let listening = begun.elapsed();
    let (caller, admin) = (gateway.caller(), gateway.admin());
    spawned.gateway = gateway;
    let answer = async {
        let answer = caller.ask(&[id(first + 500)]).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        begun.elapsed()
    };
    let ready = async {
        until("readiness", async || {
            (admin.fetch("/readyz").await.status == 200).then_some(())
        })
        .await;
        begun.elapsed()
    };
    let (ready, answered) = tokio::join!(ready, answer);
    assert!(ready.max(answered) < AT_ONCE, "{ready:?}, {answered:?}");
    spawned.assert_all_calls_count().await;
    Times([listening, ready, answered])
}

/// Every line but a torn last one is a fact.
fn assert_valid(text: &str) {
    let complete = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    for line in complete {
        let mut words = line.trim_end().split(' ');
        let kind = words.next().unwrap();
        if kind == "c" {
            // The boot that the lines below were written in comes before its two numbers.
            assert!(words.next().is_some_and(|boot| boot.len() >= 36), "{line:?}");
        }
        let numbers = words.filter(|word| word.parse::<i64>().is_ok()).count();
        let expected = match kind {
            "b" => 4,
            "w" => 3,
            "c" | "i" | "s" | "r" | "p" => 2,
            _ => panic!("{line:?}"),
        };
        assert_eq!(numbers, expected, "{line:?}");
    }
}

async fn kills(lives: usize, seed: u64) -> Vec<Times> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("quota");
    let mut spawned = start(&file).await;
    let mut rng = StdRng::seed_from_u64(seed);
    let mut all = Vec::new();
    for life in 1..=lives {
        all.push(kill(&mut spawned, &mut rng, life, &file).await);
    }
    let calls = spawned.simulator.calls();
    assert!(calls.iter().all(|call| call.status != Some(429)), "a window was over");
    spawned.finish().await;
    all
}

#[tokio::test]
async fn a_gateway_that_is_killed_is_back_at_once_and_forgets_no_call() {
    kills(5, 1).await;
}

#[tokio::test]
#[ignore = "a minute or two; prints how long restarts take"]
async fn a_hundred_kills_and_how_long_restarts_take() {
    let all = kills(100, 2).await;
    for (what, index) in [("listening", 0), ("ready", 1), ("first answer", 2)] {
        let mut times: Vec<_> = all.iter().map(|times| times.0[index].as_millis()).collect();
        times.sort_unstable();
        println!(
            "{what}: median {} ms, longest {} ms",
            times[times.len() / 2],
            times[times.len() - 1]
        );
    }
}
