//! Answers requests for one entity from the list of all of them: a stored one, or one that is under
//! way, for whose answer they wait instead of making calls of their own.

use std::borrow::Cow;
use std::hash::BuildHasher as _;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};

use bytes::Bytes;
use foldhash::quality::RandomState;
use http::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::cache::entry::Entry;
use crate::cache::freshness::{Evaluation, RefreshHealth, evaluate};
use crate::cache::memory_store::{Cache, SMALL};
use crate::caller::{CacheDirectives, Urgency};
use crate::memory::Reservation;
use crate::operation::{Kept, Shape};
use crate::scan::{Call, Endpoint, Request, Target, UpstreamResponse, canonical, range_in};

impl Cache {
    /// The answer to a request for one entity, taken from a fresh list that contains it, and the
    /// list's entry.
    pub(super) fn entity_in_list(
        &self,
        request: &Request,
        directives: &CacheDirectives,
        now: Instant,
    ) -> Option<(UpstreamResponse, Arc<Entry>)> {
        let list = list_with(request)?;
        let entry = self.find(list.key(), now).filter(|entry| !entry.is_negative())?;
        if evaluate(&self.config, directives, entry.age(now), RefreshHealth::Good) != Evaluation::Fresh {
            return None;
        }
        let body = self.entity_of(request, &entry)?;
        let answer = UpstreamResponse {
            body,
            ..entry.answer.clone()
        };
        Some((answer, entry))
    }

    /// The body of the answer to a request for one entity, taken from the answer to a request for
    /// the `list`.
    pub(super) fn entity_in(&self, request: &Request, list: &Request, answer: &UpstreamResponse) -> Option<Bytes> {
        let entry = self.find(list.key(), Instant::now());
        match entry.filter(|entry| entry.answer.body == answer.body) {
            // The others who waited for the list read it there, too.
            Some(entry) => self.entity_of(request, &entry),
            None => self.form(request.endpoint())?.entity_in(request, &answer.body),
        }
    }

    /// The same, taken from the entry of a list.
    fn entity_of(&self, request: &Request, list: &Entry) -> Option<Bytes> {
        let form = self.form(request.endpoint())?;
        let body = &list.answer.body;
        if let Some(known) = list.entities.get() {
            return form.answer(request, body, known);
        }
        let index = EntityIndex::of(body);
        let found = form.answer(request, body, &index);
        // Without memory to keep it, the next one looks again.
        let kept = match size_of_val(&*index.entities) {
            ..SMALL => Some(index),
            bytes => self.reserve(bytes).map(|memory| EntityIndex {
                _memory: Some(memory),
                ..index
            }),
        };
        if let Some(index) = kept {
            // Somebody else may have been faster, and has found the same.
            let _ = list.entities.set(Box::new(index));
        }
        found
    }

    /// Learns from an upstream answer in which form the upstream answers requests for one entity.
    pub(super) fn learn_form(&self, request: &Request, answer: &UpstreamResponse) {
        let declared = request.endpoint().operation.declaration();
        let may_show = answer.status == StatusCode::OK && matches!(declared.kept, Kept::InList(_)) && request.is_bare();
        if let Some(form) = may_show.then(|| EntityForm::of(&answer.body)).flatten() {
            *self.known_form(request.endpoint()) = Some(form);
        }
    }

    /// The form in which the upstream answers requests for one entity; `None` while no answer has
    /// shown it.
    pub(super) fn form(&self, endpoint: Endpoint) -> Option<EntityForm> {
        *self.known_form(endpoint)
    }

    fn known_form(&self, endpoint: Endpoint) -> MutexGuard<'_, Option<EntityForm>> {
        // A change is one assignment.
        self.forms[endpoint.index()]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The request for the list that contains the entity that `request` is for; `None` when there is no
/// such list, or the request has a query or a token of its own.
fn list_with(request: &Request) -> Option<Request> {
    let Kept::InList(list) = request.endpoint().operation.declaration().kept else {
        return None;
    };
    if !request.is_bare() {
        return None;
    }
    let endpoint = Endpoint {
        operation: list,
        ..request.endpoint()
    };
    Request::get(&Target { endpoint, id: None }, None).ok()
}

/// How many requests for whole lists are under way, by endpoint and urgency.
#[derive(Debug, Default)]
pub(super) struct ListsUnderWay([[AtomicUsize; Urgency::LEVELS]; Endpoint::COUNT]);

/// A request for a list, for as long as it lives.
#[derive(Debug)]
pub(super) struct ListUnderWay {
    lists: Arc<ListsUnderWay>,
    endpoint: Endpoint,
    urgency: Urgency,
}

impl ListsUnderWay {
    /// Counts a request if it is for a whole list.
    pub(super) fn begin(self: &Arc<Self>, call: &Call) -> Option<ListUnderWay> {
        let endpoint = call.request.endpoint();
        let declared = endpoint.operation.declaration();
        let is_list = declared.shape == Shape::List && !declared.is_by_id() && call.request.is_bare();
        is_list.then(|| {
            let urgency = call.caller.urgency;
            self.0[endpoint.index()][usize::from(urgency.level())].fetch_add(1, Ordering::Relaxed);
            ListUnderWay {
                lists: Arc::clone(self),
                endpoint,
                urgency,
            }
        })
    }

