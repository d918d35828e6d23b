//! How many requests one quota serves, by how much is shared; printed as a table. In virtual time.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::{Instant, sleep};

use super::stack_fixture::{Sharing, StackFixture};

const CALLERS: u64 = 200;
pub(super) const DEFINITIONS: u32 = 5_000;

/// As documented.
pub(super) const LIMITS: [(u32, u64); 2] = [(100, 60), (1500, 3600)];

/// How long is watched, after how long: three minutes once the burst is spent, or a whole hour by
/// `SHARING_HOUR=1`.
fn course() -> (Duration, Duration) {
    #[expect(clippy::disallowed_methods, reason = "about the test, not about the gateway")]
    let whole = std::env::var("SHARING_HOUR").is_ok();
    let minutes = if whole { (60, 60) } else { (3, 2) };
    (Duration::from_mins(minutes.0), Duration::from_mins(minutes.1))
}

/// Zipf's law with exponent 1: the n-th definition is asked for 1/n as often as the first.
pub(super) fn zipf() -> Vec<f64> {
    let mut sum = 0.0;
    let weights = (1..=DEFINITIONS).map(|n| {
        sum += 1.0 / f64::from(n);
        sum
    });
    weights.collect()
}

/// What came of requests in the time watched.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// How long each answer took.
    pub(super) answered: Vec<Duration>,
    pub(super) refused: usize,
}

/// How a caller asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Habit {
    /// For other definitions each time, after some seconds.
    Varied,
    /// For the same definitions each time, after the same one or two minutes but for a fiftieth.
    Regular,
}

/// What one caller asks for, and when.
#[derive(Debug)]
pub(super) struct Questions<'a> {
    habit: Habit,
    rng: StdRng,
    zipf: &'a [f64],
    regular: Option<(Duration, Vec<usize>)>,
}

impl<'a> Questions<'a> {
    pub(super) fn new(habit: Habit, seed: u64, zipf: &'a [f64]) -> Self {
        Self {
            habit,
            rng: StdRng::seed_from_u64(seed),
            zipf,
            regular: None,
        }
    }

    /// How long the caller reads the last answer, and which definitions it asks for then.
    pub(super) fn next(&mut self) -> (Duration, Vec<usize>) {
        if self.habit == Habit::Varied {
            let pause = Duration::from_millis(self.rng.random_range(1_000..9_000));
            return (pause, self.definitions());
        }
        if let Some((interval, ids)) = &self.regular {
            return (interval.mul_f64(self.rng.random_range(0.98..1.02)), ids.clone());
        }
        let interval = Duration::from_millis(self.rng.random_range(40_000..120_000));
        let ids = self.definitions();
        self.regular = Some((interval, ids.clone()));
        (interval.mul_f64(self.rng.random_range(0.0..1.0)), ids)
    }

    /// 1 to 5 of them.
    fn definitions(&mut self) -> Vec<usize> {
        let (rng, zipf) = (&mut self.rng, self.zipf);
        let count = rng.random_range(1..=5);
        let id = |_| {
            let at = rng.random_range(0.0..*zipf.last().unwrap());
            zipf.partition_point(|sum| *sum < at)
        };
        (0..count).map(id).collect()
    }
}

/// A caller who asks, reads the answer, and asks again.
pub(super) async fn caller(
    stack_fixture: &StackFixture,
    mut questions: Questions<'_>,
    seed: u64,
    from: Instant,
    until: Instant,
) -> Tally {
    let mut tally = Tally::default();
    while Instant::now() < until {
        let (pause, ids) = questions.next();
        sleep(pause).await;
        let ids: Vec<String> = ids.iter().map(|id| format!("id{id}")).collect();
        let asked = Instant::now();
        let served = stack_fixture.ask(&format!("caller-{seed}"), &ids).await;
        let now = Instant::now();
        match served {
            _ if now < from || now >= until => {}
            Ok(_) => tally.answered.push(now - asked),
            Err(_) => tally.refused += 1,
        }
    }
    tally
}

#[tokio::test(start_paused = true)]
async fn sharing_serves_many_times_as_many() {
    let (watched, before) = course();
    let zipf = Arc::new(zipf());
    let mut table = String::from("requests served per hour by 1,500 calls          p50      p99   refused\n");
    let mut served = Vec::new();
    for (name, sharing) in [
        ("(a) queue only", Sharing::Nothing),
        ("(b) + cache", Sharing::Cache),
        ("(c) + single flight", Sharing::SingleFlight),
        ("(d) + per id", Sharing::ById),
        ("(e) + merge", Sharing::Merge),
        ("    nothing known", Sharing::MergeBlind),
    ] {
        let stack_fixture = StackFixture::new(sharing, &LIMITS);
        let from = Instant::now() + before;
        let until = from + watched;
        let questions = |n| Questions::new(Habit::Varied, n, &zipf);
        let tallies = join_all((0..CALLERS).map(|n| caller(&stack_fixture, questions(n), n, from, until))).await;
        let refused: usize = tallies.iter().map(|tally| tally.refused).sum();
        let mut took: Vec<_> = tallies.into_iter().flat_map(|tally| tally.answered).collect();
        took.sort_unstable();
        let quantile = |percent: usize| took[(took.len() - 1) * percent / 100].as_secs_f64();
        let calls = stack_fixture.arrivals.lock().unwrap();
        let calls = calls.iter().filter(|call| call.at >= from && call.at < until).count();
        let hours = watched.as_secs_f64() / 3600.0;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "far below 2^52")]
        let hourly = (took.len() as f64 / hours) as u64;
        served.push(hourly);
        let factor = hourly as f64 / served[0] as f64;
        let (p50, p99) = (quantile(50), quantile(99));
        writeln!(
            table,
            "{name:<20} {hourly:>8}   {factor:>6.1} x   {calls} calls {p50:>7.2} s {p99:>7.2} s  {refused:>7}"
        )
        .unwrap();
    }
    println!("{table}");
    assert!(served[4] >= 50 * served[0], "{table}");
    // Finding out how long answers get costs calls; it must not cost the most of them.
    assert!(served[5] >= 25 * served[0], "{table}");
    assert!(served[1] > served[0] && served[3] > served[2], "{table}");
}
