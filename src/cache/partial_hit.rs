//! What is there of an answer, by id, and what is missing.

use std::sync::Arc;

use http::StatusCode;
use tokio::time::Instant;

use crate::cache::Prefetch;
use crate::cache::assembly::Assembled;
use crate::cache::fragment::Fragment;
use crate::cache::freshness::{Health, Verdict, evaluate};
use crate::cache::memory_store::Cache;
use crate::caller::Freshness;
use crate::scan::{Request, Rows, Served, SplitError, UpstreamProfile};

/// The pieces for a request, one place for each of its ids. At least one is there.
#[derive(Debug)]
pub(super) struct Parts {
    request: Arc<Request>,
    upstream_profile: Arc<UpstreamProfile>,
    pieces: Vec<Option<Arc<Fragment>>>,
    prefetch: Prefetch,
}

impl Parts {
    /// The pieces that this caller accepts as fresh; `None` when there is none, or when such requests are not kept by id.
    pub(super) fn find(cache: &Cache, request: &Arc<Request>, wanted: &Freshness, now: Instant) -> Option<Self> {
        let plain = request.is_plain() && !wanted.no_cache;
        // Whole, the upstream might refuse a question for more ids than any that it has answered.
        let upstream_profile = cache
            .upstream_profile()
            .filter(|upstream_profile| plain && upstream_profile.takes(request.endpoint(), request.ids().len()))?;
        let fresh = |fragment: &Arc<Fragment>| {
            evaluate(cache.config(), wanted, fragment.age(now), Health::Good) == Verdict::Fresh
        };
        let pieces: Vec<_> = request
            .ids()
            .map(|id| cache.fragment(request.endpoint(), id).filter(fresh))
            .collect();
        pieces.iter().any(Option::is_some).then(|| Self {
            request: Arc::clone(request),
            upstream_profile: Arc::clone(upstream_profile),
            pieces,
            prefetch: cache.config().prefetch,
        })
    }

    /// The whole answer, if every piece is there.
    pub(super) fn whole(&self) -> Option<Assembled> {
        let complete = self.pieces.iter().all(Option::is_some);
        complete.then(|| self.assemble().ok()).flatten()
    }

    /// The question for what is missing; `None` when nothing is, or when the pieces could not be put together with what would come.
    pub(super) fn missing(&self) -> Option<Request> {
        self.upstream_profile.ordering(self.request.endpoint()).ok()?;
        let ids = self.request.ids().zip(&self.pieces);
        let missing = ids.filter(|(_, fragment)| fragment.is_none()).map(|(id, _)| id);
        // It fails when no id is missing.
        match self.prefetch {
            Prefetch::On => Request::all(self.request.endpoint(), missing).ok(),
            Prefetch::Off => Request::plain(self.request.endpoint(), missing).ok(),
        }
    }

    /// The whole answer, with the answer to the question for what was missing.
    pub(super) fn with(mut self, missing: &Request, rest: &Served, cache: &Cache) -> Result<Assembled, SplitError> {
        let answer = &rest.answer;
        if answer.status != StatusCode::OK {
            return Err(SplitError::Refused);
        }
        let rows = Rows::split(missing, &answer.body)?;
        if !self.upstream_profile.is_complete(missing, rows.len()) {
            return Err(SplitError::Longest);
        }
        // What another replica got has an age already.
        let now = Instant::now();
        let stored = rest.age.and_then(|age| now.checked_sub(age)).unwrap_or(now);
        let new = Fragment::cut(
            missing,
            answer,
            &rows,
            (stored, stored),
            &cache.lifetimes(missing, Some(&rows)).ids,
        );
        let gaps = self.pieces.iter_mut().filter(|fragment| fragment.is_none());
        for (gap, fragment) in gaps.zip(new) {
            *gap = Some(Arc::new(fragment));
        }
        self.assemble()
    }

    fn assemble(&self) -> Result<Assembled, SplitError> {
        let pieces: Vec<_> = self.pieces.iter().flatten().cloned().collect();
        let assembly = Assembled::new(&self.request, &pieces, &self.upstream_profile)?;
        for fragment in &pieces {
            fragment.is_used();
        }
        Ok(assembly)
    }
}
