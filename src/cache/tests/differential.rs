//! Random requests, one after the other, against upstreams of many kinds: however an answer is
//! joined, every caller gets byte for byte what the upstream answers to the whole request.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::StatusCode;
use prometheus_client::registry::Registry;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::{Instant, advance};
use tower::{Layer as _, ServiceExt as _, service_fn};

use super::fixture::call;
use crate::BoxError;
use crate::cache::{Cache, Config, Layer, Metrics};
use crate::caller::CacheDirectives;
use crate::middleware::Next;
use crate::scan::{
    CacheSink as _, Call, Endpoint, ForwardReason, Headers, Outcome, Request, Rows, ServedResponse, Status,
    UpstreamProfile, UpstreamResponse,
};
use crate::task::Tasks;

/// How rows are listed.
#[derive(Clone, Copy, Debug)]
enum Listing {
    NewestFirst,
    OldestFirst,
    Grouped,
    /// By a value that is not in the rows.
    Hidden,
}

#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is drawn by itself")]
struct UpstreamBehaviour {
    listing: Listing,
    page: usize,
    linked: bool,
    strict: bool,
    timed: bool,
    /// Whether all spellings of an id are one id, as for an upstream in .NET.
    lenient: bool,
    layout: Layout,
}

/// The text before the first row, between rows, after the last one, and around all of it.
type Layout = (&'static str, &'static str, &'static str, &'static str, &'static str);

const LAYOUTS: [Layout; 5] = [
    ("", ",", "", "{\"@odata.context\":\"c\",\"value\":[", "]}"),
    ("", ", ", "", "{\"@odata.context\": \"c\", \"value\": [", "]}"),
    (
        "\r\n    ",
        ",\r\n    ",
        "\r\n  ",
        "{\r\n  \"value\": [",
        "],\r\n  \"@odata.context\": \"c\"\r\n}\r\n",
    ),
    (
        "\n",
        "\n,\n",
        "\n",
        "{\"took\":\"1\",\"value\":[",
        "],\"x\":{\"y\":[null]}}",
    ),
    ("", "\t,", " ", "\u{feff} {\"value\" : [", "] }"),
];

/// Responses that are no answers.
const RUBBISH: [(u16, &str); 6] = [
    (200, ""),
    (200, "<html></html>"),
    (200, "{\"value\":[{\"ScanDefinitionId\":\"id1\"}"),
    (200, "{\"error\":{\"code\":\"x\"}}"),
    (404, "<html></html>"),
    (520, ""),
];

impl UpstreamBehaviour {
    fn random(rng: &mut StdRng) -> Self {
        let listings = [
            Listing::NewestFirst,
            Listing::OldestFirst,
            Listing::Grouped,
            Listing::Hidden,
        ];
        Self {
            listing: listings[rng.random_range(0..listings.len())],
            page: [4, 9, 1000][rng.random_range(0..3)],
            linked: rng.random(),
            strict: rng.random(),
            timed: rng.random_ratio(3, 4),
            lenient: rng.random(),
            layout: LAYOUTS[rng.random_range(0..LAYOUTS.len())],
        }
    }

    fn answer(self, request: &Request) -> UpstreamResponse {
        if self.strict && request.ids().any(|id| id == "unknown") {
            return answer(404, "{\"error\":{\"code\":\"NotFound\"}}".into());
        }
        let mut rows: Vec<(u64, u64, String)> = Vec::new();
        let mut taken = std::collections::HashSet::new();
        for id in request.ids().filter(|id| *id != "unknown") {
            let id = &*if self.lenient {
                id.trim_matches(['{', '}']).to_lowercase()
            } else {
                id.to_owned()
            };
            if !id.starts_with("id") || !taken.insert(id.to_owned()) {
                continue;
            }
            let seed = id
                .bytes()
                .fold(7_u64, |seed, byte| seed.wrapping_mul(131) + u64::from(byte));
            // Few enough seconds that some rows of different ids have the same time.
            rows.extend((0..seed % 4).map(|n| {
                let second = seed.wrapping_mul(n * 2 + 3) % 86_400;
                let time = format!(
                    "2026-03-01T{:02}:{:02}:{:02}.0000000Z",
                    second / 3600,
                    second / 60 % 60,
                    second % 60 / 20
                );
                let time = if self.timed {
                    format!(",\"LastScanned\":\"{time}\"")
                } else {
                    String::new()
                };
                (
                    second - second % 60 + second % 60 / 20,
                    seed % 1009 + n,
                    format!("{{\"ScanDefinitionId\":\"{id}\"{time}}}"),
                )
            }));
        }
        match self.listing {
            Listing::NewestFirst => rows.sort_by_key(|row| std::cmp::Reverse(row.0)),
            Listing::OldestFirst => rows.sort_by_key(|row| row.0),
            Listing::Grouped => {}
            Listing::Hidden => rows.sort_by_key(|row| row.1 * 7919 % 1009),
        }
        let is_cut = rows.len() > self.page && self.linked;
        let rows: Vec<_> = rows.into_iter().take(self.page).map(|row| row.2).collect();
        let (before, between, after, head, tail) = self.layout;
        let mut list = rows.join(between);
        if !rows.is_empty() {
            list = format!("{before}{list}{after}");
        }
        let mut body = format!("{head}{list}{tail}");
        if is_cut {
            body = body.replacen('{', "{\"@odata.nextLink\":\"n\",", 1);
        }
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

#[derive(Debug, Default)]
struct Tally {
    hits: u32,
    partial: u32,
    broken: u32,
}

async fn run(seed: u64, tally: &mut Tally) {
    let mut rng = StdRng::seed_from_u64(seed);
    let behaviour = UpstreamBehaviour::random(&mut rng);
    let upstream_profile = Arc::new(UpstreamProfile::new(0));
    let cache = Arc::new(Cache::new(
        Config::default(),
        Some(Arc::clone(&upstream_profile)),
        Metrics::register(&mut Registry::default()),
    ));
    let keep = Arc::clone(&cache);
    let is_broken = Arc::new(AtomicUsize::new(usize::MAX));
    let breaks = Arc::clone(&is_broken);
    let below = service_fn(move |call: Call| {
        let answer = match RUBBISH.get(breaks.load(Ordering::Relaxed)) {
            Some((status, body)) => answer(*status, (*body).into()),
            None => behaviour.answer(&call.request),
        };
        if answer.status == StatusCode::OK
            && let Ok(rows) = Rows::split(&call.request, &answer.body)
        {
            upstream_profile.learn(&call.request, &rows);
        }
        let kept = keep.keep(&call.request, &answer, Instant::now());
        let served = ServedResponse {
            may_link: true,
            answer,
            outcome: Outcome::Forwarded,
            status: Status {
                stored: kept.is_some(),
                ..Status::default()
            },
            age: None,
        };
        async { Ok::<_, BoxError>(served) }
    });
    let layer = Layer::new(cache, Tasks::new(), Arc::new(|_| false));
    let front = layer.layer(Next::new(below));
    for _ in 0..150 {
        let mut ids: Vec<_> = (0..rng.random_range(1..=6))
            .map(|_| {
                let id = format!("id{}", rng.random_range(0..25_u32));
                match rng.random_range(0..12) {
                    0 => id.to_uppercase(),
                    1 => format!("{{{id}}}"),
                    _ => id,
                }
            })
            .collect();
        let broken = if rng.random_ratio(1, 10) {
            rng.random_range(0..RUBBISH.len())
        } else {
            usize::MAX
        };
        is_broken.store(broken, Ordering::Relaxed);
        if rng.random_ratio(1, 40) {
            ids.push("unknown".into());
        }
        let request = Request::plain(Endpoint::HISTORY, ids.iter().map(String::as_str)).unwrap();
        let alone = behaviour.answer(&request);
        let call = Call {
            request: Arc::new(request),
            ..call("x", CacheDirectives::default())
        };
        let served = front.clone().oneshot(call).await.unwrap();
        if let Some((status, body)) = RUBBISH.get(broken)
            && served.answer.body == *body
            && served.answer.status == *status
        {
            // The caller gets it if there is nothing better; no other caller ever does.
            assert!(served.status.forward.is_some() && !served.status.stored);
            tally.broken += 1;
            continue;
        }
        assert_eq!(served.answer.body, alone.body, "seed {seed}: {ids:?} in {behaviour:?}");
        assert_eq!(served.answer.status, alone.status);
        tally.hits += u32::from(served.status.detail == Some("assembled"));
        tally.partial += u32::from(served.status.forward == Some(ForwardReason::Partial));
        advance(Duration::from_millis(rng.random_range(0..2000))).await;
    }
}

#[tokio::test(start_paused = true)]
async fn fragments_make_up_the_same_answers_as_the_upstream() {
    let mut tally = Tally::default();
    for seed in 0..60 {
        run(seed, &mut tally).await;
    }
    assert!(
        tally.hits > 300 && tally.partial > 300 && tally.broken > 100,
        "{tally:?}: nothing was tested"
    );
}
