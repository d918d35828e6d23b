//! Answers requests for one entity from the list of all of them: a stored one, or one that is under
//! way, for whose answer they wait instead of making calls of their own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};

use bytes::Bytes;
use http::StatusCode;
use tokio::time::Instant;

use crate::cache::entry::Entry;
use crate::cache::freshness::{Evaluation, RefreshHealth, evaluate};
use crate::cache::memory_store::Cache;
use crate::caller::{CacheDirectives, Urgency};
use crate::operation::{Kept, Shape};
use crate::scan::{Call, Endpoint, EntityForm, Request, Target, UpstreamResponse};

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
        let body = self.entity_in(request, &entry.answer().body)?;
        let answer = UpstreamResponse {
            body,
            ..entry.answer().clone()
        };
        Some((answer, entry))
    }

    /// The body of the answer to a request for one entity, taken from the body of a list.
    pub(super) fn entity_in(&self, request: &Request, list: &[u8]) -> Option<Bytes> {
        self.form(request.endpoint())?.entity_in(request, list)
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
