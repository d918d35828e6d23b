//! Requests for one entity while a list that may contain it is under way.

use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tower::Service as _;

use super::fixture::{Fixture, answer, call, no_cache};
use crate::BoxError;
use crate::cache::Config;
use crate::caller::{CacheDirectives, Caller, Urgency};
use crate::scan::{Call, ForwardReason, Request, ServedResponse, route};

const LIST: &str = "/api/DeviceAuthenticatedScanAgents";
const ENTITY: &str = "/api/DeviceAuthenticatedScanAgents/a1";
const AGENTS: &str = r#"{"@odata.context":"https://x/$metadata#Agents","value":[{"id":"a1","n":1.50},{"id":"b2"}]}"#;
const AGENT: &str = r#"{"@odata.context":"https://x/$metadata#Agents/$entity","id":"a1","n":1.50}"#;

/// Another scanner, asked for alone.
const OTHER: &str = "/api/DeviceAuthenticatedScanAgents/z9";

type Asked = JoinHandle<Result<ServedResponse, BoxError>>;

impl Fixture {
    fn get(&mut self, path: &str, urgency: u8, cache_directives: CacheDirectives) -> Asked {
        let (path, query) = path
            .split_once('?')
            .map_or((path, None), |(path, query)| (path, Some(query)));
        let request = Request::get(&route(path).unwrap(), query).unwrap();
        let caller = Caller {
            urgency: Urgency::new(urgency).unwrap(),
            ..Caller::clone(&call("a", cache_directives).caller)
        };
        let future = self.front.call(Call {
            request: Arc::new(request),
            caller: Arc::new(caller),
        });
        self.tasks.spawn("test", future)
    }

    /// An answer shows the form of entities.
    async fn show(&mut self, path: &str, body: &'static str) {
        let asked = self.get(path, 3, CacheDirectives::default());
        self.answer(200, body).await;
        asked.await.unwrap().unwrap();
    }