    /// The list for which a request for one entity should wait: one that is under way, no less
    /// urgent, and as good for the caller as an answer of its own.
    pub(super) fn list_for(&self, call: &Call) -> Option<Request> {
        if call.caller.cache_directives != CacheDirectives::default() {
            return None;
        }
        let list = list_with(&call.request)?;
        let by_urgency = &self.0[list.endpoint().index()];
        let as_urgent = &by_urgency[..=usize::from(call.caller.urgency.level())];
        let is_under_way = as_urgent.iter().any(|count| count.load(Ordering::Relaxed) > 0);
        is_under_way.then_some(list)
    }
}

impl Drop for ListUnderWay {
    fn drop(&mut self) {
        let by_urgency = &self.lists.0[self.endpoint.index()];
        by_urgency[usize::from(self.urgency.level())].fetch_sub(1, Ordering::Relaxed);
    }
}

/// The form in which the upstream answers a request for one entity. It is not documented, so it is
/// taken from earlier answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntityForm {
    /// The entity's members beside the context, as in `OData` (`OData` JSON Format 4.01 §6).
    Bare,
    /// In a `value` with one element, as in some of the documentation's examples.
    Wrapped,
}

#[derive(Deserialize)]
struct List<'a> {
    #[serde(borrow, rename = "@odata.context")]
    context: &'a RawValue,
    #[serde(borrow)]
    value: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Entity<'a> {
    #[serde(borrow, alias = "Id")]
    id: Cow<'a, str>,
}

/// The beginning of a list that is written without space; entities are then written without space,
/// too.
const COMPACT: &[u8] = b"{\"@odata.context\":\"";

impl EntityForm {
    /// The form of a successful answer to a request for one entity; `None` when it shows none.
    fn of(body: &[u8]) -> Option<Self> {
        if serde_json::from_slice::<Entity<'_>>(body).is_ok() {
            return Some(Self::Bare);
        }
        let list: List<'_> = serde_json::from_slice(body).ok()?;
        (list.value.len() == 1).then_some(Self::Wrapped)
    }

    /// The answer that the upstream would give to `request` for one entity, made from the body of a
    /// `list`; `None` when the list does not contain the entity exactly once, or that is not
    /// certain.
    fn entity_in(self, request: &Request, list: &[u8]) -> Option<Bytes> {
        self.answer(request, list, &EntityIndex::of(list))
    }

    /// The same for a list whose entities have been found.
    fn answer(self, request: &Request, list: &[u8], entities: &EntityIndex) -> Option<Bytes> {
        let context = std::str::from_utf8(&list[entities.context.clone()]).ok()?;
        let entity = entities.find(list, request.ids().next()?)?;
        let context = context.strip_suffix('"')?;
        let body = match self {
            Self::Bare => format!("{{\"@odata.context\":{context}/$entity\",{}", entity.strip_prefix('{')?),
            Self::Wrapped => format!("{{\"@odata.context\":{context}/$entity\",\"value\":[{entity}]}}"),
        };
        Some(body.into())
    }
}

/// Where the entities of a list are in its body. It is found once for all requests.
#[derive(Debug, Default)]
pub(super) struct EntityIndex {
    context: Range<usize>,
    hasher: RandomState,
    /// By the hashes of their ids.
    entities: Box<[Place]>,
    _memory: Option<Reservation>,
}

/// Where an entity begins and ends. It is kept small; answers are far shorter than 4 GiB.
#[derive(Clone, Copy, Debug)]
struct Place {
    hash: u64,
    start: u32,
    end: u32,
}

