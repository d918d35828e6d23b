//! Until when stored rows may be joined with others, and who pays for the memory of what is joined.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tower::Service as _;

use super::by_id::{ById, request, upstream};
use super::fixture::{Fixture, answer, call, long, only_if_cached, pass};
use super::stale::failed;
use crate::attempt::Delivery;
use crate::cache::Config;
use crate::cache::partial_hit::PartialHit;
use crate::caller::{CacheDirectives, Caller};
use crate::scan::{CacheSink as _, Call, Endpoint, MergeRecord, SplitError, UpstreamProfile, UpstreamResponse};

#[tokio::test(start_paused = true)]
async fn rows_that_would_be_too_old_at_the_deadline_are_fetched_with_the_missing_ones() {
    let mut cache = ById::with_known_order();
    cache.keep(&["a"]);
    pass(20).await;
    cache.keep(&["b"]);
    // Fresh for 26 to 30 s and stale for 60 s more: `a` is 95 s old at the deadline, `b` 75 s.
    let call = call("x", CacheDirectives::default());
    let caller = Caller {
        deadline: Instant::now() + Duration::from_secs(75),
        ..Caller::clone(&call.caller)
    };
    let asked = cache.fixture.front.call(Call {
        request: Arc::new(request(&["a", "b", "c"])),
        caller: Arc::new(caller),
    });
    let asked = cache.fixture.tasks.spawn("test", asked);
    cache.asked(&["a", "c"], upstream(&request(&["a", "c"]))).await;
    let served = asked.await.unwrap().unwrap();
    assert_eq!(served.answer.body, upstream(&request(&["a", "b", "c"])).body);
}

#[tokio::test(start_paused = true)]
async fn rows_that_became_too_old_during_the_call_are_fetched_again_unless_another_call_has() {
    for refreshed in [false, true] {
        let mut cache = ById::with_known_order();
        cache.keep(&["a"]);
        let asked = cache.ask(&["a", "b"], CacheDirectives::default());
        let (call, respond) = cache.fixture.next().await;
        assert_eq!(call.request.ids().collect::<Vec<_>>(), ["b"]);
        pass(80).await;
        if refreshed {
            cache.keep(&["a", "c"]);
        }
        pass(11).await;
        cache.fixture.respond(&call, respond, upstream(&call.request));
        if !refreshed {
            cache.asked(&["a", "b"], upstream(&request(&["a", "b"]))).await;
        }
        let served = asked.await.unwrap().unwrap();
        assert_eq!(served.answer.body, upstream(&request(&["a", "b"])).body);
        assert_eq!(served.age, refreshed.then(|| Duration::from_secs(11)));
    }
}

#[tokio::test(start_paused = true)]
async fn rows_that_waiting_requests_hold_take_memory_from_new_ones() {
    let mut cache = ById::with_known_order_and(Config {
        max_held: 20_000,
        ..Config::default()
    });
    let is_stored = |cache: &ById| cache.fixture.cache.fragment(Endpoint::HISTORY, "a").is_some();
    let (mut asked, mut calls) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        cache.keep(&["a"]);
        if !is_stored(&cache) {
            break;
        }
        asked.push(cache.ask(&["a", "b"], CacheDirectives::default()));
        calls.push(cache.fixture.next().await);
        pass(1).await;
    }
    assert!((5..50).contains(&asked.len()), "{}", asked.len());
    for asked in asked {
        asked.abort();
        assert!(asked.await.unwrap_err().is_cancelled());
    }
    cache.keep(&["a"]);
    assert!(is_stored(&cache));
}

