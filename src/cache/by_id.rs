//! Keeping answers by id.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use crate::cache::Prefetch;
use crate::cache::fragment::Fragment;
use crate::cache::memory_store::{Cache, Stored};
use crate::scan::{Answer, Key, Request, Rows};

impl Cache {
    /// Counts what is asked for, where that decides what is renewed.
    pub(super) fn note(&self, request: &Request, now: Instant) {
        if self.config.prefetch == Prefetch::On && request.is_plain() {
            self.popularity.note(request, now);
        }
    }

    /// The rows of an answer, if answers are kept by id and it is certain whose row is whose.
    pub(super) fn rows(&self, request: &Request, answer: &Answer) -> Option<Rows> {
        let may_be_cut = self.upstream_profile.is_some() && request.is_whole() && answer.status == StatusCode::OK;
        may_be_cut.then(|| Rows::split(request, &answer.body).ok()).flatten()
    }

    /// Keeps an answer by id as well, if it is certain that no row is missing.
    pub(super) fn keep_pieces(
        &self,
        request: &Request,
        answer: &Answer,
        rows: Option<&Rows>,
        (asked, stored): (Instant, Instant),
        ttls: &[Duration],
        prefetched: Option<&Request>,
    ) {
        let (Some(upstream_profile), Some(rows)) = (&self.upstream_profile, rows) else {
            return;
        };
        if !upstream_profile.is_complete(request, rows.len()) {
            return;
        }
        let has_piece = |id| {
            let fragment = self.fragment(request.endpoint(), id);
            fragment.is_some_and(|fragment| fragment.source().asked >= asked)
        };
        // Those of the same answer, or of a later one.
        if request.ids().all(has_piece) {
            return;
        }
        if self.config.prefetch == Prefetch::On {
            self.popularity.renewed(request, stored, ttls);
        }
        let unasked: HashSet<&str> = prefetched.into_iter().flat_map(Request::ids).collect();
        let pieces = Fragment::cut(request, answer, rows, (asked, stored), ttls);
        for (id, fragment) in request.ids().zip(pieces) {
            let fragment = if unasked.contains(id) {
                fragment.prefetched(self.metrics.prefetched())
            } else {
                fragment
            };
            let newer = self
                .fragment(request.endpoint(), id)
                .is_some_and(|other| other.source().asked >= asked);
            let key = Key::of_rows(request.endpoint(), id);
            let weight = fragment.weight(&key);
            if !newer && u64::from(weight) <= self.config.max_size {
                self.put(key, Stored::Fragment(Arc::new(fragment)), weight);
            }
        }
    }

    /// Keeps the rows of an answer to a call that was made for several.
    pub(super) fn keep_united(&self, request: &Request, prefetched: Option<&Request>, answer: &Answer, asked: Instant) {
        if self.is_off() {
            return;
        }
        let rows = self.rows(request, answer);
        let stored = Instant::now().checked_sub(answer.age());
        if let (Some(lifetimes), Some(stored)) = (self.freshness(request, answer, rows.as_ref()), stored) {
            self.keep_pieces(
                request,
                answer,
                rows.as_ref(),
                (asked, stored),
                &lifetimes.ids,
                prefetched,
            );
        }
    }
}
