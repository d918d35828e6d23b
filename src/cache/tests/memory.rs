//! The memory that stored answers take.

use std::time::Duration;

use tokio::time::Instant;

use super::fixture::{Fixture, answer, long};
use crate::cache::Config;
use crate::memory::MemoryBudget;
use crate::scan::{CacheSink as _, Endpoint, Request, UpstreamResponse};

const ROWS: &str = r#"{"value":["rows"]}"#;

#[tokio::test(start_paused = true)]
async fn bodies_that_callers_still_read_count_although_they_are_no_longer_stored() {
    let fixture = Fixture::new(Config {
        max_size: 100_000,
        max_held: 125_000,
        ..Config::default()
    });
    let request = |id: &str| Request::plain(Endpoint::HISTORY, [id]).unwrap();
    let keep = |id: &str, answer: &UpstreamResponse| fixture.cache.keep(&request(id), answer, Instant::now()).is_some();
    let large = |bytes| UpstreamResponse {
        body: long(bytes),
        ..answer(200, "")
    };
    let ids = ["a", "b", "c", "d"];
    let readers = ids.map(|id| {
        assert!(keep(id, &large(20_000)));
        let entry = fixture.cache.find(request(id).key(), Instant::now()).unwrap();
        // It leaves the cache, while its reader still holds it.
        keep(id, &answer(404, "{}"));
        entry.answer().body.clone()
    });
    assert!(keep("e", &large(40_000)), "120,000 of 125,000");
    assert!(!keep("f", &large(20_000)), "there is no memory for it");
    assert!(keep("f", &answer(200, ROWS)), "small ones do not matter");
    drop(readers);
    // The cache's map frees replaced values when no thread of this process can be reading them any
    // more.
    let is_kept = (0..100_000).any(|_| {
        std::thread::yield_now();
        keep("f", &large(20_000))
    });
    assert!(is_kept);
}

#[tokio::test(start_paused = true)]
async fn memory_is_bounded_by_bytes() {
    let fixture = Fixture::new(Config {
        max_size: 100_000,
        ..Config::default()
    });
    let mut answer = answer(200, "");
    answer.body = long(1000);
    for n in 0..1000 {
        let request = Request::plain(Endpoint::HISTORY, [&*n.to_string()]).unwrap();
        fixture.cache.keep(&request, &answer, Instant::now());
    }
    let snapshot = fixture.cache.snapshot();
    assert!((50_000..=100_000).contains(&snapshot.bytes), "{snapshot:?}");
    assert!((30..=100).contains(&snapshot.entries), "{snapshot:?}");
}

#[tokio::test(start_paused = true)]
async fn answers_of_other_replicas_are_not_charged_to_the_budget_that_they_were_read_with() {
    let fixture = Fixture::new(Config::default());
    let budget = MemoryBudget::new(1 << 20);
    for (id, bytes) in [("small", 300), ("large", 100_000)] {
        let request = Request::plain(Endpoint::HISTORY, [id]).unwrap();
        let read = UpstreamResponse {
            body: budget.try_reserve(bytes).unwrap().hold(long(bytes)),
            ..answer(200, "")
        };
        let now = Instant::now();
        fixture
            .cache
            .insert_remote(&request, &read, (now, now), Duration::from_secs(30));
        let entry = fixture.cache.find(request.key(), now).unwrap();
        assert_eq!(entry.answer().body, read.body);
        drop(read);
        assert_eq!(budget.left(), 1 << 20, "its reader is gone");
    }
}
