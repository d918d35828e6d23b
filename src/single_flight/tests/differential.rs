//! Random mixes of many concurrent requests against an upstream with few slots: however they are
//! batched, every caller gets byte for byte what the upstream answers to the request alone.

use std::collections::HashSet;
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
use tower::{Layer as _, service_fn};

use super::fixture::{RecordingSink, caller, predicted_wait};
use crate::BoxError;
use crate::attempt::Attempt;
use crate::middleware;
use crate::scan::{CacheSink, Call, Endpoint, Headers, Merging, Outcome, Request, UpstreamProfile, UpstreamResponse};
use crate::single_flight::driver::Below;
use crate::single_flight::{BatchConfig, Config, Metrics, SingleFlight};
use crate::task::Tasks;

/// How an upstream may behave.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is drawn by itself")]
struct UpstreamBehaviour {
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
    /// Whether it reads a GUID in every form that .NET reads.
    lenient: bool,
    /// What stands in front of the first row, between rows, and behind the last.
    space: [&'static str; 3],
    /// The members before and after the rows.
    around: [&'static str; 2],
}

const SPACES: [[&str; 3]; 4] = [
    ["", ",", ""],
    ["", ", ", ""],
    ["\r\n    ", ",\r\n    ", "\r\n  "],
    ["\n", "\n,", "\t"],
];

const AROUND: [[&str; 2]; 3] = [
    ["\"@odata.context\":\"https://x/$metadata#y\",", ""],
    ["", " ,\"@odata.context\": \"https://x/$metadata#y\"\r\n"],
    ["\"took\":\"1\", ", ",\"x\":{\"y\":[null]}"],
];

/// What comes now and then instead of an answer.
const RUBBISH: &str = "<html>maintenance</html>";

impl UpstreamBehaviour {
    fn random(rng: &mut StdRng) -> Self {
        Self {
            mixed: rng.random(),
            id_name: ["ScanDefinitionIds", "ScanDefinitionId", "scanDefinitionId"][rng.random_range(0..3)],
            page: [1, 5, 12, 20, 1000, 1000][rng.random_range(0..6)],
            linked: rng.random(),
            strict: rng.random(),
            lenient: rng.random(),
            space: SPACES[rng.random_range(0..SPACES.len())],
            around: AROUND[rng.random_range(0..AROUND.len())],
        }
    }

    fn answer(self, request: &Request) -> UpstreamResponse {
        if self.strict
            && let Some(unknown) = request.ids().find(|id| id.starts_with("unknown"))
        {
            return answer(
                404,
                format!("{{\"error\":{{\"code\":\"ResourceNotFound\",\"target\":\"{unknown}\"}}}}"),
            );
        }
        // Each id has its own number of rows at its own times.
        let mut rows: Vec<(u64, String)> = Vec::new();
        let mut taken = HashSet::new();
        for id in request.ids().filter(|id| !id.starts_with("unknown")) {
            let guid = if self.lenient { plain(id) } else { id.to_owned() };
            if guid.len() != 36 || !taken.insert(guid.clone()) {
                continue;
            }
            let id = &*guid;
            let seed = id
                .bytes()
                .fold(7_u64, |seed, byte| seed.wrapping_mul(31) + u64::from(byte));
            rows.extend((0..seed % 4).map(|n| (seed.wrapping_mul(n + 1) % 997, id.to_owned())));
        }
        if self.mixed {
            rows.sort_unstable();
        }
        let skip = usize::try_from(request.skip().unwrap_or(0)).unwrap();
        let wanted = request.top().map_or(usize::MAX, |top| top.get() as usize);
        let rows: Vec<_> = rows.into_iter().skip(skip).take(wanted).collect();
        let cut = rows.len() > self.page;
        let [before, between, after] = self.space;
        let mut body = format!("{{{}\"value\":[", self.around[0]);
        for (nth, (time, id)) in rows.iter().take(self.page).enumerate() {
            let comma = if nth > 0 { between } else { before };
            let (name, id) = (self.id_name, id.to_uppercase());
            write!(
                body,
                "{comma}{{\"t\":{time}.0e0,\"{name}\" :\"{id}\",\"x\":\"\\u00e9\",\"x\":1e400}}"
            )
            .unwrap();
        }
        if !rows.is_empty() {
            body.push_str(after);
        }
        body.push(']');
        body.push_str(self.around[1]);
        if cut && self.linked {
            body.push_str(",\"@odata.nextLink\":\"https://x/next\"");
        }
        body.push('}');
        answer(200, body)
    }
}

fn answer(status: u16, body: String) -> UpstreamResponse {
    UpstreamResponse {
        status: StatusCode::from_u16(status).unwrap(),
        headers: Headers::default(),
        body: body.into(),
    }
}

/// One of a few ids, so that requests overlap; in GUID form, as only GUIDs may come back in
/// another case.
fn id(rng: &mut StdRng) -> String {
    match rng.random_range(0..60_u32) {
        0 => format!("unknown{}", rng.random_range(0..3_u32)),
        n => {
            let guid = format!("0000000{}-90e9-4e22-ac1a-9b3d9a3b1d{:02x}", n % 10, n % 20);
            match rng.random_range(0..20) {
                0 => format!("{{{guid}}}"),
                1 => guid.replace('-', ""),
                2 => format!("({})", guid.to_uppercase()),
                _ => guid,
            }
        }
    }
}

/// A GUID in the usual form, whichever form it was in.
fn plain(id: &str) -> String {
    let digits: String = id.chars().filter(char::is_ascii_hexdigit).collect();
    let digits = digits.to_lowercase();
    let part = |range: std::ops::Range<usize>| digits.get(range).unwrap_or_default();
    [part(0..8), part(8..12), part(12..16), part(16..20), part(20..32)].join("-")
}

fn request(rng: &mut StdRng) -> Request {
    let ids: Vec<_> = (0..rng.random_range(1..=5)).map(|_| id(rng)).collect();
    let body = serde_json::json!({ "ScanDefinitionIds": ids }).to_string();
    let query = match rng.random_range(0..8_u32) {
        0 => "$top=2",
        1 => "$skip=1",
        _ => "",
    };
    let version = [Endpoint::HISTORY, Endpoint::HISTORY_V1][usize::from(rng.random_ratio(1, 5))];
    Request::parse(version, Some(query), body.as_bytes()).unwrap()
}

/// What happened to a mix of requests.
#[derive(Debug, Default)]
struct Tally {
    requests: u32,
    calls: u32,
    merged: u32,
    rubbish: u32,
    failed: u32,
    errors: std::collections::BTreeSet<String>,
}

async fn run(seed: u64, tally: &mut Tally) {
    let mut rng = StdRng::seed_from_u64(seed);
    let behaviour = UpstreamBehaviour::random(&mut rng);
    let slots = Arc::new(Semaphore::new(1));
    let calls = Arc::new(AtomicU32::new(0));
    let failing = Arc::new(std::sync::Mutex::new(StdRng::seed_from_u64(seed)));
    let made = Arc::clone(&calls);
    let upstream = service_fn(move |attempt: Attempt| {
        let (slots, calls, failing) = (Arc::clone(&slots), Arc::clone(&made), Arc::clone(&failing));
        async move {
            let _slot = slots.acquire().await?;
            let request = attempt.request.bind().unwrap();
            sleep(Duration::from_millis(100)).await;
            calls.fetch_add(1, Ordering::Relaxed);
            if failing.lock().unwrap().random_ratio(1, 100) {
                return Err::<_, BoxError>("connection lost".into());
            }
            if failing.lock().unwrap().random_ratio(1, 50) {
                return Ok(answer(200, RUBBISH.into()));
            }
            Ok(behaviour.answer(&request))
        }
    });
    let tasks = Tasks::new();
    let merge = BatchConfig {
        when: Merging::On,
        max_ids: NonZeroUsize::new(rng.random_range(5..20)).unwrap(),
        gather: Duration::from_millis(rng.random_range(0..10)),
    };
    let config = Config {
        merge,
        attempt: Duration::from_mins(1),
    };
    let single_flight = SingleFlight::new(
        config,
        tasks.clone(),
        Arc::<RecordingSink>::default() as Arc<dyn CacheSink>,
        Arc::new(UpstreamProfile::new(0)),
        predicted_wait(Duration::from_secs(1)),
        Metrics::default(),
    );
    let flights = middleware::layer(single_flight.clone()).layer(Below::new(upstream));
    let mut asked = Vec::new();
    for _ in 0..100 {
        let request = Arc::new(request(&mut rng));
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
        let served = match asked.await.unwrap() {
            Ok(served) => served,
            Err(error) => {
                tally.failed += 1;
                tally.errors.insert(error.to_string());
                continue;
            }
        };
        if served.answer.body == RUBBISH {
            assert_ne!(served.outcome, Outcome::Merged, "it is nobody's part");
            tally.rubbish += 1;
            continue;
        }
        let request_alone = behaviour.answer(&request);
        assert_eq!(
            served.answer.status, request_alone.status,
            "seed {seed}: {request:?} in {behaviour:?}"
        );
        assert_eq!(
            served.answer.body,
            request_alone.body,
            "seed {seed}: {:?} in {behaviour:?}",
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
    assert_eq!(single_flight.flight_table.len(), 0);
    tally.calls += calls.load(Ordering::Relaxed);
}

#[tokio::test(start_paused = true)]
async fn every_caller_gets_the_answer_of_a_call_of_its_own() {
    let rounds = 60;
    let mut tally = Tally::default();
    for seed in 0..rounds {
        run(seed, &mut tally).await;
    }
    assert!(tally.merged > tally.requests / 10, "{tally:?}: nothing was tested");
    assert!(tally.calls < tally.requests, "{tally:?}");
    assert!(tally.failed < tally.requests / 20, "{tally:?}");
    assert!(tally.rubbish > 0 && tally.rubbish < tally.requests / 10, "{tally:?}");
}