    /// A cache that knows that entities come as they are in `OData`.
    async fn with_known_form() -> Self {
        let mut fixture = Self::new(Config::default());
        fixture.show(OTHER, r#"{"@odata.context":"c","id":"z9"}"#).await;
        fixture
    }
}

#[tokio::test(start_paused = true)]
async fn an_entity_is_asked_for_alone_until_an_answer_has_shown_its_form() {
    let mut fixture = Fixture::new(Config::default());
    let list = fixture.get(LIST, 3, CacheDirectives::default());
    let (for_list, respond) = fixture.next().await;
    let entity = fixture.get(ENTITY, 3, CacheDirectives::default());
    let alone = fixture.answer(503, "busy").await;
    assert_eq!(alone.request.upstream_path(), ENTITY, "it does not wait for the list");
    entity.await.unwrap().unwrap();
    fixture.respond(&for_list, respond, answer(200, AGENTS));
    list.await.unwrap().unwrap();
    // What a query has shaped, and what names no entity, shows nothing.
    let query = format!("{ENTITY}?$select=n");
    fixture.show(&query, r#"{"@odata.context":"c","n":1.50}"#).await;
    let query = format!("{ENTITY}?$select=id");
    fixture.show(&query, r#"{"@odata.context":"c","id":"a1"}"#).await;
    fixture.show(OTHER, r#"{"@odata.context":"c","value":[]}"#).await;
    let entity = fixture.get(ENTITY, 3, CacheDirectives::default());
    let alone = fixture.answer(503, "busy").await;
    assert_eq!(alone.request.upstream_path(), ENTITY);
    entity.await.unwrap().unwrap();
    let other = OTHER.replace("z9", "z8");
    fixture
        .show(&other, r#"{"@odata.context":"c","value":[{"id":"z8"}]}"#)
        .await;
    let entity = fixture.get(ENTITY, 3, CacheDirectives::default()).await;
    let wrapped = r#"{"@odata.context":"https://x/$metadata#Agents/$entity","value":[{"id":"a1","n":1.50}]}"#;
    assert_eq!(entity.unwrap().unwrap().answer.body, wrapped);
    fixture.nothing_is_asked().await;
}

#[tokio::test(start_paused = true)]
async fn an_entity_is_answered_from_a_list_that_is_under_way() {
    let mut fixture = Fixture::with_known_form().await;
    let list = fixture.get(LIST, 3, CacheDirectives::default());
    let (for_list, respond) = fixture.next().await;
    let entity = fixture.get(ENTITY, 3, CacheDirectives::default());
    // The flights below make one call of both.
    let (for_entity, respond_too) = fixture.next().await;
    assert_eq!(for_entity.request, for_list.request);
    fixture.respond(&for_list, respond, answer(200, AGENTS));
    fixture.respond(&for_entity, respond_too, answer(200, AGENTS));
    assert_eq!(list.await.unwrap().unwrap().answer.body, AGENTS);
    let entity = entity.await.unwrap().unwrap();
    assert_eq!(entity.answer.body, AGENT);
    assert_eq!(entity.status.forward, Some(ForwardReason::Miss));
    fixture.nothing_is_asked().await;
}

#[tokio::test(start_paused = true)]
async fn an_entity_that_is_not_in_the_list_is_asked_for_alone() {
    for (status, body) in [
        (200, r#"{"@odata.context":"c","value":[{"id":"b2"}]}"#),
        (404, r#"{"error":{"code":"c","message":"m"}}"#),
    ] {
        let mut fixture = Fixture::with_known_form().await;
        let list = fixture.get(LIST, 3, CacheDirectives::default());
        let (for_list, respond) = fixture.next().await;
        let entity = fixture.get(ENTITY, 3, CacheDirectives::default());
        let (for_entity, respond_too) = fixture.next().await;
        fixture.respond(&for_list, respond, answer(status, body));
        fixture.respond(&for_entity, respond_too, answer(status, body));
        list.await.unwrap().unwrap();
        let alone = fixture.answer(200, AGENT).await;
        assert_eq!(alone.request.upstream_path(), ENTITY);
        assert_eq!(entity.await.unwrap().unwrap().answer.body, AGENT);
    }
}

#[tokio::test(start_paused = true)]
async fn an_entity_waits_for_no_list_that_is_worse_than_an_answer_of_its_own() {
    let query = format!("{ENTITY}?$select=id");
    for (path, urgency, directives) in [
        (ENTITY, 2, CacheDirectives::default()),
        (ENTITY, 3, no_cache()),
        (&*query, 3, CacheDirectives::default()),
        (
            "/api/v1.0/DeviceAuthenticatedScanAgents/a1",
            3,
            CacheDirectives::default(),
        ),
        (
            "/api/DeviceAuthenticatedScanDefinitions/a1",
            3,
            CacheDirectives::default(),
        ),
    ] {
        let mut fixture = Fixture::with_known_form().await;
        let _list = fixture.get(LIST, 3, CacheDirectives::default());
        let (for_list, _respond) = fixture.next().await;
        let _entity = fixture.get(path, urgency, directives);
        let (for_entity, _) = fixture.next().await;
        assert_ne!(for_entity.request, for_list.request, "{path}");
    }
    // Nor for one whose caller has gone.
    let mut fixture = Fixture::with_known_form().await;
    let list = fixture.get(LIST, 3, CacheDirectives::default());
    let (for_list, _respond) = fixture.next().await;
    list.abort();
    assert!(list.await.unwrap_err().is_cancelled());
    let _entity = fixture.get(ENTITY, 3, CacheDirectives::default());
    assert_ne!(fixture.next().await.0.request, for_list.request);
}

#[tokio::test(start_paused = true)]
async fn a_list_is_read_once_for_all_who_want_one_of_its_entities() {
    let mut fixture = Fixture::with_known_form().await;
    let list = fixture.get(LIST, 3, CacheDirectives::default());
    let (for_list, respond) = fixture.next().await;
    let entity = fixture.get(ENTITY, 3, CacheDirectives::default());
    let (for_entity, respond_too) = fixture.next().await;
    fixture.respond(&for_list, respond, answer(200, AGENTS));
    fixture.respond(&for_entity, respond_too, answer(200, AGENTS));
    list.await.unwrap().unwrap();
    assert_eq!(entity.await.unwrap().unwrap().answer.body, AGENT);
    let entry = fixture.cache.find(for_list.request.key(), Instant::now()).unwrap();
    // Whoever asked has left what was found to the others.
    assert!(entry.entities.get().is_some());
    let entity = fixture.get(ENTITY, 3, CacheDirectives::default()).await;
    assert_eq!(entity.unwrap().unwrap().answer.body, AGENT);
    fixture.nothing_is_asked().await;
}
