//! The requests for whole lists that are under way. A request for one entity waits for the list's
//! answer instead of making a call of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::cache::entity::list_with;
use crate::caller::{CacheDirectives, Urgency};
use crate::operation::Shape;
use crate::scan::{Call, Endpoint, Request};

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