/// What the call brought is paid for. It is better than a refusal, but for who has limits.
#[tokio::test(start_paused = true)]
async fn rows_that_became_too_old_during_the_call_are_served_when_there_is_no_slot_for_another() {
    let limited = CacheDirectives {
        max_stale: Some(Duration::from_mins(1)),
        ..CacheDirectives::default()
    };
    for directives in [CacheDirectives::default(), limited] {
        let mut cache = ById::with_known_order();
        cache.keep(&["a"]);
        let asked = cache.ask(&["a", "b"], directives);
        let (call, respond) = cache.fixture.next().await;
        pass(91).await;
        cache.fixture.respond(&call, respond, upstream(&call.request));
        let (call, respond) = cache.fixture.next().await;
        assert_eq!(call.request.ids().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(call.caller.has_fallback, directives == CacheDirectives::default());
        pass(1).await;
        respond.send_error(failed(Delivery::NoSlot));
        let served = asked.await.unwrap();
        if directives.max_stale.is_some() {
            served.unwrap_err();
            continue;
        }
        let served = served.unwrap();
        assert_eq!(served.answer.body, upstream(&request(&["a", "b"])).body);
        assert_eq!(served.age, Some(Duration::from_secs(92)));
    }
}

#[tokio::test(start_paused = true)]
async fn where_ids_are_answered_otherwise_together_nothing_is_taken_apart_or_joined() {
    let mut cache = ById::with_known_order();
    cache.keep(&["a", "b"]);
    cache.hit(&["a"]).await;
    let contradicted = MergeRecord {
        revision: 1,
        contradictions: 1,
        contradiction: Some(SplitError::Different),
        ..MergeRecord::default()
    };
    cache
        .upstream_profile
        .adopt_merge_record(Endpoint::HISTORY, contradicted);
    cache.keep(&["c", "d"]);
    for ids in [&["b"][..], &["c"], &["b", "c"]] {
        assert!(cache.ask(ids, only_if_cached()).await.unwrap().is_err(), "{ids:?}");
    }
    cache.ask(&["c", "d"], only_if_cached()).await.unwrap().unwrap();
    let proven_since = MergeRecord {
        revision: 2,
        confirmed_calls: 2,
        answers: 10,
        pairs: 16,
        ..contradicted
    };
    cache
        .upstream_profile
        .adopt_merge_record(Endpoint::HISTORY, proven_since);
    cache.keep(&["e", "f"]);
    cache.hit(&["e"]).await;
    // Other contradictions say why answers cannot be taken apart, not that their parts are wrong.
    let long = MergeRecord {
        revision: 3,
        contradictions: 2,
        contradiction: Some(SplitError::Longest),
        ..MergeRecord::default()
    };
    cache.upstream_profile.adopt_merge_record(Endpoint::HISTORY, long);
    cache.hit(&["f"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_joined_answer_that_a_caller_still_reads_counts_although_it_is_no_longer_stored() {
    let upstream_profile = Arc::new(UpstreamProfile::new(1000));
    let config = Config {
        max_held: 125_000,
        ..Config::default()
    };
    let mut cache = ById {
        fixture: Fixture::with(config, Some(Arc::clone(&upstream_profile))),
        upstream_profile,
    };
    let names: Vec<String> = (10..70).map(|n| format!("a{n}")).collect();
    let ids: Vec<&str> = names.iter().map(String::as_str).collect();
    cache.keep(&ids);
    let some = &ids[..50];
    let served = cache.hit(some).await;
    assert!(served.answer.body.len() > 10_000, "{}", served.answer.body.len());
    let large = UpstreamResponse {
        body: long(89_000),
        ..answer(200, "")
    };
    let stored = &cache.fixture.cache;
    let keep_for =
        |ids: &[&str], answer: &UpstreamResponse| stored.keep(&request(ids), answer, Instant::now()).is_some();
    let keep = |id: &str, answer: &UpstreamResponse| keep_for(&[id], answer);
    // The joined answer leaves the cache, and its rows with it, while its reader still holds it.
    assert!(keep_for(some, &answer(404, r#"{"error":{"code":"c"}}"#)));
    // The cache's map frees replaced values when it has many of them, and no thread of this process
    // can be reading them any more.
    let mut is_kept = (0..100_000).map(|_| {
        std::thread::yield_now();
        keep("small", &answer(200, r#"{"value":[]}"#));
        keep("large", &large)
    });
    assert!(
        !is_kept.by_ref().take(500).any(|kept| kept),
        "there is no memory for it"
    );
    drop(served);
    assert!(is_kept.any(|kept| kept));
}

#[tokio::test(start_paused = true)]
async fn an_answer_takes_the_place_of_no_later_one() {
    let cache = ById::with_known_order();
    let before = Instant::now();
    cache.keep(&["b"]);
    let both = Arc::new(request(&["a", "b"]));
    pass(1).await;
    cache.keep(&["a"]);
    let joined = PartialHit::find(&cache.fixture.cache, &both, &CacheDirectives::default(), before);
    let joined = joined.unwrap().whole().unwrap();
    pass(1).await;
    cache.keep(&["a", "b"]);
    let asked = |cache: &ById| cache.fixture.cache.find(both.key(), Instant::now()).unwrap().asked();
    let latest = asked(&cache);
    cache.fixture.cache.insert_assembled(&both, &joined);
    assert_eq!(asked(&cache), latest, "joined from rows of former answers");
    // Its call left before the others, and its answer came last.
    let refused = answer(404, r#"{"error":{"code":"c"}}"#);
    let alone = Arc::new(request(&["a", "c"]));
    cache.fixture.cache.keep(&alone, &refused, before);
    cache.fixture.cache.keep(&both, &refused, before);
    assert_eq!(asked(&cache), latest);
    let rows = cache.fixture.cache.fragment(Endpoint::HISTORY, "a").unwrap();
    assert_eq!(rows.origin().asked, latest, "the rows stay too");
}
