//! Random mixes of questions, many at once, against an upstream with a few slots: whatever is united, everybody gets byte for byte what
//! the upstream says to the question alone.

use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http::StatusCode;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tower::util::BoxCloneService;
use tower::{Layer as _, Service as _, service_fn};

use super::bench::{Shelf, caller};
use crate::BoxError;
use crate::attempt::Try;
use crate::coalesce::{Config, Layer, Merge, Metrics};
use crate::scan::{Answer, Call, Fields, Keep, Lore, Outcome, Request, Version};
use crate::task::Tasks;

/// How an upstream may behave.
#[derive(Clone, Copy, Debug)]
struct World {
    /// Rows by time, or grouped by id.
    mixed: bool,
    /// Which name the id has in a row.
    id_name: &'static str,
    /// The most rows in one answer.
    page: usize,
    /// Whether a cut-off answer says so.
    linked: bool,
    /// Whether an unknown id fails the call.
    strict: bool,
}

impl World {
    fn random(rng: &mut StdRng) -> Self {
        Self {
            mixed: rng.random(),
            id_name: ["ScanDefinitionIds", "ScanDefinitionId", "scanDefinitionId"][rng.random_range(0..3)],
            page: [1, 5, 12, 20, 1000, 1000][rng.random_range(0..6)],
            linked: rng.random(),
            strict: rng.random(),
        }
    }

    fn answer(self, request: &Request) -> Answer {
        if self.strict
            && let Some(unknown) = request.ids().find(|id| id.starts_with("unknown"))
        {
            return answer(
                404,
                format!("{{\"error\":{{\"code\":\"ResourceNotFound\",\"target\":\"{unknown}\"}}}}"),
            );
        }
        // Each id has its own number of rows at its own times.
        let mut rows: Vec<(u64, &str)> = Vec::new();
        for id in request.ids().filter(|id| !id.starts_with("unknown")) {
            let seed = id
                .bytes()
                .fold(7_u64, |seed, byte| seed.wrapping_mul(31) + u64::from(byte));
            rows.extend((0..seed % 4).map(|n| (seed.wrapping_mul(n + 1) % 997, id)));
        }
        if self.mixed {
            rows.sort_unstable();
        }
        let skip = usize::try_from(request.skip().unwrap_or(0)).unwrap();
        let wanted = request.top().map_or(usize::MAX, |top| top.get() as usize);
        let rows: Vec<_> = rows.into_iter().skip(skip).take(wanted).collect();
        let cut = rows.len() > self.page;
        let mut body = String::from("{\"@odata.context\":\"https://x/$metadata#y\",\"value\":[");
        for (nth, (time, id)) in rows.iter().take(self.page).enumerate() {
            let comma = if nth > 0 { "," } else { "" };
            let (name, id) = (self.id_name, id.to_uppercase());
            write!(
                body,
                "{comma}{{\"t\":{time}.0e0,\"{name}\" :\"{id}\",\"x\":\"\\u00e9\",\"x\":1e400}}"
            )
            .unwrap();
        }
        body.push(']');
        if cut && self.linked {
            body.push_str(",\"@odata.nextLink\":\"https://x/next\"");
        }
        body.push('}');
        answer(200, body)
    }
}

fn answer(status: u16, body: String) -> Answer {
    Answer {
        status: StatusCode::from_u16(status).unwrap(),
        headers: Fields::default(),
        body: body.into(),
    }
}

/// One of a few ids, so that questions overlap; in GUID form, as only GUIDs may come back in another case.
fn id(rng: &mut StdRng) -> String {
    match rng.random_range(0..60_u32) {
        0 => format!("unknown{}", rng.random_range(0..3_u32)),
        n => format!("0000000{}-90e9-4e22-ac1a-9b3d9a3b1d{:02x}", n % 10, n % 20),
    }
}

