//! Stale answers: refreshed from spare quota, and in the place of errors.

use std::sync::atomic::Ordering;
use std::time::Duration;

use http::header;
use tokio::time::Instant;

use super::fixture::{Fixture, answer, call, no_cache, pass};
use crate::BoxError;
use crate::attempt::{Delivery, Failure, RetryHint};
use crate::cache::Config;
use crate::caller::{CacheDirectives, Urgency};
use crate::scan::{ForwardReason, Outcome};

const ROWS: &str = r#"{"value":["rows"]}"#;
const OLD: &str = r#"{"value":["old"]}"#;
const REFUSED: &str = r#"{"error":{"code":"c","message":"m"}}"#;
const NEW: &str = r#"{"value":["new"]}"#;

/// Responses that are no answers.
const RUBBISH: [(u16, &str); 17] = [
    (200, ""),
    (200, "<html>maintenance</html>"),
    (200, r#"{"value":[{"a":1},"#),
    (200, "[]"),
    (200, "{\"value\":[]}x"),
    (200, "{\"value\":[\"\u{1}\"]}"),
    (200, REFUSED),
    (200, r#"{"value":null}"#),
    (203, NEW),
    (204, ""),
    (400, "<html>bad request</html>"),
    (403, "<html>web app is stopped</html>"),
    (404, "<html>no such site</html>"),
    (404, ""),
    (408, REFUSED),
    (421, REFUSED),
    (520, "<html>origin error</html>"),
];

#[tokio::test(start_paused = true)]
async fn a_response_that_is_no_answer_reaches_only_its_caller() {
    let mut fixture = Fixture::new(Config::default());
    fixture.fill("a", OLD).await;
    for (status, page) in RUBBISH {
        let asked = fixture.ask("a", no_cache());
        fixture.answer(status, page).await;
        let served = asked.await.unwrap().unwrap();
        assert_eq!((&*served.answer.body, served.status.stored), (page.as_bytes(), false));
        assert_eq!(fixture.stored("a").await.answer.body, OLD, "{status} {page}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stale_answer_stands_in_for_rubbish_of_every_kind_and_stays() {
    let page = |status, body| {
        let mut page = answer(status, body);
        page.headers = [(header::CONTENT_TYPE, http::HeaderValue::from_static("text/html"))]
            .into_iter()
            .collect();
        page
    };
    let kinds = RUBBISH.map(|(status, body)| answer(status, body)).into_iter();
    for rubbish in kinds.chain([page(200, NEW), page(404, REFUSED), page(401, "")]) {
        let mut fixture = Fixture::new(Config::default());
        fixture.fill("a", OLD).await;
        pass(100).await;
        let asked = fixture.ask("a", CacheDirectives::default());
        let (call, respond) = fixture.next().await;
        fixture.respond(&call, respond, rubbish.clone());
        let served = asked.await.unwrap().unwrap();
        assert_eq!(
            (&*served.answer.body, served.status.detail),
            (OLD.as_bytes(), Some("stale-if-error")),
            "{rubbish:?}"
        );
        // It is not fetched again at once, and the stored answer stays.
        for _ in 0..3 {
            fixture.surplus.store(false, Ordering::Relaxed);
            let served = fixture.ask("a", CacheDirectives::default()).await.unwrap().unwrap();
            assert_eq!(
                (&*served.answer.body, served.status.detail),
                (OLD.as_bytes(), Some("stale-if-error"))
            );
        }
        fixture.nothing_is_asked().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stale_answer_is_served_at_once_and_refreshed_once_from_spare_quota() {
    let mut fixture = Fixture::new(Config::default());
    fixture.fill("a", OLD).await;
    pass(40).await;
    for _ in 0..3 {
        let served = fixture.ask("a", CacheDirectives::default()).await.unwrap().unwrap();
        assert_eq!((served.outcome, served.status.detail), (Outcome::Stale, Some("swr")));
        assert!(served.status.ttl.unwrap() < 0);
        assert_eq!(served.status.forward, None);
    }
    let refresh_state = fixture.answer(200, NEW).await;
    assert_eq!(refresh_state.caller.urgency, Urgency::LAST);
    fixture.nothing_is_asked().await;
    assert_eq!(fixture.stored("a").await.answer.body, NEW);
    assert_eq!(fixture.cache.snapshot().stale, 3);
}

#[tokio::test(start_paused = true)]
async fn without_spare_quota_a_stale_answer_is_served_and_not_refreshed() {
    let mut fixture = Fixture::new(Config::default());
    fixture.fill("a", OLD).await;
    fixture.surplus.store(false, Ordering::Relaxed);
    pass(40).await;
    assert_eq!(fixture.stored("a").await.outcome, Outcome::Stale);
    fixture.nothing_is_asked().await;
    pass(60).await;
    let _asked = fixture.ask("a", CacheDirectives::default());
    fixture.answer(200, NEW).await;
}

#[tokio::test(start_paused = true)]
async fn spare_quota_goes_to_the_answer_that_has_been_stale_for_longest() {
    let mut fixture = Fixture::new(Config::default());
    for id in ["old", "older", "new"] {
        fixture.fill(id, ROWS).await;
    }
    // The last refresh of `older` was a while ago.
    pass(31).await;
    for id in ["new", "old"] {
        let asked = fixture.ask(id, CacheDirectives::default());
        fixture.answer(200, ROWS).await;
        assert_eq!(asked.await.unwrap().unwrap().outcome, Outcome::Stale);
    }
    pass(31).await;
    fixture.surplus.store(false, Ordering::Relaxed);
    for id in ["old", "older", "new"] {
        let served = fixture.ask(id, CacheDirectives::default()).await.unwrap().unwrap();
        assert_eq!(served.outcome, Outcome::Stale);
    }
    fixture.nothing_is_asked().await;
    fixture.surplus.store(true, Ordering::Relaxed);
    fixture.ask("new", CacheDirectives::default()).await.unwrap().unwrap();
    let renewed = fixture.answer(200, ROWS).await;
    assert_eq!(renewed.request.ids().collect::<Vec<_>>(), ["older"]);
    // One call for one request; a refreshed answer needs no more.
    fixture.nothing_is_asked().await;
    fixture.ask("older", CacheDirectives::default()).await.unwrap().unwrap();
    fixture.nothing_is_asked().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_fresh_again_is_not_refreshed() {
    let mut fixture = Fixture::new(Config::default());
    fixture.fill("older", OLD).await;
    pass(10).await;
    fixture.fill("old", OLD).await;
    pass(40).await;
    fixture.surplus.store(false, Ordering::Relaxed);
    assert_eq!(fixture.stored("older").await.outcome, Outcome::Stale);
    let asked = fixture.ask("older", no_cache());
    fixture.answer(200, NEW).await;
    asked.await.unwrap().unwrap();
    fixture.surplus.store(true, Ordering::Relaxed);
    assert_eq!(fixture.stored("old").await.outcome, Outcome::Stale);
    let renewed = fixture.answer(200, NEW).await;
    assert_eq!(renewed.request.ids().collect::<Vec<_>>(), ["old"]);
    fixture.nothing_is_asked().await;
}

#[tokio::test(start_paused = true)]
async fn a_stale_answer_stands_in_for_errors_of_every_kind() {
    for failure in [Some(429), Some(500), Some(502), Some(503), Some(504), None] {
        let mut fixture = Fixture::new(Config::default());
        fixture.fill("a", OLD).await;
        pass(100).await;
        let asked = fixture.ask("a", CacheDirectives::default());
        let (call, respond) = fixture.next().await;
        match failure {
            Some(status) => fixture.respond(&call, respond, answer(status, "broken")),
            None => respond.send_error(failed(Delivery::Unknown)),
        }
        let served = asked.await.unwrap().unwrap();
        assert_eq!(served.answer.body, OLD);
        assert_eq!(
            (served.outcome, served.status.detail),
            (Outcome::Stale, Some("stale-if-error"))
        );
        assert!((-73..=-70).contains(&served.status.ttl.unwrap()));
        assert_eq!(served.age, Some(Duration::from_secs(100)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_a_stale_answer_may_stand_in_for_is_counted_once() {
    let mut fixture = Fixture::new(Config::default());
    fixture.fill("a", OLD).await;
    let counted = |fixture: &Fixture| {
        let snapshot = fixture.cache.snapshot();
        (snapshot.hits, snapshot.stale, snapshot.misses)
    };
    assert_eq!(counted(&fixture), (0, 0, 1));
    pass(100).await;
    let asked = fixture.ask("a", CacheDirectives::default());
    let (_, _respond) = fixture.next().await;
    asked.abort();
    assert!(asked.await.unwrap_err().is_cancelled());
    assert_eq!(counted(&fixture), (0, 0, 2), "its caller has left");
    let asked = fixture.ask("a", CacheDirectives::default());
    let (_, respond) = fixture.next().await;
    respond.send_error(failed(Delivery::NoSlot));
    asked.await.unwrap().unwrap();
    assert_eq!(counted(&fixture), (0, 1, 2));
    let asked = fixture.ask("a", CacheDirectives::default());
    fixture.answer(200, NEW).await;
    asked.await.unwrap().unwrap();
    assert_eq!(counted(&fixture), (0, 1, 3));
}

#[tokio::test(start_paused = true)]
async fn errors_that_concern_the_caller_are_not_hidden_by_stale_answers() {
    let mut fixture = Fixture::new(Config::default());
    fixture.fill("a", OLD).await;
    pass(100).await;
    let asked = fixture.ask("a", CacheDirectives::default());
    fixture.answer(403, REFUSED).await;
    assert_eq!(asked.await.unwrap().unwrap().answer.status, 403);
    let asked = fixture.ask("a", CacheDirectives::default());
    fixture.answer(200, NEW).await;
    assert_eq!(asked.await.unwrap().unwrap().status.forward, Some(ForwardReason::Miss));

    pass(100).await;
    let asked = fixture.ask("a", no_cache());
    let (_, respond) = fixture.next().await;
    respond.send_error(failed(Delivery::Unknown));
    assert_eq!(
        asked.await.unwrap().unwrap_err().to_string(),
        "the upstream call brought no answer"
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_past_every_limit_does_not_stand_in() {
    let mut fixture = Fixture::new(Config::default());
    fixture.fill("a", OLD).await;
    pass(640).await;
    let asked = fixture.ask("a", CacheDirectives::default());
    let (_, respond) = fixture.next().await;
    respond.send_error(failed(Delivery::Unknown));
    assert!(asked.await.unwrap().is_err());

    fixture.fill("b", OLD).await;
    pass(620).await;
    let asked = fixture.ask("b", CacheDirectives::default());
    let (_, respond) = fixture.next().await;
    pass(60).await;
    respond.send_error(failed(Delivery::Unknown));
    assert!(asked.await.unwrap().is_err());
}

/// Issue #4: with the upstream down for five minutes every request is answered, and there is one
/// refresh after it comes back.
#[tokio::test(start_paused = true)]
async fn an_outage_costs_few_calls_and_recovery_one() {
    let mut fixture = Fixture::new(Config::default());
    fixture.fill("a", OLD).await;
    pass(100).await;
    let asked = fixture.ask("a", CacheDirectives::default());
    let (_, respond) = fixture.next().await;
    respond.send_error(failed(Delivery::Unknown));
    asked.await.unwrap().unwrap();
    let mut calls = 0;
    for _ in 0..300 {
        let served = fixture.ask("a", CacheDirectives::default()).await.unwrap().unwrap();
        assert_eq!(served.status.detail, Some("stale-if-error"));
        pass(1).await;
        let next = tokio::time::timeout(Duration::ZERO, fixture.below.next_request()).await;
        if let Ok(Some((_, respond))) = next {
            respond.send_error(failed(Delivery::Unknown));
            calls += 1;
            tokio::task::yield_now().await;
        }
    }
    assert!((3..=8).contains(&calls), "{calls} calls");
    pass(130).await;
    for _ in 0..10 {
        fixture.ask("a", CacheDirectives::default()).await.unwrap().unwrap();
    }
    fixture.answer(200, NEW).await;
    fixture.nothing_is_asked().await;
    assert_eq!(fixture.stored("a").await.answer.body, NEW);
}

/// A caller that cannot wait for its slot, and a refresh that finds none, say nothing about
/// Defender: who waits longer gets a new answer.
#[tokio::test(start_paused = true)]
async fn a_refusal_of_one_request_leaves_the_others_their_call() {
    let mut fixture = Fixture::new(Config::default());
    fixture.fill("a", OLD).await;
    fixture.surplus.store(false, Ordering::Relaxed);
    pass(95).await;
    for refused in [failed(Delivery::NoSlot), "joined a call that did not leave".into()] {
        let asked = fixture.ask("a", CacheDirectives::default());
        let (_, respond) = fixture.next().await;
        respond.send_error(refused);
        assert_eq!(asked.await.unwrap().unwrap().status.detail, Some("stale-if-error"));
    }
    let asked = fixture.ask("a", CacheDirectives::default());
    fixture.answer(200, NEW).await;
    assert_eq!(asked.await.unwrap().unwrap().answer.body, NEW);
}

/// While quota is short nothing is refreshed from spare quota. After each pause a request's own
/// call finds out whether Defender is well again, and nobody waits for it.
#[tokio::test(start_paused = true)]
async fn without_spare_quota_one_call_after_each_pause_finds_out_whether_the_outage_is_over() {
    let mut fixture = Fixture::new(Config::default());
    fixture.fill("a", OLD).await;
    fixture.surplus.store(false, Ordering::Relaxed);
    pass(95).await;
    let asked = fixture.ask("a", CacheDirectives::default());
    let (_, respond) = fixture.next().await;
    respond.send_error(failed(Delivery::NotSent));
    asked.await.unwrap().unwrap();
    for pause in [10, 20, 40] {
        let served = fixture.ask("a", CacheDirectives::default()).await.unwrap().unwrap();
        assert_eq!(served.status.detail, Some("stale-if-error"));
        fixture.nothing_is_asked().await;
        pass(pause).await;
        for _ in 0..2 {
            let served = fixture.ask("a", CacheDirectives::default()).await.unwrap().unwrap();
            assert_eq!(served.status.detail, Some("stale-if-error"));
        }
        let (call, respond) = fixture.next().await;
        assert_eq!(
            call.caller.urgency,
            Urgency::default(),
            "no more and no less than its own call"
        );
        fixture.nothing_is_asked().await;
        if pause < 40 {
            respond.send_error(failed(Delivery::Unknown));
        } else {
            fixture.respond(&call, respond, answer(200, NEW));
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(fixture.stored("a").await.answer.body, NEW);
}

#[tokio::test(start_paused = true)]
async fn calls_whose_refusal_nobody_is_told_say_so() {
    let mut fixture = Fixture::new(Config::default());
    fixture.fill("a", OLD).await;
    // Its own call, with the stale answer in reserve; the same where that is too old by then; and a
    // refresh in the background.
    for (age, has_fallback) in [(95, true), (625, false), (35, true)] {
        fixture.fill("b", OLD).await;
        pass(age).await;
        let asked = fixture.ask("b", CacheDirectives::default());
        let (call, respond) = fixture.next().await;
        assert_eq!(call.caller.has_fallback, has_fallback, "{age} s");
        fixture.respond(&call, respond, answer(200, NEW));
        asked.await.unwrap().unwrap();
        pass(2000).await;
    }
}

/// Otherwise each hit would make another attempt, and the queue another refusal that nobody is
/// told.
#[tokio::test(start_paused = true)]
async fn a_refresh_that_finds_no_slot_is_followed_by_a_pause() {
    let mut fixture = Fixture::new(Config::default());
    fixture.fill("a", OLD).await;
    fixture.surplus.store(false, Ordering::Relaxed);
    pass(95).await;
    let asked = fixture.ask("a", CacheDirectives::default());
    let (_, respond) = fixture.next().await;
    respond.send_error(failed(Delivery::Unknown));
    asked.await.unwrap().unwrap();
    for _ in 0..3 {
        pass(10).await;
        fixture.ask("a", CacheDirectives::default()).await.unwrap().unwrap();
        let (_, respond) = fixture.next().await;
        respond.send_error(failed(Delivery::NoSlot));
        tokio::task::yield_now().await;
        fixture.ask("a", CacheDirectives::default()).await.unwrap().unwrap();
        fixture.nothing_is_asked().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_hangs_up_while_refreshing_releases_the_refresh() {
    let mut fixture = Fixture::new(Config::default());
    fixture.fill("a", OLD).await;
    pass(100).await;
    let asked = fixture.ask("a", CacheDirectives::default());
    let (_, _respond) = fixture.next().await;
    asked.abort();
    assert!(asked.await.unwrap_err().is_cancelled());
    let entry = fixture
        .cache
        .find(call("a", no_cache()).request.key(), Instant::now())
        .unwrap();
    assert!(!entry.refresh_state.is_failing());
    assert!(entry.refresh_state.begin(Instant::now()));
}

/// An attempt that brought no answer.
pub(super) fn failed(delivery: Delivery) -> BoxError {
    Failure {
        delivery,
        again: RetryHint::Never,
        answer: None,
        source: "no answer".into(),
    }
    .into()
}
