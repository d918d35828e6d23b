//! The tower layer and service of the cache: it answers from what is stored, and asks the service
//! below for the rest.

use std::fmt;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Either};
use http::StatusCode;
use tokio::time::Instant;
use tower::Service;

use crate::BoxError;
use crate::cache::entity::ListsUnderWay;
use crate::cache::entry::Entry;
use crate::cache::fragment::Assembled;
use crate::cache::freshness::{Age, Evaluation, RefreshHealth, StaleReason, evaluate};
use crate::cache::metrics::{CountedOnDrop, Lookup};
use crate::cache::partial_hit::PartialHit;
use crate::cache::refresh::{RefreshGuard, RefreshOutcome, Refresher};
use crate::cache::{Cache, Config};
use crate::middleware::Next;
use crate::scan::{
    Call, Endpoint, ForwardReason, Outcome, Payer, Request, ResponseKind, ServedResponse, Status, UpstreamResponse,
};
use crate::task::Tasks;

/// Whether a payer has quota to spare. Only then are stale entries refreshed in the background,
/// except after a failure.
pub type HasSpareQuota = Arc<dyn Fn(Payer) -> bool + Send + Sync>;

/// The caller wanted a stored answer or none (`only-if-cached`), and no stored answer may be
/// served. RFC 9111 §5.2.1.7 asks for status 504.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no stored answer may be served, and only a stored one was wanted")]
pub struct NotCached;

/// A call leaves, or is refused, so long after its deadline at the latest.
const UNPUNCTUAL: Duration = Duration::from_secs(2);

/// The service below.
pub(super) type Below = Next<Call, ServedResponse, BoxError>;

/// Puts a [`Cache`] in front of a service.
#[derive(Clone)]
pub struct Layer {
    shared: Arc<Shared>,
}

struct Shared {
    cache: Arc<Cache>,
    refresher: Refresher,
    lists: Arc<ListsUnderWay>,
}

impl Layer {
    /// A layer over `cache`. Background refreshes run as `tasks`, and only while `has_spare_quota`
    /// allows it.
    ///
    /// The service below has to give its answers to the same cache, through
    /// [`scan::CacheSink`](crate::scan::CacheSink).
    pub fn new(cache: Arc<Cache>, tasks: Tasks, has_spare_quota: HasSpareQuota) -> Self {
        Self {
            shared: Arc::new(Shared {
                cache,
                refresher: Refresher::new(tasks, has_spare_quota),
                lists: Arc::default(),
            }),
        }
    }
}

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layer")
            .field("cache", &self.shared.cache)
            .finish_non_exhaustive()
    }
}

impl tower::Layer<Below> for Layer {
    type Service = CacheService;

    fn layer(&self, inner: Below) -> CacheService {
        CacheService {
            shared: Arc::clone(&self.shared),
            inner,
        }
    }
}

/// Answers from the cache, or calls the service below. It is always ready.
///
/// A hit is a ready future: it is not boxed and never waits.
#[derive(Clone)]
pub struct CacheService {
    shared: Arc<Shared>,
    inner: Below,
}

impl fmt::Debug for CacheService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheService")
            .field("cache", &self.shared.cache)
            .finish_non_exhaustive()
    }
}

impl Service<Call> for CacheService {
    type Response = ServedResponse;
    type Error = BoxError;
    type Future = Either<Ready<Result<ServedResponse, BoxError>>, BoxFuture<'static, Result<ServedResponse, BoxError>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let cache = &self.shared.cache;
        if cache.is_off() {
            return self.forward(call, ForwardReason::Bypass, None, None);
        }
        cache.forget_if_suspended();
        let now = Instant::now();
        let directives = &call.caller.cache_directives;
        cache.record_popularity(&call.request, now);
        let found = cache.find(call.request.key(), now);
        let evaluation = found.as_ref().map(|entry| {
            let health = if entry.refresh_state().is_failing() {
                RefreshHealth::Failing
            } else {
                RefreshHealth::Good
            };
            evaluate(cache.config(), directives, entry.age(now), health)
        });
        if let (Some(entry), Some(Evaluation::Fresh)) = (&found, evaluation) {
            cache.count(Lookup::Hit);
            return Either::Left(ready(Ok(serve(entry, now, Outcome::Hit, None))));
        }
        if let Some((answer, list)) = cache.entity_in_list(&call.request, directives, now) {
            cache.count(Lookup::Hit);
            let served = serve(&list, now, Outcome::Hit, Some("list"));
            return Either::Left(ready(Ok(ServedResponse { answer, ..served })));
        }
        let partial_hit = PartialHit::find(cache, &call.request, directives, now);
        if let Some(assembly) = partial_hit.as_ref().and_then(PartialHit::whole) {
            cache.count(Lookup::Hit);
            let entry = (!directives.no_store).then(|| cache.insert_assembled(&call.request, &assembly));
            // The memory of an entry's body is reserved until its last reader drops it.
            return Either::Left(ready(Ok(match entry.flatten() {
                Some(entry) => serve(&entry, now, Outcome::Hit, Some("assembled")),
                None => assembled(assembly, now),
            })));
        }
        match (found, evaluation) {
            (Some(entry), Some(Evaluation::Stale(reason))) => {
                cache.count(Lookup::Stale);
                let served = serve(&entry, now, Outcome::Stale, reason.detail());
                let refresher = &self.shared.refresher;
                refresher.refresh(cache, &self.inner, &call, (&entry, reason), now);
                Either::Left(ready(Ok(served)))
            }
            (Some(entry), Some(Evaluation::StaleIfError(forward))) => {
                self.forward(call, forward, partial_hit, Some(entry))
            }
            (_, Some(Evaluation::Unusable(forward))) => self.forward(call, forward, partial_hit, None),
            _ => self.forward(call, ForwardReason::Miss, partial_hit, None),
        }
    }
}

