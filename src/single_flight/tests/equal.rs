//! Random mixes of equal requests of different urgency, patience and needs, at an upstream with
//! scarce slots: a call is made only when somebody needs it, and nobody fares worse than alone.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::StatusCode;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::{Instant, sleep, sleep_until};
use tower::{Layer as _, service_fn};

use super::fixture::{MERGE, RecordingSink, answer, caller, failure, no_slot, predicted_wait, request, root, rows};
use crate::BoxError;
use crate::attempt::{Attempt, Delivery, Failure, RetryHint, Scarcity};
use crate::caller::{CacheDirectives, Caller, Name, Urgency};
use crate::middleware;
use crate::scan::{CacheSink, Call, Merging, UpstreamProfile, UpstreamResponse};
use crate::single_flight::driver::Below;
use crate::single_flight::{BatchConfig, Config, Metrics, PredictedWait, SingleFlight};
use crate::task::Tasks;

/// How long the upstream takes.
const CALL: Duration = Duration::from_millis(300);

/// How long one takes that is given up.
const SILENCE: Duration = Duration::from_secs(45);

/// How far slots are apart. Who has its turn earlier by not much more joins an equal request.
const INTERVAL: Duration = Duration::from_millis(50);

/// How long a 429 stops all calls.
const PAUSE: Duration = Duration::from_secs(2);

/// How calls end in one mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum World {
    /// All are answered.
    Good,
    /// Every other one is rejected with 429, and waits for another slot.
    Throttling,
    /// Every other one gets a 503 that is passed on.
    Unavailable,
    /// Every other one is lost.
    Losing,
    /// Every other one is given up after this long, and then lost.
    Silent,
}

/// One request, in the name of its own caller.
#[derive(Clone, Copy, Debug)]
struct Asked {
    at: Duration,
    urgency: u8,
    wait: Duration,
    no_cache: bool,
    /// When its caller has a slot, counted from the beginning.
    slot: Duration,
    hangs_up: Option<Duration>,
}

impl Asked {
    fn random(rng: &mut StdRng) -> Self {
        let ms = |rng: &mut StdRng, most| Duration::from_millis(rng.random_range(0..most));
        let at = ms(rng, 3000);
        Self {
            at,
            urgency: rng.random_range(0..8),
            wait: [Duration::ZERO, ms(rng, 5000), ms(rng, 60_000)][rng.random_range(0..3)],
            no_cache: rng.random_ratio(1, 10),
            // Many at the same moment, as when a window becomes free.
            slot: at.max([ms(rng, 20_000), Duration::from_secs(4)][rng.random_range(0..2)]),
            hangs_up: rng.random_ratio(1, 8).then(|| ms(rng, 6000)),
        }
    }

    fn has_slot(&self) -> bool {
        self.slot <= self.at + self.wait
    }
}

/// The calls of one mix.
#[derive(Debug, Default)]
struct Calls {
    left: Vec<Instant>,
    under_way: usize,
    /// The calls that left while another one was under way.
    besides: Vec<Instant>,
}

/// A queue whose slots come when `asked` says, and an upstream as `world` says.
async fn call_upstream(
    attempt: Attempt,
    (asked, start, world): (Arc<Vec<Asked>>, Instant, World),
    calls: Arc<Mutex<Calls>>,
) -> Result<UpstreamResponse, BoxError> {
    let nth: usize = attempt.caller.name.as_str().parse()?;
    let mut slot = (start + asked[nth].slot).max(Instant::now());
    loop {
        // Whom the upstream has taken a slot from, and who comes back, has a moment for the next.
        if slot > attempt.caller.deadline.max(Instant::now()) {
            return Err(no_slot());
        }
        if slot > Instant::now() {
            Arc::clone(&attempt.request).queues(attempt.position, slot);
        }
        sleep_until(slot).await;
        let request = attempt.request.bind().ok_or("not needed")?;
        let turn = {
            let mut calls = calls.lock().unwrap();
            let now = Instant::now();
            if calls.under_way > 0 {
                calls.besides.push(now);
            }
            calls.under_way += 1;
            calls.left.push(now);
            calls.left.len()
        };
        let is_bad = turn % 2 == 1;
        let is_silent = is_bad && world == World::Silent;
        sleep(if is_silent { SILENCE } else { CALL }).await;
        calls.lock().unwrap().under_way -= 1;
        match world {
            World::Throttling if is_bad => slot = Instant::now() + PAUSE,
            World::Unavailable if is_bad => {
                return Ok(UpstreamResponse {
                    status: StatusCode::SERVICE_UNAVAILABLE,
                    ..answer("")
                });
            }
            World::Losing | World::Silent if is_bad => return Err(failure(RetryHint::OtherHost)),
            _ => return Ok(rows(&request)),
        }
        if slot > attempt.caller.deadline {
            let throttled = UpstreamResponse {
                status: StatusCode::TOO_MANY_REQUESTS,
                ..answer("")
            };
            return Err(out_of_time(throttled));
        }
    }
}

fn out_of_time(answer: UpstreamResponse) -> BoxError {
    Failure {
        delivery: Delivery::Answered,
        again: RetryHint::WhenAllowed,
        answer: Some(answer),
        source: "no time is left".into(),
    }
    .into()
}

/// How one request ended, and when.
#[derive(Debug)]
struct Told {
    asked: Asked,
    after: Duration,
    /// `None` when it was refused, or failed.
    status: Option<u16>,
    error: String,
}

/// What became of one mix of requests, which began at `start`.
#[derive(Debug)]
struct Mix {
    start: Instant,
    asked: Arc<Vec<Asked>>,
    told: Vec<Told>,
    calls: Calls,
}

