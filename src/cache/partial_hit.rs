//! A partial hit: the stored fragments of a request, and its missing ids.

use std::sync::Arc;

use http::StatusCode;
use tokio::time::Instant;

use crate::cache::assembly::Assembled;
use crate::cache::fragment::Fragment;
use crate::cache::freshness::{Evaluation, RefreshHealth, evaluate};
use crate::cache::memory_store::Cache;
use crate::caller::CacheDirectives;
use crate::scan::{Request, Rows, ServedResponse, SplitError, UpstreamProfile};

/// The fragments of a request, one place for each of its ids. At least one is there.
#[derive(Debug)]
pub(super) struct PartialHit {
    request: Arc<Request>,
    upstream_profile: Arc<UpstreamProfile>,
    fragments: Vec<Option<Arc<Fragment>>>,
    /// Whether calls take prefetched ids along, and so ask with the largest `$top`.
    prefetches: bool,
}

impl PartialHit {
    /// The stored fragments that are fresh enough for this caller; `None` when there is none, or
    /// when such requests are not stored by id.
    pub(super) fn find(
        cache: &Cache,
        request: &Arc<Request>,
        directives: &CacheDirectives,
        now: Instant,
    ) -> Option<Self> {
        let plain = request.is_plain() && !directives.no_cache;
        // The upstream might reject a request with more ids than any that it has answered.
        let upstream_profile = cache
            .upstream_profile()
            .filter(|upstream_profile| plain && upstream_profile.takes(request.endpoint(), request.ids().len()))?;
        let fresh = |fragment: &Arc<Fragment>| {
            evaluate(cache.config(), directives, fragment.age(now), RefreshHealth::Good) == Evaluation::Fresh
        };
        let fragments: Vec<_> = request
            .ids()
            .map(|id| cache.fragment(request.endpoint(), id).filter(fresh))
            .collect();
        fragments.iter().any(Option::is_some).then(|| Self {
            request: Arc::clone(request),
            upstream_profile: Arc::clone(upstream_profile),
            fragments,
            prefetches: cache.prefetches(request.endpoint()),
        })
    }

    /// The whole answer, if there is a fragment for every id.
    pub(super) fn whole(&self) -> Option<Assembled> {
        self.has_all().then(|| self.assemble().ok()).flatten()
    }

    /// Whether [`whole`](Self::whole) would give an answer. The fragments do not count as used.
    pub(super) fn is_whole(&self) -> bool {
        self.has_all() && self.join().is_ok()
    }

    fn has_all(&self) -> bool {
        self.fragments.iter().all(Option::is_some)
    }

    /// A request for the missing ids; `None` when none is missing, or when the fragments could not
    /// be joined with the rest.
    pub(super) fn missing(&self) -> Option<Request> {
        self.upstream_profile.ordering(self.request.endpoint()).ok()?;
        let ids = self.request.ids().zip(&self.fragments);
        let missing = ids.filter(|(_, fragment)| fragment.is_none()).map(|(id, _)| id);
        // It fails when no id is missing.
        if self.prefetches {
            Request::all(self.request.endpoint(), missing).ok()
        } else {
            Request::plain(self.request.endpoint(), missing).ok()
        }
    }

    /// The whole answer, joined with the answer for the missing ids.
    pub(super) fn with(
        mut self,
        missing: &Request,
        rest: &ServedResponse,
        cache: &Cache,
    ) -> Result<Assembled, SplitError> {
        let answer = &rest.answer;
        if answer.status != StatusCode::OK {
            return Err(SplitError::Refused);
        }
        let rows = Rows::split(missing, &answer.body)?;
        if !self.upstream_profile.is_complete(missing, rows.len()) {
            return Err(SplitError::Longest);
        }
        // An answer of another replica has an age already.
        let now = Instant::now();
        let stored = rest.age.and_then(|age| now.checked_sub(age)).unwrap_or(now);
        let new = Fragment::cut(
            missing,
            answer,
            &rows,
            (stored, stored),
            &cache.lifetimes(missing, Some(&rows)).ids,
        );
        let gaps = self.fragments.iter_mut().filter(|fragment| fragment.is_none());
        for (gap, fragment) in gaps.zip(new) {
            *gap = Some(Arc::new(fragment));
        }
        self.assemble()
    }

    fn assemble(&self) -> Result<Assembled, SplitError> {
        let assembly = self.join()?;
        for fragment in self.fragments.iter().flatten() {
            fragment.is_used();
        }
        Ok(assembly)
    }

    fn join(&self) -> Result<Assembled, SplitError> {
        let fragments: Vec<_> = self.fragments.iter().flatten().cloned().collect();
        Assembled::new(&self.request, &fragments, &self.upstream_profile)
    }
}