impl CacheService {
    fn forward(
        &self,
        call: Call,
        forward: ForwardReason,
        partial_hit: Option<PartialHit>,
        fallback: Option<Arc<Entry>>,
    ) -> <Self as Service<Call>>::Future {
        let cache = &self.shared.cache;
        if call.caller.cache_directives.only_if_cached {
            cache.count(Lookup::NotCached);
            return Either::Left(ready(Err(NotCached.into())));
        }
        let partial = partial_hit
            .and_then(|hit| hit.usable_at(cache, &call.caller.cache_directives, call.caller.deadline))
            .and_then(|partial_hit| partial_hit.missing().map(|missing| (partial_hit, missing)));
        // Even if it waits to the end, and a little longer.
        let latest = call.caller.deadline.max(Instant::now()) + UNPUNCTUAL;
        let stands_in = |entry: &Arc<Entry>| may_stand_in(cache.config(), entry, latest);
        let call = call.with_fallback(fallback.as_ref().is_some_and(stands_in));
        let lookup = match forward {
            _ if partial.is_some() => Lookup::Partial,
            ForwardReason::Miss => Lookup::Miss,
            ForwardReason::Stale => Lookup::Expired,
            ForwardReason::Request => Lookup::Request,
            ForwardReason::Partial => Lookup::Partial,
            ForwardReason::Bypass => Lookup::Bypass,
        };
        let (inner, request) = (self.inner.clone(), Arc::clone(&call.request));
        let lists = &self.shared.lists;
        let may_wait = forward != ForwardReason::Bypass && cache.form(request.endpoint()).is_some();
        let list = lists.list_for(&call).filter(|_| may_wait);
        let (under_way, cache) = (lists.begin(&call), Arc::clone(cache));
        let asked = async move {
            let _under_way = under_way;
            match (partial, list) {
                (Some((partial_hit, missing)), _) => {
                    ask_for_missing(inner, call, forward, partial_hit, missing, cache).await
                }
                (None, Some(list)) => ask_for_list(inner, call, forward, list, cache).await,
                (None, None) => ask(inner, call, forward).await,
            }
        }
        .boxed();
        let Some(entry) = fallback else {
            self.shared.cache.count(lookup);
            return Either::Right(asked);
        };
        Either::Right(self.with_fallback(request, asked, entry, lookup).boxed())
    }

    /// Serves a stale entry when no better answer can be fetched.
    fn with_fallback(
        &self,
        request: Arc<Request>,
        asked: BoxFuture<'static, Result<ServedResponse, BoxError>>,
        entry: Arc<Entry>,
        lookup: Lookup,
    ) -> impl Future<Output = Result<ServedResponse, BoxError>> + Send + use<> {
        let shared = Arc::clone(&self.shared);
        let guard = RefreshGuard::begin(&entry, Instant::now());
        let cache = Arc::clone(&shared.cache);
        let mut counted = CountedOnDrop::new(cache, lookup);
        async move {
            let result = asked.await;
            let now = Instant::now();
            let outcome = RefreshOutcome::of(&request, &result);
            if let Some(guard) = guard {
                guard.finish(outcome, now);
            }
            if outcome != RefreshOutcome::Answered && may_stand_in(shared.cache.config(), &entry, now) {
                if let Err(error) = &result {
                    tracing::debug!(%error, "a stale answer stands in for one that could not be had");
                }
                counted.becomes(Lookup::Stale);
                return Ok(serve(&entry, now, Outcome::Stale, StaleReason::IfError.detail()));
            }
            result
        }
    }
}

/// Whether a stale entry may be served when a new answer cannot be fetched.
fn may_stand_in(config: &Config, entry: &Entry, now: Instant) -> bool {
    entry.age(now).staleness() <= config.stale_if_error
}

async fn ask(inner: Below, call: Call, forward: ForwardReason) -> Result<ServedResponse, BoxError> {
    let mut served = inner.call(call).await?;
    // An answer from the shared cache counts as a hit there.
    if served.outcome != Outcome::Hit {
        served.status.forward = Some(forward);
    }
    Ok(served)
}

