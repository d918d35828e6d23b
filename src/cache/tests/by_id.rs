use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tower::Service as _;

use super::fixture::{Fixture, answer, call, no_cache, only_if_cached, pass};
use crate::BoxError;
use crate::cache::{Config, NotCached};
use crate::caller::CacheDirectives;
use crate::scan::{
    CacheSink as _, Call, Endpoint, ForwardReason, Outcome, Request, Rows, ServedResponse, UpstreamProfile,
    UpstreamResponse,
};

/// A cache that stores rows by id, over an upstream that lists rows newest first.
pub(super) struct ById {
    pub(super) fixture: Fixture,
    pub(super) upstream_profile: Arc<UpstreamProfile>,
}

impl ById {
    fn new() -> Self {
        Self::with(Config::default())
    }

    fn with(config: Config) -> Self {
        let upstream_profile = Arc::new(UpstreamProfile::new(1000));
        Self {
            fixture: Fixture::with(config, Some(Arc::clone(&upstream_profile))),
            upstream_profile,
        }
    }

    /// Lets the profile see enough answers to know the order of rows.
    pub(super) fn with_known_order() -> Self {
        Self::with_known_order_and(Config::default())
    }

    pub(super) fn with_known_order_and(config: Config) -> Self {
        let cache = Self::with(config);
        let request = request(&["a", "b", "c", "d", "e", "f"]);
        for _ in 0..4 {
            let rows = Rows::split(&request, &upstream(&request).body).unwrap();
            cache.upstream_profile.learn(&request, &rows);
        }
        cache.upstream_profile.ordering(Endpoint::HISTORY).unwrap();
        cache
    }

    pub(super) fn keep(&self, ids: &[&str]) {
        let request = request(ids);
        let answer = upstream(&request);
        // As a flight does.
        let rows = Rows::split(&request, &answer.body).unwrap();
        self.upstream_profile.learn(&request, &rows);
        self.fixture.cache.keep(&request, &answer, Instant::now());
        assert!(self.fixture.cache.find(request.key(), Instant::now()).is_some());
    }

    pub(super) fn ask(
        &mut self,
        ids: &[&str],
        cache_directives: CacheDirectives,
    ) -> JoinHandle<Result<ServedResponse, BoxError>> {
        let call = Call {
            request: Arc::new(request(ids)),
            ..call("x", cache_directives)
        };
        let future = self.fixture.front.call(call);
        self.fixture.tasks.spawn("test", future)
    }

    /// What the cache answers from its fragments.
    pub(super) async fn hit(&mut self, ids: &[&str]) -> ServedResponse {
        let served = self.ask(ids, only_if_cached()).await.unwrap().unwrap();
        assert_eq!(served.answer.body, upstream(&request(ids)).body);
        assert_eq!((served.outcome, served.status.forward), (Outcome::Hit, None));
        served
    }

    /// Expects a call for these ids, and answers it.
    pub(super) async fn asked(&mut self, ids: &[&str], answer: UpstreamResponse) {
        let (call, respond) = self.fixture.next().await;
        assert_eq!(call.request.ids().collect::<Vec<_>>(), ids);
        self.fixture.respond(&call, respond, answer);
    }
}