fn question(rng: &mut StdRng) -> Request {
    let ids: Vec<_> = (0..rng.random_range(1..=5)).map(|_| id(rng)).collect();
    let body = serde_json::json!({ "ScanDefinitionIds": ids }).to_string();
    let query = match rng.random_range(0..8_u32) {
        0 => "$top=2",
        1 => "$skip=1",
        _ => "",
    };
    let version = Version::ALL[usize::from(rng.random_ratio(1, 5))];
    Request::parse(version, Some(query), body.as_bytes()).unwrap()
}

/// What a world did to a mix of questions.
#[derive(Debug, Default)]
struct Tally {
    requests: u32,
    calls: u32,
    merged: u32,
}

async fn run(seed: u64, tally: &mut Tally) {
    let mut rng = StdRng::seed_from_u64(seed);
    let world = World::random(&mut rng);
    let slots = Arc::new(Semaphore::new(1));
    let calls = Arc::new(AtomicU32::new(0));
    let failing = Arc::new(std::sync::Mutex::new(StdRng::seed_from_u64(seed)));
    let made = Arc::clone(&calls);
    let upstream = service_fn(move |attempt: Try| {
        let (slots, calls, failing) = (Arc::clone(&slots), Arc::clone(&made), Arc::clone(&failing));
        async move {
            let _slot = slots.acquire().await?;
            let request = attempt.load.request();
            sleep(Duration::from_millis(100)).await;
            calls.fetch_add(1, Ordering::Relaxed);
            if failing.lock().unwrap().random_ratio(1, 100) {
                return Err::<_, BoxError>("connection lost".into());
            }
            Ok(world.answer(&request))
        }
    });
    let tasks = Tasks::new();
    let merge = Merge {
        max_ids: NonZeroUsize::new(rng.random_range(5..20)).unwrap(),
        gather: Duration::from_millis(rng.random_range(0..10)),
    };
    let config = Config {
        merge: Some(merge),
        attempt: Duration::from_mins(1),
    };
    let layer = Layer::new(
        config,
        tasks.clone(),
        Arc::<Shelf>::default() as Arc<dyn Keep>,
        Arc::new(Lore::new(0)),
        Arc::new(|_| Duration::from_secs(1)),
        Metrics::default(),
    );
    let mut flights = layer.layer(BoxCloneService::new(upstream));
    let mut asked = Vec::new();
    for _ in 0..100 {
        let request = Arc::new(question(&mut rng));
        let call = Call {
            request: Arc::clone(&request),
            caller: Arc::new(caller("x", 3600)),
        };
        asked.push((request, tasks.spawn("test", flights.call(call))));
        sleep(Duration::from_millis(rng.random_range(0..60))).await;
        if rng.random_ratio(1, 20) {
            let hangs_up = rng.random_range(0..asked.len());
            asked.swap_remove(hangs_up).1.abort();
        }
    }
    for (request, asked) in asked {
        let Ok(served) = asked.await.unwrap() else { continue };
        let alone = world.answer(&request);
        assert_eq!(
            served.answer.status, alone.status,
            "seed {seed}: {request:?} in {world:?}"
        );
        assert_eq!(
            served.answer.body,
            alone.body,
            "seed {seed}: {:?} in {world:?}",
            request.ids().collect::<Vec<_>>()
        );
        tally.requests += 1;
        tally.merged += u32::from(served.outcome == Outcome::Merged);
    }
    assert_eq!(
        tasks.finish(Duration::from_mins(1)).await,
        0,
        "seed {seed}: a flight is left"
    );
    assert!(flights.is_empty());
    tally.calls += calls.load(Ordering::Relaxed);
}

#[tokio::test(start_paused = true)]
async fn everybody_gets_what_they_would_have_got_alone() {
    let rounds = 60;
    let mut tally = Tally::default();
    for seed in 0..rounds {
        run(seed, &mut tally).await;
    }
    assert!(tally.merged > tally.requests / 10, "{tally:?}: nothing was tested");
    assert!(tally.calls < tally.requests, "{tally:?}");
}
