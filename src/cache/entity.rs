//! Answers requests for one entity from a stored list of all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::StatusCode;
use tokio::time::Instant;

use crate::cache::entry::Entry;
use crate::cache::freshness::{Evaluation, RefreshHealth, evaluate};
use crate::cache::memory_store::Cache;
use crate::caller::CacheDirectives;
use crate::operation::Kept;
use crate::scan::{Endpoint, EntityForm, Request, Target, UpstreamResponse};

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
        let is_wrapped = self.form(request.endpoint()).load(Ordering::Relaxed);
        let form = if is_wrapped {
            EntityForm::Wrapped
        } else {
            EntityForm::Bare
        };
        form.entity_in(request, list)
    }

    /// Learns from an upstream answer in which form the upstream answers requests for one entity.
    pub(super) fn learn_form(&self, request: &Request, answer: &UpstreamResponse) {
        let declared = request.endpoint().operation.declaration();
        if answer.status == StatusCode::OK && matches!(declared.kept, Kept::InList(_)) {
            let is_wrapped = EntityForm::of(&answer.body) == EntityForm::Wrapped;
            self.form(request.endpoint()).store(is_wrapped, Ordering::Relaxed);
        }
    }

    fn form(&self, endpoint: Endpoint) -> &AtomicBool {
        &self.wrapped[endpoint.index()]
    }
}

/// The request for the list that contains the entity that `request` is for; `None` when there is no
/// such list, or the request has a query or a token of its own.
pub(super) fn list_with(request: &Request) -> Option<Request> {
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