fn refusal(status: u16) -> UpstreamResponse {
    answer(status, r#"{"error":{"code":"c"}}"#)
}

pub(super) fn request(ids: &[&str]) -> Request {
    Request::plain(Endpoint::HISTORY, ids.iter().copied()).unwrap()
}

/// Three rows for each id, none for ids that begin with `z`; all at different times.
pub(super) fn upstream(request: &Request) -> UpstreamResponse {
    let mut rows = Vec::new();
    for id in request.ids().filter(|id| !id.starts_with('z')) {
        let number = u32::from(id.as_bytes()[0] - b'a');
        for n in 0..3 {
            rows.push((59 - (n * 17 + number * 7) % 59, id));
        }
    }
    rows.sort_unstable_by(|one, other| other.cmp(one));
    let rows: Vec<_> = rows
        .into_iter()
        .map(|(minute, id)| {
            format!(
                r#"{{"ScanDefinitionIds":"{id}","n":1e400, "LastScanned":"2026-03-01T00:{minute:02}:00.0000000Z"}}"#
            )
        })
        .collect();
    answer(
        200,
        format!(r#"{{"@odata.context":"c","value":[{}]}}"#, rows.join(",")).leak(),
    )
}

#[tokio::test(start_paused = true)]
async fn any_part_of_one_answer_is_an_answer() {
    let mut cache = ById::new();
    cache.keep(&["a", "b", "c", "z"]);
    pass(10).await;
    for ids in [&["a"][..], &["c"], &["z"], &["a", "c"], &["b", "z"], &["a", "b", "c"]] {
        let served = cache.hit(ids).await;
        assert_eq!(served.age, Some(Duration::from_secs(10)));
        assert!((16..=20).contains(&served.status.ttl.unwrap()));
        assert_eq!(served.status.detail, Some("assembled"));
        let again = cache.hit(ids).await;
        assert_eq!((again.age, again.status.ttl), (served.age, served.status.ttl));
        assert_eq!(again.status.detail, None, "it has become an answer of its own");
    }
    pass(21).await;
    assert!(
        cache.ask(&["a"], only_if_cached()).await.unwrap().is_ok(),
        "stale while revalidating"
    );
    assert!(
        cache
            .ask(&["b", "c"], only_if_cached())
            .await
            .unwrap()
            .unwrap_err()
            .is::<NotCached>()
    );
}

#[tokio::test(start_paused = true)]
async fn fragments_of_several_answers_are_joined_once_the_order_is_known() {
    let mut cache = ById::new();
    cache.keep(&["a", "b"]);
    cache.keep(&["c", "d"]);
    let _asked = cache.ask(&["a", "c"], CacheDirectives::default());
    let whole = upstream(&request(&["a", "c"]));
    cache.asked(&["a", "c"], whole).await;

    let mut cache = ById::with_known_order();
    cache.keep(&["a", "b"]);
    pass(4).await;
    cache.keep(&["c", "d"]);
    pass(1).await;
    let served = cache.hit(&["a", "b", "c", "d"]).await;
    assert_eq!(served.age, Some(Duration::from_secs(5)), "as old as the oldest part");
    assert!(served.status.ttl.unwrap() <= 25, "and fresh as long as all parts are");
}

#[tokio::test(start_paused = true)]
async fn only_missing_ids_are_fetched() {
    let mut cache = ById::with_known_order();
    cache.keep(&["a", "c", "z"]);
    pass(7).await;
    let asked = cache.ask(&["a", "b", "c", "d", "z"], CacheDirectives::default());
    cache.asked(&["b", "d"], upstream(&request(&["b", "d"]))).await;
    let served = asked.await.unwrap().unwrap();
    assert_eq!(served.answer.body, upstream(&request(&["a", "b", "c", "d", "z"])).body);
    assert_eq!(
        (served.outcome, served.status.forward),
        (Outcome::Forwarded, Some(ForwardReason::Partial))
    );
    assert_eq!(served.age, Some(Duration::from_secs(7)));
    assert!(served.status.stored && served.status.ttl.unwrap() <= 23);
    cache.hit(&["b", "z"]).await;
}

#[tokio::test(start_paused = true)]
async fn the_callers_directives_hold_for_every_fragment() {
    let mut cache = ById::with_known_order();
    cache.keep(&["a"]);
    pass(10).await;
    cache.keep(&["b"]);
    let max_age = CacheDirectives {
        max_age: Some(Duration::from_secs(5)),
        ..CacheDirectives::default()
    };
    let min_fresh = CacheDirectives {
        min_fresh: Some(Duration::from_secs(25)),
        ..CacheDirectives::default()
    };
    // The rows of `b` are good now, but may not be any more when those of `a` come.
    for cache_directives in [max_age, min_fresh, no_cache()] {
        let _asked = cache.ask(&["a", "b"], cache_directives);
        let (call, _) = cache.fixture.next().await;
        assert_eq!(call.request.ids().collect::<Vec<_>>(), ["a", "b"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_rest_that_does_not_fit_is_not_used() {
    let rest = request(&["b"]);
    let mut envelope = upstream(&rest);
    envelope.body = String::from_utf8(envelope.body.to_vec())
        .unwrap()
        .replace("\"c\"", "\"d\"")
        .into();
    let tie = answer(
        200,
        r#"{"@odata.context":"c","value":[{"ScanDefinitionIds":"b","LastScanned":"2026-03-01T00:59:00.0000000Z"}]}"#,
    );
    let undated = answer(200, r#"{"@odata.context":"c","value":[{"ScanDefinitionIds":"b"}]}"#);
    let linked = answer(200, r#"{"@odata.context":"c","value":[],"@odata.nextLink":"x"}"#);
    for rest in [envelope, tie, undated, linked, refusal(404), refusal(400)] {
        let mut cache = ById::with_known_order();
        cache.keep(&["a"]);
        let asked = cache.ask(&["a", "b"], CacheDirectives::default());
        cache.asked(&["b"], rest).await;
        let whole = upstream(&request(&["a", "b"]));
        cache.asked(&["a", "b"], whole.clone()).await;
        let served = asked.await.unwrap().unwrap();
        assert_eq!(served.answer.body, whole.body);
        assert_eq!(served.status.forward, Some(ForwardReason::Miss));
    }
    let mut cache = ById::with_known_order();
    cache.keep(&["a"]);
    let asked = cache.ask(&["a", "b"], CacheDirectives::default());
    cache.asked(&["b"], answer(503, "busy")).await;
    assert_eq!(
        asked.await.unwrap().unwrap().answer.status,
        503,
        "one failure is enough"
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_may_be_cut_off_is_not_cut_up() {
    let upstream_profile = Arc::new(UpstreamProfile::new(0));
    let fixture = Fixture::with(Config::default(), Some(Arc::clone(&upstream_profile)));
    let mut cache = ById {
        fixture,
        upstream_profile,
    };
    cache.keep(&["a", "b"]);
    assert!(cache.ask(&["a"], only_if_cached()).await.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_request_with_options_is_never_put_together() {
    let mut cache = ById::with_known_order();
    cache.keep(&["a", "b"]);
    let request = Request::parse(Endpoint::HISTORY, Some("$top=1"), br#"{"ScanDefinitionIds":["a"]}"#).unwrap();
    let other = Request::plain(Endpoint::HISTORY_V1, ["a"]).unwrap();
    for request in [request, other] {
        let call = Call {
            request: Arc::new(request),
            ..call("x", only_if_cached())
        };
        assert!(cache.fixture.front.call(call).await.unwrap_err().is::<NotCached>());
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_removed_leaves_no_fragments() {
    let mut cache = ById::with_known_order();
    cache.keep(&["a", "b"]);
    let both = request(&["a", "b"]);
    cache.fixture.cache.keep(&both, &refusal(403), Instant::now());
    assert!(cache.ask(&["a"], only_if_cached()).await.unwrap().is_err());
}

const GUID: &str = "60c4aa2d-7f35-4b8f-9e0a-000000000a01";

/// The rows of one definition, for whatever spelling of its id, as an upstream in .NET answers.
fn guid_rows(others: &str) -> UpstreamResponse {
    let row = format!(r#"{{"ScanDefinitionIds":"{GUID}","LastScanned":"2026-03-01T00:59:00.0000000Z"}}"#);
    UpstreamResponse {
        body: format!(r#"{{"@odata.context":"c","value":[{row}{others}]}}"#).into(),
        ..answer(200, "")
    }
}

#[tokio::test(start_paused = true)]
async fn two_spellings_of_one_id_store_no_fragments_and_use_none() {
    for other in [
        GUID.replace('-', ""),
        format!("{{{GUID}}}"),
        format!("({})", GUID.to_uppercase()),
        format!("urn:uuid:{GUID}"),
        "{0x60c4aa2d,0x7f35,0x4b8f,{0x9e,0x0a,0x00,0x00,0x00,0x00,0x0a,0x01}}".into(),
    ] {
        let mut cache = ById::with_known_order();
        let both = request(&[GUID, &other]);
        assert_eq!(both.ids().len(), 2);
        cache.fixture.cache.keep(&both, &guid_rows(""), Instant::now());
        // Only the request itself is stored: it is not known which of the ids the rows belong to.
        for ids in [&[GUID][..], &[&other], &["a", GUID], &["a", &other]] {
            let refused = cache.ask(ids, only_if_cached()).await.unwrap();
            assert!(refused.is_err(), "{ids:?}");
        }
        cache.ask(&[GUID, &other], only_if_cached()).await.unwrap().unwrap();

        // Each of them alone has rows; together they are fetched.
        let mut cache = ById::with_known_order();
        for id in [GUID, &other] {
            cache
                .fixture
                .cache
                .keep(&request(&[id]), &guid_rows(""), Instant::now());
            let served = cache.ask(&[id], only_if_cached()).await.unwrap().unwrap();
            assert_eq!(served.answer.body, guid_rows("").body);
        }
        assert!(cache.ask(&[GUID, &other], only_if_cached()).await.unwrap().is_err());

        // A row under another spelling does not count as no row.
        let mut cache = ById::with_known_order();
        let rest = r#",{"ScanDefinitionIds":"a","LastScanned":"2026-03-01T00:01:00.0000000Z"}"#;
        cache
            .fixture
            .cache
            .keep(&request(&["a", &other]), &guid_rows(rest), Instant::now());
        let served = cache.ask(&[&other], only_if_cached()).await.unwrap();
        // It is not guessed what GUID a spelling in numbers is.
        let expected = (!other.contains("0x")).then(|| guid_rows("").body);
        assert_eq!(served.ok().map(|served| served.answer.body), expected, "{other}");
    }
}

#[tokio::test(start_paused = true)]
async fn fragments_are_joined_in_the_layout_of_the_answers() {
    let style = |answer: &UpstreamResponse, ids: usize| {
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        let text = text
            .replace("},{", "},\r\n    {")
            .replace("[{", "[\r\n    {")
            .replace("}]", "}\r\n  ]");
        assert!(ids == 0 || text.contains("\r\n"));
        UpstreamResponse {
            body: text.into(),
            ..answer.clone()
        }
    };
    for kept in [&[&["a", "b"][..], &["c"], &["z1"]][..], &[&["a"], &["b", "z1"], &["c"]]] {
        let mut cache = ById::with_known_order();
        for ids in kept {
            let request = request(ids);
            let rows = ids.iter().filter(|id| !id.starts_with('z')).count();
            cache
                .fixture
                .cache
                .keep(&request, &style(&upstream(&request), rows), Instant::now());
        }
        for ids in [&["a", "c"][..], &["b"], &["z1"], &["a", "b", "c", "z1"]] {
            let served = cache.ask(ids, only_if_cached()).await.unwrap().unwrap();
            let whole = upstream(&request(ids));
            let rows = ids.iter().filter(|id| !id.starts_with('z')).count();
            assert_eq!(served.answer.body, style(&whole, rows).body, "{kept:?} {ids:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_other_calls_have_refreshed_is_not_refreshed_again() {
    let mut cache = ById::with_known_order();
    cache.keep(&["a"]);
    cache.keep(&["b"]);
    pass(40).await;
    cache.fixture.surplus.store(false, Ordering::Relaxed);
    for id in ["a", "b"] {
        let served = cache.ask(&[id], CacheDirectives::default()).await.unwrap().unwrap();
        assert_eq!(served.outcome, Outcome::Stale);
    }
    cache.fixture.nothing_is_asked().await;
    // Both wait for spare quota, `a` for longer. Then its rows come with a call for other ids.
    cache.keep(&["a", "c"]);
    cache.fixture.surplus.store(true, Ordering::Relaxed);
    let served = cache.ask(&["b"], CacheDirectives::default()).await.unwrap().unwrap();
    assert_eq!(served.outcome, Outcome::Stale);
    cache.asked(&["b"], upstream(&request(&["b"]))).await;
    cache.fixture.nothing_is_asked().await;
    cache.hit(&["a"]).await;
}