/// Fetches the missing ids and joins the answer; fetches all of them when the joined answer would
/// not be certain to be right, or when stored rows have become too old meanwhile. If there is no
/// slot for that, and the caller set no limits, the joined answer with the old rows is better than
/// none.
async fn ask_for_missing(
    inner: Below,
    call: Call,
    forward: ForwardReason,
    partial_hit: PartialHit,
    missing: Request,
    cache: Arc<Cache>,
) -> Result<ServedResponse, BoxError> {
    let missing = Arc::new(missing);
    let part = Call {
        request: Arc::clone(&missing),
        caller: Arc::clone(&call.caller),
    };
    let rest = ask(inner.clone(), part, ForwardReason::Partial).await?;
    if !is_answer(missing.endpoint(), &rest) {
        // An error or a refusal would be the same for more ids.
        return Ok(rest);
    }
    let now = Instant::now();
    let usable = partial_hit
        .clone()
        .usable_at(&cache, &call.caller.cache_directives, now);
    let Some(usable) = usable.filter(|usable| usable.missing_count() == missing.ids().len()) else {
        tracing::debug!("stored rows became too old while the others were fetched");
        let request = Arc::clone(&call.request);
        let old = || partial_hit.clone().with(&missing, &rest, &cache).ok();
        // It is joined once more at the end, and not kept meanwhile.
        if call.caller.cache_directives.limits_age() || old().is_none() {
            return ask(inner, call, forward).await;
        }
        let again = ask(inner, call.with_fallback(true), forward).await;
        return match RefreshOutcome::of(&request, &again) {
            RefreshOutcome::NotTried => old().map_or(again, |old| Ok(joined(old, &rest, Instant::now()))),
            _ => again,
        };
    };
    match usable.with(&missing, &rest, &cache) {
        Ok(assembly) => Ok(joined(assembly, &rest, now)),
        Err(split_error) => {
            tracing::debug!(reason = split_error.as_str(), "a partial answer could not be completed");
            ask(inner, call, forward).await
        }
    }
}

/// A joined answer, with what is known of the answer for the rest.
fn joined(assembly: Assembled, rest: &ServedResponse, now: Instant) -> ServedResponse {
    let whole = assembled(assembly, now);
    ServedResponse {
        may_link: whole.may_link,
        answer: whole.answer,
        age: whole.age,
        outcome: rest.outcome,
        status: Status {
            ttl: rest.status.ttl.and(whole.status.ttl),
            ..rest.status
        },
    }
}

/// Waits for the `list` that other requests have asked for, and answers from it; asks for the
/// entity when it is not in the list, or that is not certain.
async fn ask_for_list(
    inner: Below,
    call: Call,
    forward: ForwardReason,
    list: Request,
    cache: Arc<Cache>,
) -> Result<ServedResponse, BoxError> {
    let for_list = Call {
        request: Arc::new(list),
        caller: Arc::clone(&call.caller),
    }
    .with_fallback(true);
    // An error may concern the list only.
    let (list, listed) = (Arc::clone(&for_list.request), ask(inner.clone(), for_list, forward));
    let listed = listed
        .await
        .ok()
        .filter(|served| served.answer.status == StatusCode::OK);
    let entity = listed.and_then(|served| {
        let body = cache.entity_in(&call.request, &list, &served.answer)?;
        let answer = UpstreamResponse { body, ..served.answer };
        Some(ServedResponse { answer, ..served })
    });
    match entity {
        Some(served) => Ok(served),
        None => ask(inner, call, forward).await,
    }
}

/// Whether a response is Defender's answer to the request. Stored responses are known to be
/// answers.
pub(super) fn is_answer(endpoint: Endpoint, served: &ServedResponse) -> bool {
    served.status.stored || served.outcome == Outcome::Hit || ResponseKind::of(endpoint, &served.answer).is_answer()
}

fn assembled(assembly: Assembled, now: Instant) -> ServedResponse {
    let age = Age {
        age: now.saturating_duration_since(assembly.stored),
        ttl: assembly.ttl,
    };
    stored(assembly.answer, age, Outcome::Hit, Some("assembled"))
}

fn serve(entry: &Entry, now: Instant, outcome: Outcome, detail: Option<&'static str>) -> ServedResponse {
    ServedResponse {
        may_link: entry.may_link(),
        ..stored(entry.answer().clone(), entry.age(now), outcome, detail)
    }
}

fn stored(answer: UpstreamResponse, age: Age, outcome: Outcome, detail: Option<&'static str>) -> ServedResponse {
    ServedResponse {
        may_link: true,
        answer,
        outcome,
        status: Status {
            ttl: Some(age.ttl_seconds()),
            detail,
            ..Status::default()
        },
        age: Some(age.age),
    }
}
