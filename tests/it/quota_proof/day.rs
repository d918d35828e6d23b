//! Twenty-four hours of each kind of demand and trouble.

use std::fmt::Write as _;
use std::time::Duration;

use tokio::time::Instant;

use defender_gateway::testing::caller::Name;
use defender_gateway::testing::quota::UnknownPast;
use defender_gateway::testing::sim::{Limit, Limiter, QuotaVerifier, Shape};

use super::upstream::{Manners, Rng, Sent, TIMEOUT, Upstream};
use super::world::{DAY, Gateway, HOUR, MINUTE, Settings, each, tell, wall};

/// How a day goes.
#[derive(Clone, Copy, Debug)]
struct Scenario {
    name: &'static str,
    length: Duration,
    manners: Manners,
    /// Seconds of demand, then seconds without, over and over.
    on_off: (u64, u64),
    /// Callers who always want more, and how many requests each keeps up.
    callers: (u8, u8),
    /// Callers who ask once a minute.
    modest: u8,
    /// Whether each request has a random urgency.
    mixed: bool,
    /// Share of requests whose caller hangs up, at any moment.
    cancelled: f64,
    /// How often the gateway is killed and started again.
    life: Duration,
    memory: Memory,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Memory {
    StateFile,
    None(UnknownPast),
}

const CALM: Scenario = Scenario {
    name: "saturated",
    length: DAY,
    manners: Manners::GOOD,
    on_off: (86_400, 0),
    callers: (5, 2),
    modest: 0,
    mixed: false,
    cancelled: 0.0,
    life: DAY,
    memory: Memory::None(UnknownPast::Empty),
};

impl Scenario {
    /// Whether somebody always waits, every call is answered soon and nothing is forgotten: then
    /// all of the quota is used and nobody is left alone.
    fn is_saturated(&self) -> bool {
        let Manners {
            latency,
            throttled,
            failed,
            lost,
            unsent,
        } = self.manners;
        let is_well = latency < SECOND && throttled + failed + lost + unsent == 0.0;
        is_well && self.on_off.1 == 0 && (self.life >= DAY || self.memory == Memory::StateFile)
    }
}

const SECOND: Duration = Duration::from_secs(1);

fn scenarios() -> Vec<Scenario> {
    let manners = Manners::GOOD;
    let slow = Manners {
        latency: TIMEOUT,
        ..manners
    };
    let rude = Manners {
        throttled: 0.01,
        failed: 0.05,
        lost: 0.01,
        unsent: 0.02,
        ..manners
    };
    let named = |name| Scenario { name, ..CALM };
    let on_off = |name, on_off| Scenario { on_off, ..named(name) };
    let lives = |name, minutes, memory| Scenario {
        life: MINUTE * minutes,
        memory,
        ..named(name)
    };
    vec![
        CALM,
        on_off("on/off 20/40 min", (1200, 2400)),
        on_off("on/off 3/5 min", (180, 300)),
        Scenario {
            callers: (1, 20),
            modest: 20,
            ..named("1 greedy, 20 modest")
        },
        Scenario {
            mixed: true,
            ..named("mixed priorities")
        },
        Scenario {
            manners: slow,
            ..named("up to the timeout")
        },
        Scenario {
            cancelled: 0.3,
            ..named("cancellations")
        },
        Scenario {
            manners: rude,
            ..named("429, 5xx, lost")
        },
        Scenario {
            manners: Manners {
                latency: TIMEOUT,
                ..rude
            },
            on_off: (1200, 1200),
            callers: (5, 3),
            modest: 20,
            mixed: true,
            cancelled: 0.2,
            life: MINUTE * 7,
            memory: Memory::StateFile,
            ..named("all of it")
        },
        lives("restarts, file", 4, Memory::StateFile),
        lives("restarts, full", 180, Memory::None(UnknownPast::Full)),
        lives("restarts, empty", 4, Memory::None(UnknownPast::Empty)),
        lives("restarts, paced", 4, Memory::None(UnknownPast::Paced)),
    ]
}

/// What a day was like.
struct Day {
    start: Instant,
    sent: Vec<Sent>,
    /// Calls of others that the ledger was charged with, because a 429 said so.
    foreign: u64,
}

async fn live(scenario: Scenario, seed: u64) -> Day {
    let start = Instant::now();
    let upstream = Upstream::new(scenario.manners, seed);
    let folder = tempfile::tempdir().unwrap();
    let wall = wall();
    let settings = Settings {
        state_file: (scenario.memory == Memory::StateFile).then(|| folder.path().join("state")),
        past: match scenario.memory {
            Memory::StateFile => UnknownPast::Empty,
            Memory::None(past) => past,
        },
        ..Settings::default()
    };
    let (mut life, mut foreign) = (0, 0);
    while start.elapsed() < scenario.length {
        life += 1;
        let gateway = Gateway::start(&upstream, &wall, &settings);
        let mut callers = Vec::new();
        let (greedy, each) = scenario.callers;
        for (number, seed) in (0..u32::from(greedy) * u32::from(each)).zip(seed * 1000 + life * 100_000..) {
            let name = Name::new(&format!("greedy {}", number % u32::from(greedy)));
            callers.push(
                gateway
                    .tasks
                    .spawn("greedy", ask_on(gateway.clone(), scenario, start, name, seed)),
            );
        }
        for (number, seed) in (0..scenario.modest).zip(seed * 1000 + life * 100_000 + 90_000..) {
            let name = Name::new(&format!("modest {number}"));
            callers.push(
                gateway
                    .tasks
                    .spawn("modest", ask_now_and_then(gateway.clone(), scenario, name, seed)),
            );
        }
        // A killed process gets no chance to say goodbye: nothing it still knew reaches the state
        // file.
        let left = scenario.length.saturating_sub(start.elapsed());
        tokio::time::sleep(scenario.life.min(left)).await;
        foreign += gateway.quota.snapshot().foreign;
        if let Some(file) = &settings.state_file {
            let memory = std::fs::read(file).unwrap();
            end(&gateway, callers).await;
            // As a kill in the middle of a write leaves it.
            std::fs::write(file, [&memory[..], b"i 99"].concat()).unwrap();
        } else {
            end(&gateway, callers).await;
        }
        upstream.kill();
    }
    Day {
        start,
        sent: upstream.sent(),
        foreign,
    }
}

async fn end(gateway: &Gateway, callers: Vec<tokio::task::JoinHandle<()>>) {
    callers.iter().for_each(tokio::task::JoinHandle::abort);
    gateway.tasks.finish(SECOND).await;
}

/// Asks again and again, whenever it is the time of day.
async fn ask_on(gateway: Gateway, scenario: Scenario, start: Instant, name: Name, seed: u64) {
    let mut rng = Rng::new(seed);
    let (on, off) = scenario.on_off;
    loop {
        let phase = start.elapsed().as_secs() % (on + off);
        if phase >= on {
            tokio::time::sleep(Duration::from_secs(on + off - phase)).await;
        }
        if let Err(again) = ask(&gateway, &scenario, &name, &mut rng, 2 * MINUTE).await {
            tokio::time::sleep(again).await;
        }
    }
}

async fn ask_now_and_then(gateway: Gateway, scenario: Scenario, name: Name, seed: u64) {
    let mut rng = Rng::new(seed);
    loop {
        tokio::time::sleep(rng.gap(MINUTE)).await;
        let _ = ask(&gateway, &scenario, &name, &mut rng, 30 * SECOND).await;
    }
}

async fn ask(
    gateway: &Gateway,
    scenario: &Scenario,
    name: &Name,
    rng: &mut Rng,
    wait: Duration,
) -> Result<(), Duration> {
    let urgency = if scenario.mixed {
        u8::try_from(rng.below(8)).unwrap()
    } else {
        3
    };
    let asked = gateway.ask(name, urgency, wait);
    if rng.chance(scenario.cancelled) {
        let patience = rng.up_to(wait);
        return tokio::time::timeout(patience, asked)
            .await
            .map_or(Ok(()), |answer| answer.map(drop));
    }
    asked.await.map(drop)
}

/// The fullest minute and hour, at any alignment.
fn fullest<'a>(start: Instant, sent: impl IntoIterator<Item = &'a Sent>) -> [usize; 2] {
    let mut judge = QuotaVerifier::new(&Limit::documented());
    judge.extend(sent.into_iter().map(|sent| sent.arrived - start));
    let findings = judge.findings();
    [findings[0].most, findings[1].most]
}

