//! Answers as a whole: stored, found again, replaced; of what age they are, and what memory they
//! take.

use std::sync::Barrier;
use std::time::Duration;

use http::header;
use tokio::time::Instant;

use super::fixture::{Fixture, answer, long, no_cache, only_if_cached, pass};
use crate::cache::{Config, NotCached};
use crate::caller::CacheDirectives;
use crate::clock;
use crate::memory::MemoryBudget;
use crate::scan::{CacheSink as _, CallerToken, Endpoint, ForwardReason, Outcome, Request, UpstreamResponse};

const ROWS: &str = r#"{"value":["rows"]}"#;
const OLD: &str = r#"{"value":["old"]}"#;
const REFUSED: &str = r#"{"error":{"code":"c","message":"m"}}"#;
const NEW: &str = r#"{"value":["new"]}"#;

#[tokio::test(start_paused = true)]
async fn a_second_request_is_a_hit_with_age_and_ttl() {
    let mut fixture = Fixture::new(Config::default());
    let asked = fixture.ask("a", CacheDirectives::default());
    fixture.answer(200, ROWS).await;
    let first = asked.await.unwrap().unwrap();
    assert_eq!(
        (first.status.forward, first.status.stored),
        (Some(ForwardReason::Miss), true)
    );
    assert!((27..=30).contains(&first.status.ttl.unwrap()));
    assert_eq!(first.age, None);

    pass(10).await;
    let second = fixture.ask("a", CacheDirectives::default()).await.unwrap().unwrap();
    assert_eq!((second.outcome, second.status.forward), (Outcome::Hit, None));
    assert_eq!(second.age, Some(Duration::from_secs(10)));
    assert!((17..=20).contains(&second.status.ttl.unwrap()));
    assert_eq!(second.answer.body, ROWS);
    assert_eq!(
        second.answer.headers.get(header::CONTENT_TYPE).unwrap(),
        "application/json"
    );
    fixture.nothing_is_asked().await;
    let snapshot = fixture.cache.snapshot();
    assert_eq!((snapshot.entries, snapshot.hits, snapshot.misses), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn what_was_stored_before_the_machine_was_suspended_is_asked_for_anew() {
    let mut fixture = Fixture::new(Config::default());
    fixture.fill("a", OLD).await;
    clock::suspend(Duration::from_secs(25));
    fixture.fill("a", NEW).await;
    assert_eq!(fixture.stored("a").await.answer.body, NEW);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_was_asked_for_before_the_machine_was_suspended_is_not_stored() {
    let mut fixture = Fixture::new(Config::default());
    let request = Request::plain(Endpoint::HISTORY, ["a"]).unwrap();
    let asked = Instant::now();
    pass(1).await;
    clock::suspend(Duration::from_secs(25));
    // Another request notices it first.
    fixture.fill("b", NEW).await;
    assert_eq!(fixture.cache.keep(&request, &answer(200, OLD), asked), None);
    fixture.fill("a", NEW).await;
    assert_eq!(fixture.stored("a").await.answer.body, NEW);
    assert_eq!(fixture.stored("b").await.answer.body, NEW);
}

#[tokio::test(start_paused = true)]
async fn hits_share_one_body() {
    let mut fixture = Fixture::new(Config::default());
    fixture.fill("a", ROWS).await;
    let (one, other) = (fixture.stored("a").await, fixture.stored("a").await);
    assert_eq!(one.answer.body.as_ptr(), other.answer.body.as_ptr());
}

#[tokio::test(start_paused = true)]
async fn a_ttl_of_zero_switches_the_cache_off() {
    let mut fixture = Fixture::new(Config {
        ttl: Duration::ZERO,
        ..Config::default()
    });
    for _ in 0..2 {
        let asked = fixture.ask("a", CacheDirectives::default());
        fixture.answer(200, ROWS).await;
        let served = asked.await.unwrap().unwrap();
        assert_eq!(served.status.forward, Some(ForwardReason::Bypass));
        assert!(!served.status.stored);
    }
    assert_eq!(fixture.cache.snapshot().entries, 0);
}

#[tokio::test(start_paused = true)]
async fn only_if_cached_never_asks() {
    let mut fixture = Fixture::new(Config::default());
    let refused = fixture.ask("a", only_if_cached()).await.unwrap().unwrap_err();
    assert!(refused.is::<NotCached>());
    fixture.fill("a", ROWS).await;
    assert_eq!(fixture.stored("a").await.outcome, Outcome::Hit);
    let picky = CacheDirectives {
        max_age: Some(Duration::ZERO),
        ..only_if_cached()
    };
    pass(1).await;
    assert!(fixture.ask("a", picky).await.unwrap().unwrap_err().is::<NotCached>());
    fixture.nothing_is_asked().await;
}

#[tokio::test(start_paused = true)]
async fn no_cache_asks_again_and_the_new_answer_is_stored() {
    let mut fixture = Fixture::new(Config::default());
    fixture.fill("a", OLD).await;
    pass(1).await;
    let asked = fixture.ask("a", no_cache());
    fixture.answer(200, NEW).await;
    assert_eq!(
        asked.await.unwrap().unwrap().status.forward,
        Some(ForwardReason::Request)
    );
    assert_eq!(fixture.stored("a").await.answer.body, NEW);
}

#[tokio::test(start_paused = true)]
async fn an_older_request_does_not_replace_a_newer_answer() {
    let fixture = Fixture::new(Config::default());
    let request = Request::plain(Endpoint::HISTORY, ["a"]).unwrap();
    let early = Instant::now();
    pass(1).await;
    assert!(
        fixture
            .cache
            .keep(&request, &answer(200, NEW), Instant::now())
            .is_some()
    );
    assert_eq!(fixture.cache.keep(&request, &answer(200, OLD), early), None);
    let entry = fixture.cache.find(request.key(), Instant::now()).unwrap();
    assert_eq!(entry.answer.body, NEW);
}

#[tokio::test(start_paused = true)]
async fn answers_that_must_not_be_stored_are_not() {
    let fixture = Fixture::new(Config {
        max_size: 10_000,
        ..Config::default()
    });
    let request = Request::plain(Endpoint::HISTORY, ["a"]).unwrap();
    let keep = |answer: &UpstreamResponse| fixture.cache.keep(&request, answer, Instant::now());
    for status in [201, 204, 301, 401, 403, 429, 500, 503] {
        for body in ["x", REFUSED, ROWS] {
            assert_eq!(keep(&answer(status, body)), None, "{status} {body}");
        }
    }
    for (directives, stored) in [
        ("no-cache, No-Store", false),
        ("private, no-cache", true),
        ("x-no-store", true),
    ] {
        let mut answer = answer(200, ROWS);
        answer.headers = [(header::CACHE_CONTROL, directives.parse::<http::HeaderValue>().unwrap())]
            .into_iter()
            .collect();
        assert_eq!(keep(&answer).is_some(), stored, "{directives}");
    }
    let mut big = answer(200, "");
    big.body = long(10_000);
    assert_eq!(keep(&big), None);
    assert!(
        fixture.cache.find(request.key(), Instant::now()).is_none(),
        "the old answer is gone too"
    );
}

/// The caller can do nothing about the gateway's token, and the stored answer is as right as
/// before.
#[tokio::test(start_paused = true)]
async fn a_rejection_of_the_gateways_token_takes_no_stored_answer_away() {
    for body in ["", REFUSED] {
        let mut fixture = Fixture::new(Config::default());
        fixture.fill("a", OLD).await;
        let asked = fixture.ask("a", no_cache());
        fixture.answer(401, body).await;
        assert_eq!(asked.await.unwrap().unwrap().answer.status, 401);
        assert_eq!(fixture.stored("a").await.answer.body, OLD);
        pass(100).await;
        for _ in 0..2 {
            let asked = fixture.ask("a", CacheDirectives::default());
            fixture.answer(401, body).await;
            let served = asked.await.unwrap().unwrap();
            assert_eq!(
                (&*served.answer.body, served.status.detail),
                (OLD.as_bytes(), Some("stale-if-error"))
            );
            pass(120).await;
        }
    }
    let mut fixture = Fixture::new(Config::default());
    let own = Request::plain(Endpoint::HISTORY, ["a"]).unwrap();
    let own = own.with_token(CallerToken::new("t").unwrap());
    fixture.cache.keep(&own, &answer(200, OLD), Instant::now());
    fixture.cache.keep(&own, &answer(401, ""), Instant::now());
    let kept = fixture.cache.find(own.key(), Instant::now());
    assert!(kept.is_none(), "a caller's token is its own affair");
    fixture.nothing_is_asked().await;
}

#[tokio::test(start_paused = true)]
async fn refusals_are_remembered_briefly_and_never_served_stale() {
    for status in [400, 404] {
        let mut fixture = Fixture::new(Config::default());
        let asked = fixture.ask("a", CacheDirectives::default());
        fixture.answer(status, REFUSED).await;
        assert!(asked.await.unwrap().unwrap().status.stored);
        pass(8).await;
        assert_eq!(fixture.stored("a").await.answer.status, status);
        pass(3).await;
        let asked = fixture.ask("a", CacheDirectives::default());
        fixture.answer(200, ROWS).await;
        assert_eq!(asked.await.unwrap().unwrap().status.forward, Some(ForwardReason::Miss));
    }
}

fn aged(body: &'static str, fields: &[(&'static str, &'static str)]) -> UpstreamResponse {
    let json = ("content-type", "application/json");
    let field = |&(name, value)| {
        (
            http::HeaderName::from_static(name),
            http::HeaderValue::from_static(value),
        )
    };
    let headers = [json].iter().chain(fields).map(field).collect();
    UpstreamResponse {
        headers,
        ..answer(200, body)
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_from_another_cache_keeps_its_age() {
    tokio::time::advance(Duration::from_hours(1)).await;
    let mut fixture = Fixture::new(Config::default());
    let request = Request::plain(Endpoint::HISTORY, ["a"]).unwrap();
    let left = fixture
        .cache
        .keep(&request, &aged(OLD, &[("age", "20")]), Instant::now())
        .unwrap();
    assert!(
        left <= Duration::from_secs(10),
        "fresh for as long as it would be there: {left:?}"
    );
    pass(3).await;
    let served = fixture.stored("a").await;
    assert_eq!(served.age, Some(Duration::from_secs(23)));
    assert!((4..=7).contains(&served.status.ttl.unwrap()), "{served:?}");
    assert!(served.answer.headers.get("age").is_none(), "the gateway says it");
    let max_age = |seconds| CacheDirectives {
        max_age: Some(Duration::from_secs(seconds)),
        ..only_if_cached()
    };
    fixture.ask("a", max_age(23)).await.unwrap().unwrap();
    assert!(
        fixture
            .ask("a", max_age(22))
            .await
            .unwrap()
            .unwrap_err()
            .is::<NotCached>()
    );
    pass(8).await;
    assert_eq!(fixture.stored("a").await.outcome, Outcome::Stale);

    // An answer that is stale when it arrives is still better than none.
    let left = fixture
        .cache
        .keep(&request, &aged(NEW, &[("age", "45")]), Instant::now());
    assert_eq!(left, Some(Duration::ZERO));
    assert_eq!(fixture.stored("a").await.outcome, Outcome::Stale);
    let endless = aged(NEW, &[("age", "99999999999999999999")]);
    assert_eq!(
        fixture
            .cache
            .keep(&request, &endless, Instant::now())
            .unwrap_or_default(),
        Duration::ZERO
    );
}

#[tokio::test(start_paused = true)]
async fn header_fields_about_a_moment_are_not_stored() {
    let mut fixture = Fixture::new(Config::default());
    let passing = [
        ("retry-after", "30"),
        ("x-ms-ratelimit-remaining", "3"),
        ("x-ms-request-id", "r"),
    ];
    let asked = fixture.ask("a", CacheDirectives::default());
    let (call, respond) = fixture.next().await;
    fixture.respond(&call, respond, aged(ROWS, &passing));
    assert_eq!(
        asked.await.unwrap().unwrap().answer.headers.iter().len(),
        4,
        "who asked is told"
    );
    let names: Vec<_> = fixture
        .stored("a")
        .await
        .answer
        .headers
        .iter()
        .map(|(name, _)| name.to_string())
        .collect();
    assert_eq!(names, ["content-type", "x-ms-request-id"]);
}

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
        entry.answer.body.clone()
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
        assert_eq!(entry.answer.body, read.body);
        drop(read);
        assert_eq!(budget.left(), 1 << 20, "its reader is gone");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_another_replica_is_fresh_as_long_as_told_and_replaces_no_later_one() {
    let fixture = Fixture::new(Config::default());
    let request = Request::plain(Endpoint::HISTORY, ["a"]).unwrap();
    let (cache, before, second) = (&fixture.cache, Instant::now(), Duration::from_secs(1));
    pass(10).await;
    let now = Instant::now();
    cache.insert_remote(&request, &answer(200, NEW), (now, now), 5 * second);
    cache.insert_remote(&request, &answer(200, OLD), (before, now), 20 * second);
    let entry = cache.find(request.key(), now).unwrap();
    assert_eq!(entry.answer.body, NEW);
    assert_eq!(entry.fresh_until(), now + 5 * second);
}

#[test]
fn of_two_answers_that_come_at_once_the_later_one_stays() {
    let fixture = Fixture::new(Config::default());
    let first = Instant::now();
    let request = Request::plain(Endpoint::HISTORY, ["a"]).unwrap();
    let cache = &fixture.cache;
    for round in 0..2000 {
        let both = Barrier::new(2);
        let keep = |body, after: u64| {
            let asked = first + Duration::from_millis(2 * round + after);
            both.wait();
            cache.keep(&request, &answer(200, body), asked);
        };
        std::thread::scope(|scope| {
            scope.spawn(|| keep(OLD, 0));
            keep(NEW, 1);
        });
        let entry = cache.find(request.key(), Instant::now()).unwrap();
        assert_eq!(entry.answer.body, NEW, "round {round}");
    }
}
