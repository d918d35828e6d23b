//! Storing answers by id.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use crate::cache::fragment::Fragment;
use crate::cache::memory_store::{Cache, Stored};
use crate::scan::{Endpoint, Key, Merging, Request, Rows, UpstreamProfile, UpstreamResponse};

impl Cache {
    /// Whether calls with spare room refresh ids that are often asked for.
    pub(super) fn prefetches(&self, endpoint: Endpoint) -> bool {
        match self.config.prefetch {
            Merging::On => true,
            Merging::Off => false,
            Merging::Auto => {
                let proven = |profile: &Arc<UpstreamProfile>| profile.merge_evidence().is_proven(endpoint);
                self.upstream_profile.as_ref().is_some_and(proven)
            }
        }
    }

    /// Counts the ids of a request, if prefetching is on.
    pub(super) fn record_popularity(&self, request: &Request, now: Instant) {
        if request.is_plain() && self.prefetches(request.endpoint()) {
            self.popularity.record(request, now);
        }
    }

    /// The rows of an answer, if answers are stored by id and it is certain which row belongs to
    /// which id.
    pub(super) fn rows(&self, request: &Request, answer: &UpstreamResponse) -> Option<Rows> {
        let may_be_cut = self.upstream_profile.is_some() && request.is_whole() && answer.status == StatusCode::OK;
        may_be_cut.then(|| Rows::split(request, &answer.body).ok()).flatten()
    }

    /// Stores an answer's rows by id, if it is certain that no row is missing, and not known that
    /// ids are answered otherwise alone.
    pub(super) fn insert_fragments(
        &self,
        request: &Request,
        answer: &UpstreamResponse,
        rows: Option<&Rows>,
        (asked, stored): (Instant, Instant),
        ttls: &[Duration],
        prefetched: Option<&Request>,
    ) {
        let (Some(upstream_profile), Some(rows)) = (&self.upstream_profile, rows) else {
            return;
        };
        let allows_parts = upstream_profile.merge_evidence().allows_parts(request.endpoint());
        if !allows_parts || !upstream_profile.is_complete(request, rows.len()) {
            return;
        }
        // Whether there is a fragment of the same answer or of a later one.
        let has_fragment = |id| {
            let fragment = self.fragment(request.endpoint(), id);
            fragment.is_some_and(|fragment| fragment.origin().asked >= asked)
        };
        if request.ids().all(has_fragment) {
            return;
        }
        if self.prefetches(request.endpoint()) {
            self.popularity.record_refresh(request, stored, ttls);
        }
        let unasked: HashSet<&str> = prefetched.into_iter().flat_map(Request::ids).collect();
        let fragments = Fragment::cut(request, answer, rows, (asked, stored), ttls);
        for (id, fragment) in request.ids().zip(fragments) {
            let fragment = if unasked.contains(id) {
                fragment.prefetched(self.metrics.prefetched())
            } else {
                fragment
            };
            let key = Key::of_rows(request.endpoint(), id);
            let weight = fragment.weight(&key);
            if !has_fragment(id) && u64::from(weight) <= self.config.max_size {
                self.put(key, Stored::Fragment(Arc::new(fragment)), weight);
            }
        }
    }
}