async fn run(seed: u64, world: World, when: Merging) -> Mix {
    let mut rng = StdRng::seed_from_u64(seed);
    let asked: Arc<Vec<Asked>> = Arc::new((0..rng.random_range(2..12)).map(|_| Asked::random(&mut rng)).collect());
    let (start, calls, tasks) = (Instant::now(), Arc::<Mutex<Calls>>::default(), Tasks::new());
    let (all, made, forecast) = (Arc::clone(&asked), Arc::clone(&calls), Arc::clone(&asked));
    let below = service_fn(move |attempt| call_upstream(attempt, (Arc::clone(&all), start, world), Arc::clone(&made)));
    let single_flight = SingleFlight::new(
        Config {
            merge: BatchConfig { when, ..MERGE },
            attempt: Duration::from_mins(1),
        },
        tasks.clone(),
        Arc::<RecordingSink>::default() as Arc<dyn CacheSink>,
        Arc::new(UpstreamProfile::new(1000)),
        PredictedWait {
            turn: Arc::new(move |_, caller| {
                let nth: usize = caller.name.as_str().parse().unwrap();
                (start + forecast[nth].slot).saturating_duration_since(Instant::now())
            }),
            scarcity: Arc::new(|_| Scarcity {
                gather: None,
                interval: INTERVAL,
            }),
            ..predicted_wait(Duration::from_secs(77))
        },
        Metrics::default(),
    );
    let flights = middleware::layer(single_flight.clone()).layer(Below::new(below));
    let each = asked.iter().enumerate().map(|(nth, asked)| {
        let (flights, asked) = (flights.clone(), *asked);
        tasks.spawn("test", async move {
            sleep_until(start + asked.at).await;
            let call = flights.call(Call {
                request: Arc::new(request(&["a"])),
                caller: Arc::new(Caller {
                    name: Name::new(&nth.to_string()),
                    urgency: Urgency::new(asked.urgency).unwrap(),
                    deadline: Instant::now() + asked.wait,
                    cache_directives: CacheDirectives {
                        no_cache: asked.no_cache,
                        ..CacheDirectives::default()
                    },
                    ..caller("", 0)
                }),
            });
            let hangs_up = asked.hangs_up.unwrap_or(Duration::from_hours(1));
            let result = tokio::time::timeout(hangs_up, call).await.ok()?;
            Some(Told {
                asked,
                after: start.elapsed(),
                error: result.as_ref().err().map(root).unwrap_or_default(),
                status: result.ok().map(|served| served.answer.status.as_u16()),
            })
        })
    });
    let mut told = Vec::new();
    for each in each.collect::<Vec<_>>() {
        told.extend(each.await.unwrap());
    }
    assert_eq!(tasks.finish(Duration::from_mins(5)).await, 0, "a flight is left");
    assert_eq!(single_flight.flight_table.len(), 0);
    let calls = std::mem::take(&mut *calls.lock().unwrap());
    Mix {
        start,
        asked,
        told,
        calls,
    }
}

#[tokio::test(start_paused = true)]
async fn no_call_is_made_besides_an_equal_one_unless_somebody_needs_it() {
    let (mut served, mut made) = (0, 0);
    for seed in 0..400 {
        for when in [Merging::Off, Merging::On] {
            let mix = run(seed, World::Good, when).await;
            // Besides one that is under way, a call leaves only for who came later and says that
            // nothing older will do.
            for besides in &mix.calls.besides {
                let since = mix.calls.left.iter().filter(|left| *left < besides).max();
                let came = |asked: &Asked| mix.start + asked.at;
                let needs = |asked: &Asked| {
                    asked.no_cache && came(asked) <= *besides && since.is_some_and(|since| came(asked) > *since)
                };
                assert!(mix.asked.iter().any(needs), "seed {seed}, {when:?}: {mix:#?}");
            }
            for told in mix.told.iter().filter(|told| told.asked.has_slot()) {
                assert_eq!(told.status, Some(200), "seed {seed}, {when:?}: {told:?} in {mix:#?}");
                // Whose leader hangs up gets another one's place.
                let is_punctual = told.after <= told.asked.slot + INTERVAL * 3 + CALL;
                let is_left = mix.asked.iter().any(|asked| asked.hangs_up.is_some());
                assert!(is_punctual || is_left, "seed {seed}, {when:?}: {told:?} in {mix:#?}");
                served += 1;
            }
            made += mix.calls.left.len();
        }
    }
    assert!(served > 2000 && made < served, "{made} calls for {served}");
}

#[tokio::test(start_paused = true)]
async fn whatever_becomes_of_a_call_nobody_who_waited_for_it_fares_worse_than_alone() {
    for world in [World::Throttling, World::Unavailable, World::Losing, World::Silent] {
        for seed in 0..200 {
            for when in [Merging::Off, Merging::On] {
                let mix = run(seed, world, when).await;
                for told in mix.told.iter().filter(|told| told.asked.has_slot()) {
                    let context = || format!("seed {seed}, {world:?}, {when:?}: {told:?} in {mix:#?}");
                    assert_ne!(told.error, "no slot in time", "{}", context());
                    // Who is out of time when a call fails waits for no other one.
                    let latest = told.asked.at + told.asked.wait + Duration::from_secs(1);
                    let answered = match world {
                        World::Silent => SILENCE,
                        World::Throttling => (CALL + PAUSE) * 2,
                        World::Good | World::Unavailable | World::Losing => CALL,
                    };
                    assert!(told.after <= latest + answered, "{}", context());
                }
                let (calls, asked) = (mix.calls.left.len(), mix.asked.len());
                assert!(calls <= asked * 2, "seed {seed}: {calls} calls for {asked}");
            }
        }
    }
}