impl EntityIndex {
    /// It is empty when it is not certain how the upstream would write one of the entities.
    fn of(list: &[u8]) -> Self {
        Self::of_compact(list).unwrap_or_default()
    }

    fn of_compact(list: &[u8]) -> Option<Self> {
        if !list.starts_with(COMPACT) || memchr::memchr(b'\n', list).is_some() {
            return None;
        }
        let List { context, value } = serde_json::from_slice(list).ok()?;
        let hasher = RandomState::default();
        let place = |entity: &&RawValue| {
            let named: Entity<'_> = serde_json::from_str(entity.get()).ok()?;
            let Range { start, end } = range_in(list, entity.get());
            Some(Place {
                hash: hasher.hash_one(&*canonical(&named.id)),
                start: u32::try_from(start).ok()?,
                end: u32::try_from(end).ok()?,
            })
        };
        let mut entities: Box<[Place]> = value.iter().filter_map(place).collect();
        entities.sort_unstable_by_key(|place| place.hash);
        Some(Self {
            context: range_in(list, context.get()),
            hasher,
            entities,
            _memory: None,
        })
    }

    /// The entity with this id; `None` when the list does not contain it exactly once.
    fn find<'a>(&self, list: &'a [u8], id: &str) -> Option<&'a str> {
        let hash = self.hasher.hash_one(id);
        let first = self.entities.partition_point(|place| place.hash < hash);
        let alike = self.entities[first..].iter().take_while(|place| place.hash == hash);
        let texts = alike.filter_map(|place| std::str::from_utf8(&list[place.start as usize..place.end as usize]).ok());
        let is_asked = |entity: &&str| {
            let named = serde_json::from_str::<Entity<'_>>(entity);
            named.is_ok_and(|named| canonical(&named.id) == id)
        };
        let mut found = texts.filter(is_asked);
        match (found.next(), found.next()) {
            (Some(entity), None) => Some(entity),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::route;

    fn request(id: &str) -> Request {
        let path = format!("/api/DeviceAuthenticatedScanAgents/{id}");
        Request::get(&route(&path).unwrap(), None).unwrap()
    }

    #[test]
    fn an_entity_keeps_its_bytes() {
        let list = br#"{"@odata.context":"https://x/$metadata#Agents","value":[{"a":1.50,"id":"a1"},{"id":"b2","n":"\u00e9"}]}"#;
        let bare = EntityForm::Bare.entity_in(&request("a1"), list).unwrap();
        assert_eq!(
            bare,
            r#"{"@odata.context":"https://x/$metadata#Agents/$entity","a":1.50,"id":"a1"}"#
        );
        let wrapped = EntityForm::Wrapped.entity_in(&request("b2"), list).unwrap();
        assert_eq!(
            wrapped,
            r#"{"@odata.context":"https://x/$metadata#Agents/$entity","value":[{"id":"b2","n":"\u00e9"}]}"#
        );
        assert_eq!(EntityForm::of(&bare), Some(EntityForm::Bare));
        assert_eq!(EntityForm::of(&wrapped), Some(EntityForm::Wrapped));
    }

    #[test]
    fn nothing_is_guessed() {
        for body in [
            r#"{"@odata.context":"c","value":[]}"#,
            r#"{"@odata.context":"c","value":[{"id":"a"},{"id":"b"}]}"#,
            r#"{"@odata.context":"c","scanName":"a"}"#,
            r#"{"@odata.context":"c","id":"#,
        ] {
            assert_eq!(EntityForm::of(body.as_bytes()), None, "{body}");
        }
        for list in [
            r#"{"@odata.context":"c","value":[{"id":"b2"}]}"#,
            r#"{"@odata.context":"c","value":[{"id":"a1"},{"id":"a1"}]}"#,
            r#"{"@odata.context":"c","value":[{"machineId":"a1"}]}"#,
            r#"{"@odata.context": "c", "value": [{"id": "a1"}]}"#,
            "{\"@odata.context\":\"c\",\"value\":[\n{\"id\":\"a1\"}]}",
            r#"{"value":[{"id":"a1"}]}"#,
            r#"{"@odata.context":"c","value":[{"id":"a1"}]"#,
            r#"{"@odata.context":"c","value":{}}"#,
        ] {
            assert_eq!(
                EntityForm::Bare.entity_in(&request("a1"), list.as_bytes()),
                None,
                "{list}"
            );
        }
    }
}
