//! Answers as a whole: stored, found again, replaced.

use std::time::Duration;

use http::header;
use tokio::time::Instant;

use super::fixture::{Fixture, answer, long, no_cache, only_if_cached, pass};
use crate::cache::{Config, NotCached};
use crate::caller::CacheDirectives;
use crate::scan::{CacheSink as _, Endpoint, ForwardReason, Outcome, Request, UpstreamResponse};

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
    assert_eq!(entry.answer().body, NEW);
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
