//! Answers by id: storing the rows of each id, and finding a partial hit, which is the stored
//! fragments of a request, and its missing ids. Among them are the rows that came with other calls
//! while the request waited for its own.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, StatusCode, header};
use tokio::time::Instant;

use crate::cache::Config;
use crate::cache::fragment::{Assembled, Fragment};
use crate::cache::freshness::{Evaluation, RefreshHealth, evaluate};
use crate::cache::memory_store::Cache;
use crate::caller::CacheDirectives;
use crate::scan::{
    Endpoint, Key, Merging, Request, Rows, ServedResponse, SplitError, StoredRows, UpstreamProfile, UpstreamResponse,
};

/// Rows that wait for missing ones may be stale for so long when they are joined, even where no
/// stale answers are served: to fetch them as well would cost room in a call, or another call,
/// while calls are what everybody waits for. A caller's own limits hold all the same.
const LONGEST_STALE: Duration = Duration::from_mins(1);

/// The fragments of a request, one place for each of its ids. At least one is there.
#[derive(Clone, Debug)]
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
        let fresh = |fragment: &Arc<Fragment>| {
            evaluate(cache.config(), directives, fragment.age(now), RefreshHealth::Good) == Evaluation::Fresh
        };
        plain.then(|| Self::of(cache, request, fresh)).flatten()
    }

    /// The fragments that have come since that moment.
    pub(super) fn since(cache: &Cache, request: &Arc<Request>, since: Instant) -> Option<Self> {
        let is_new = |fragment: &Arc<Fragment>| fragment.origin().stored >= since;
        request.is_whole().then(|| Self::of(cache, request, is_new)).flatten()
    }

    /// These fragments, or later ones of the same ids, without those that could not answer the
    /// caller any more at `then`: the request may wait for long for the missing ones. `None` when
    /// none is left.
    pub(super) fn usable_at(mut self, cache: &Cache, directives: &CacheDirectives, then: Instant) -> Option<Self> {
        let config = Config {
            stale_while_revalidate: cache.config().stale_while_revalidate.max(LONGEST_STALE),
            ..*cache.config()
        };
        for (id, place) in self.request.ids().zip(&mut self.fragments) {
            let Some(fragment) = place.take() else { continue };
            let latest = cache
                .fragment(self.request.endpoint(), id)
                .filter(|latest| latest.origin().asked > fragment.origin().asked)
                .unwrap_or(fragment);
            let evaluation = evaluate(&config, directives, latest.age(then), RefreshHealth::Good);
            *place = matches!(evaluation, Evaluation::Fresh | Evaluation::Stale(_)).then_some(latest);
        }
        self.fragments.iter().any(Option::is_some).then_some(self)
    }

    fn of(cache: &Cache, request: &Arc<Request>, is_good: impl Fn(&Arc<Fragment>) -> bool) -> Option<Self> {
        let endpoint = request.endpoint();
        // The upstream might reject a request with more ids than any that it has answered.
        let upstream_profile = cache
            .upstream_profile
            .as_ref()
            .filter(|profile| profile.merge_evidence().allows_parts(endpoint))
            .filter(|profile| profile.takes(endpoint, request.ids().len()))?;
        let fragments: Vec<_> = request
            .ids()
            .map(|id| cache.fragment(endpoint, id).filter(&is_good))
            .collect();
        fragments.iter().any(Option::is_some).then(|| Self {
            request: Arc::clone(request),
            upstream_profile: Arc::clone(upstream_profile),
            fragments,
            prefetches: cache.prefetches(endpoint),
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

    pub(super) fn has_all(&self) -> bool {
        self.missing_count() == 0
    }

    pub(super) fn missing_count(&self) -> usize {
        self.fragments.iter().filter(|fragment| fragment.is_none()).count()
    }

    /// A request for the missing ids; `None` when none is missing, or when the fragments could not
    /// be joined with the rest.
    pub(super) fn missing(&self) -> Option<Request> {
        if self.prefetches {
            return self.missing_of_all();
        }
        Request::plain(self.request.endpoint(), self.missing_ids()?).ok()
    }

    /// The same with the largest `$top`.
    pub(super) fn missing_of_all(&self) -> Option<Request> {
        // It fails when no id is missing.
        Request::all(self.request.endpoint(), self.missing_ids()?).ok()
    }

    fn missing_ids(&self) -> Option<impl Iterator<Item = &str>> {
        self.upstream_profile.ordering(self.request.endpoint()).ok()?;
        let ids = self.request.ids().zip(&self.fragments);
        Some(ids.filter(|(_, fragment)| fragment.is_none()).map(|(id, _)| id))
    }

    /// The whole answer, joined with the answer for the missing ids.
    pub(super) fn with(self, missing: &Request, rest: &ServedResponse, cache: &Cache) -> Result<Assembled, SplitError> {
        // An answer of another replica has an age already.
        let now = Instant::now();
        let stored = rest.age.and_then(|age| now.checked_sub(age)).unwrap_or(now);
        let ttls = |rows: &Rows| cache.lifetimes(missing, Some(rows)).ids;
        self.with_rows(missing, &rest.answer, stored, ttls)
    }

    /// The same with an answer that came at `stored`.
    pub(super) fn with_rows(
        mut self,
        missing: &Request,
        answer: &UpstreamResponse,
        stored: Instant,
        ttls: impl FnOnce(&Rows) -> Vec<Duration>,
    ) -> Result<Assembled, SplitError> {
        if answer.status != StatusCode::OK {
            return Err(SplitError::Refused);
        }
        let rows = Rows::split(missing, &answer.body)?;
        if !self.upstream_profile.is_complete(missing, rows.len()) {
            return Err(SplitError::Longest);
        }
        let new = Fragment::cut(missing, answer, &rows, (stored, stored), &ttls(&rows));
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

/// Fragments that came while a request waited, and a request for the rest.
#[derive(Debug)]
struct RowsSince {
    partial_hit: PartialHit,
    missing: Option<Request>,
}

impl Cache {
    /// What has come for a request since that moment.
    pub(super) fn find_rows_since(&self, request: &Arc<Request>, since: Instant) -> Option<Box<dyn StoredRows>> {
        let partial_hit = PartialHit::since(self, request, since)?;
        let missing = if partial_hit.has_all() {
            None
        } else {
            Some(partial_hit.missing_of_all()?)
        };
        Some(Box::new(RowsSince { partial_hit, missing }))
    }
}

impl StoredRows for RowsSince {
    fn missing(&self) -> Option<&Request> {
        self.missing.as_ref()
    }

    fn complete(&self, rest: Option<&UpstreamResponse>) -> Option<(UpstreamResponse, Instant)> {
        let now = Instant::now();
        let assembled = match (&self.missing, rest) {
            (None, _) => self.partial_hit.whole()?,
            (Some(missing), Some(rest)) => {
                let stored = now.checked_sub(rest.age())?;
                let unused = |_: &Rows| vec![Duration::ZERO; missing.ids().len()];
                self.partial_hit
                    .clone()
                    .with_rows(missing, rest, stored, unused)
                    .inspect_err(|split_error| {
                        tracing::debug!(reason = split_error.as_str(), "rows of two calls could not be joined");
                    })
                    .ok()?
            }
            (Some(_), None) => return None,
        };
        // Rounded up, so that nothing is taken to be fresher than it is.
        let age = now.saturating_duration_since(assembled.stored);
        let seconds = age.as_secs() + u64::from(age.subsec_nanos() > 0);
        let fields = assembled.answer.headers.iter();
        let fields = fields.map(|(name, value)| (name.clone(), value.clone()));
        let answer = UpstreamResponse {
            headers: fields.chain([(header::AGE, HeaderValue::from(seconds))]).collect(),
            ..assembled.answer
        };
        Some((answer, assembled.asked))
    }
}

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
            if !has_fragment(id) {
                self.insert_fragment(Key::of_rows(request.endpoint(), id), fragment);
            }
        }
    }
}