#[test]
#[ignore = "the whole table takes minutes in a debug build; run it with --ignored after a change to quota or queue"]
fn no_window_is_exceeded_whatever_the_day_is_like() {
    judge_all(DAY);
}

/// Long enough for the hour's window to fill, empty and fill again.
#[test]
fn no_window_is_exceeded_in_the_first_hours() {
    judge_all(HOUR * 5 / 2);
}

fn judge_all(length: Duration) {
    let scenarios: Vec<_> = scenarios()
        .into_iter()
        .map(|scenario| Scenario { length, ..scenario })
        .collect();
    let mut table = format!(
        "{:<20} {:>7} {:>10} {:>10} {:>8} {:>7} {:>8}\n",
        "day", "calls", "most in 1m", "most in 1h", "used", "others", "gap"
    );
    let mut wrong = Vec::new();
    for (scenario, day) in each(&scenarios, |scenario| live(scenario, 1)) {
        let Day { start, sent, foreign } = day;
        let forgets = scenario.memory != Memory::StateFile
            && scenario.memory != Memory::None(UnknownPast::Full)
            && scenario.life < DAY;
        let lives = sent.last().map_or(0, |sent| sent.life + 1);
        let most = if forgets {
            // A process that forgets cannot answer for the one before: each is judged alone.
            let each = (0..lives).map(|life| fullest(start, sent.iter().filter(|sent| sent.life == life)));
            each.reduce(|a, b| [a[0].max(b[0]), a[1].max(b[1])]).unwrap_or_default()
        } else {
            fullest(start, &sent)
        };
        // The steady state: an empty past gives the first hour a hundred calls more than its share.
        let steady = sent.iter().filter(|sent| sent.at >= start + HOUR).count() as f64
            / (1500.0 * length.checked_sub(HOUR).unwrap().as_secs_f64() / HOUR.as_secs_f64());
        let gap = sent
            .windows(2)
            .map(|pair| pair[1].at - pair[0].at)
            .max()
            .unwrap_or_default();
        let _ = writeln!(
            table,
            "{:<20} {:>7} {:>10} {:>10} {:>6.2} % {foreign:>7} {:>6.1} s{}",
            scenario.name,
            sent.len(),
            most[0],
            most[1],
            steady * 100.0,
            gap.as_secs_f64(),
            if forgets { "  (each life alone)" } else { "" },
        );
        if most[0] > 100 || most[1] > 1500 {
            wrong.push(format!("{}: {most:?} in a minute and an hour", scenario.name));
        }
        if scenario.is_saturated() {
            if steady < 0.995 {
                wrong.push(format!(
                    "{}: only {:.2} % of the quota used",
                    scenario.name,
                    steady * 100.0
                ));
            }
            if gap > 61 * SECOND {
                wrong.push(format!("{}: nobody was served for {gap:?}", scenario.name));
            }
        }
        if scenario.name == CALM.name {
            check_burst_and_shapes(start, &sent, &mut wrong);
        }
    }
    tell(&table);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn check_burst_and_shapes(start: Instant, sent: &[Sent], wrong: &mut Vec<String>) {
    let at_once = sent.iter().filter(|sent| sent.at == start).count();
    // 10 requests wait at any moment, so the burst takes as long as its answers.
    let burst = sent.iter().filter(|sent| sent.at < start + 30 * SECOND).count();
    if at_once < 10 || burst < 100 {
        wrong.push(format!(
            "a quiet gateway let {at_once} calls go at once, {burst} in half a minute"
        ));
    }
    // The days have no refusals to answer to, so each shape sees the same calls.
    let mut arrivals: Vec<_> = sent.iter().map(|sent| sent.arrived - start).collect();
    arrivals.sort_unstable();
    for shape in Shape::ALL {
        let mut limiter = Limiter::new(shape, &Limit::documented());
        let refused = arrivals.iter().filter(|at| limiter.arrive(**at).is_err()).count();
        if refused > 0 {
            wrong.push(format!("{shape}: {refused} calls answered 429"));
        }
    }
}

#[test]
fn a_hundred_calls_leave_at_once_when_all_was_quiet() {
    let burst = Scenario {
        callers: (100, 1),
        ..CALM
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let upstream = Upstream::new(burst.manners, 2);
        let gateway = Gateway::start(&upstream, &wall(), &Settings::default());
        let name = Name::new("burst");
        for round in 1..=3 {
            let now = Instant::now();
            let asked = (0..120).map(|_| gateway.ask(&name, 3, Duration::ZERO));
            let answers = futures_util::future::join_all(asked).await;
            let at_once = upstream.sent().iter().filter(|sent| sent.at == now).count();
            assert_eq!(at_once, 100, "round {round}");
            assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 100);
            tokio::time::sleep(HOUR).await;
        }
    });
}
