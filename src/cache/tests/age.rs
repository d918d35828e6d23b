//! Answers that were old when they came, and header fields that do not last.

use std::time::Duration;

use tokio::time::Instant;

use super::fixture::{Fixture, answer, only_if_cached, pass};
use crate::cache::{Config, NotCached};
use crate::caller::CacheDirectives;
use crate::scan::{CacheSink as _, Endpoint, Outcome, Request, UpstreamResponse};

const ROWS: &str = r#"{"value":["rows"]}"#;
const OLD: &str = r#"{"value":["old"]}"#;
const NEW: &str = r#"{"value":["new"]}"#;

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
