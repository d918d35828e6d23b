//! Repeats one hot function so that its instructions can be counted: `instructions CASE TIMES`.
//! `tests/bench/count` does it.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on stops")]

mod forwarded;
mod support;

use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;
use tower::{Layer as _, Service as _, service_fn};

use defender_gateway::testing::BoxError;
use defender_gateway::testing::quota::{Config, Limit, QuotaState};
use defender_gateway::testing::response::{Reply, ResponsePreferences};
use defender_gateway::testing::scan::{Call, Outcome, Rows, ServedResponse, Status};
use defender_gateway::testing::server::InboundRequest;

const SECOND: Duration = Duration::from_secs(1);

/// A body that asks for `count` ids in no order.
fn mixed_body(count: usize) -> Bytes {
    let ids: Vec<_> = (0..count as u128)
        .map(|nth| {
            let mixed = (nth + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
            let part = |from: u32, digits: u32| (mixed >> from) & ((1 << (4 * digits)) - 1);
            let [first, second, third, fourth] = [part(96, 8), part(80, 4), part(64, 4), part(48, 4)];
            format!(
                "\"{first:08x}-{second:04x}-{third:04x}-{fourth:04x}-{:012x}\"",
                part(0, 12)
            )
        })
        .collect();
    format!("{{\"ScanDefinitionIds\":[{}]}}", ids.join(",")).into()
}

/// From the bytes of a body to its canonical key.
fn key(body: &[u8], times: usize) {
    (0..times).for_each(|_| drop(black_box(support::parse_request(black_box(body)))));
}

/// A request through all layers, answered from the cache.
fn hit(times: usize) {
    let cache = support::cache(1 << 26);
    let body = support::body(1, 3);
    support::keep(&cache, &body, &support::answer(1000));
    let mut path = support::path(&cache);
    let peer = support::peer();
    for _ in 0..times {
        let answer = support::now(path.call(support::request(&peer, body.clone())));
        assert!(answer.unwrap().status().is_success());
    }
}

/// Making the request that `hit` sends, which is no part of a hit.
fn request(times: usize) {
    let (body, peer) = (support::body(1, 3), support::peer());
    (0..times).for_each(|_| drop(black_box(support::request(&peer, body.clone()))));
}

/// The status and the fields of a hit.
fn fields(times: usize) {
    let answer = support::answer(1000);
    let served = move |_| {
        let served = ServedResponse {
            may_link: false,
            answer: answer.clone(),
            outcome: Outcome::Hit,
            status: Status {
                ttl: Some(21),
                ..Status::default()
            },
            age: Some(9 * SECOND),
        };
        std::future::ready(Ok::<_, BoxError>(Reply::Served(
            Box::new(served),
            ResponsePreferences::default(),
        )))
    };
    let peer = support::peer();
    let mut layer = support::respond().layer(service_fn(served));
    for _ in 0..times {
        let request = InboundRequest::new(Request::new(()), peer.clone());
        drop(support::now(layer.call(request)));
    }
}

/// A request that is asked upstream: flight, retry, queue and quota, over an upstream that answers
/// at once; no socket, no HTTP.
fn forwarded(runtime: &Runtime, times: usize) {
    let request = support::parse_request(&support::body(1, 3));
    let answer = forwarded::rows(&request);
    let mut path = forwarded::paid(answer);
    let caller = forwarded::caller();
    for _ in 0..times {
        let call = Call {
            request: Arc::new(request.clone()),
            caller: Arc::new(caller.clone()),
        };
        let served = runtime.block_on(path.call(call)).unwrap();
        assert_eq!(served.outcome, Outcome::Forwarded);
    }
}

/// Taking an answer of three rows apart.
fn rows(times: usize) {
    let request = support::parse_request(&support::body(1, 3));
    let answer = forwarded::rows(&request);
    for _ in 0..times {
        assert_eq!(Rows::split(&request, black_box(&answer.body)).unwrap().len(), 3);
    }
}

/// A call of a saturated account: taken when it may go, and settled.
fn decision(times: usize) {
    let limit = |calls, secs| Limit::try_new(NonZeroU32::new(calls).unwrap(), Duration::from_secs(secs)).unwrap();
    let limits = vec![limit(100, 60), limit(1500, 3600)];
    let config = Config::try_new(limits, NonZeroU32::new(100).unwrap(), 60 * SECOND).unwrap();
    let mut now = Instant::now();
    let mut account = QuotaState::new(&config, now);
    for _ in 0..times {
        let charge = loop {
            match account.take(now) {
                Ok(charge) => break charge,
                Err(at) => now = at.unwrap(),
            }
        };
        now += SECOND / 5;
        account.settle(charge, now);
    }
}

fn main() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let _guard = runtime.enter();
    let mut arguments = std::env::args().skip(1);
    // Run by `cargo bench` itself there are none, and nothing to count.
    let (Some(case), Some(times)) = (arguments.next(), arguments.next().and_then(|times| times.parse().ok())) else {
        return;
    };
    match case.as_str() {
        "key" => key(&support::body(1, 3), times),
        "key_500" => key(&support::body(1, 500), times),
        "key_500_mixed" => key(&mixed_body(500), times),
        "hit" => hit(times),
        "request" => request(times),
        "fields" => fields(times),
        "decision" => decision(times),
        "forwarded" => forwarded(&runtime, times),
        "rows" => rows(times),
        _ => unreachable!("an unknown case"),
    }
}
