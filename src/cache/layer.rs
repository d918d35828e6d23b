//! The tower layer and service of the cache.

use std::fmt;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Either};
use tokio::time::Instant;
use tower::Service;

use crate::BoxError;
use crate::attempt::{Delivery, Failure};
use crate::cache::Cache;
use crate::cache::assembly::Assembled;
use crate::cache::entity::ListsUnderWay;
use crate::cache::entry::{Age, Entry, RefreshGuard, RefreshOutcome};
use crate::cache::fetch::{Below, ask, ask_for_list, ask_for_missing};
use crate::cache::freshness::{Evaluation, RefreshHealth, StaleReason, evaluate};
use crate::cache::metrics::Lookup;
use crate::cache::partial_hit::PartialHit;
use crate::cache::refresh_queue::RefreshQueue;
use crate::caller::{CacheDirectives, Caller, Urgency};
use crate::scan::{Call, Endpoint, ForwardReason, Outcome, Payer, ResponseKind, ServedResponse, Status};
use crate::task::Tasks;
use crate::telemetry::log;

/// Whether a payer has quota to spare. Only then are stale entries refreshed in the background,
/// except after a failure.
pub type HasSpareQuota = Arc<dyn Fn(Payer) -> bool + Send + Sync>;

/// How long a background refresh from spare quota may wait for its slot. It should not have to wait
/// at all.
const REFRESH_WAIT: Duration = Duration::from_secs(1);

/// Puts a [`Cache`] in front of a service.
#[derive(Clone)]
pub struct Layer {
    shared: Arc<Shared>,
}

struct Shared {
    cache: Arc<Cache>,
    tasks: Tasks,
    has_spare_quota: HasSpareQuota,
    refresh_queue: RefreshQueue,
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
                tasks,
                has_spare_quota,
                refresh_queue: RefreshQueue::default(),
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
            if !directives.no_store {
                cache.insert_assembled(&call.request, &assembly);
            }
            return Either::Left(ready(Ok(assembled(assembly, now))));
        }
        match (found, evaluation) {
            (Some(entry), Some(Evaluation::Stale(reason))) => {
                cache.count(Lookup::Stale);
                let served = serve(&entry, now, Outcome::Stale, reason.detail());
                self.refresh(&call, &entry, reason, now);
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
        let lookup = match forward {
            _ if partial.is_some() => Lookup::Partial,
            ForwardReason::Miss => Lookup::Miss,
            ForwardReason::Stale => Lookup::Expired,
            ForwardReason::Request => Lookup::Request,
            ForwardReason::Partial => Lookup::Partial,
            ForwardReason::Bypass => Lookup::Bypass,
        };
        let (inner, endpoint) = (self.inner.clone(), call.request.endpoint());
        let lists = &self.shared.lists;
        let may_wait = forward != ForwardReason::Bypass && cache.form(endpoint).is_some();
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
        Either::Right(self.with_fallback(endpoint, asked, entry, lookup).boxed())
    }

    /// Serves a stale entry when no better answer can be fetched.
    fn with_fallback(
        &self,
        endpoint: Endpoint,
        asked: BoxFuture<'static, Result<ServedResponse, BoxError>>,
        entry: Arc<Entry>,
        lookup: Lookup,
    ) -> impl Future<Output = Result<ServedResponse, BoxError>> + Send + use<> {
        let shared = Arc::clone(&self.shared);
        let guard = RefreshGuard::begin(&entry, Instant::now());
        let cache = Arc::clone(&shared.cache);
        let mut counted = CountedOnDrop { cache, lookup };
        async move {
            let result = asked.await;
            let now = Instant::now();
            let outcome = refresh_outcome(endpoint, &result);
            if let Some(guard) = guard {
                guard.finish(outcome, now);
            }
            if outcome != RefreshOutcome::Answered && entry.age(now).staleness() <= shared.cache.config().stale_if_error
            {
                if let Err(error) = &result {
                    tracing::debug!(%error, "a stale answer stands in for one that could not be had");
                }
                counted.becomes(Lookup::Stale);
                return Ok(serve(&entry, now, Outcome::Stale, StaleReason::IfError.detail()));
            }
            result
        }
    }

    /// If there is spare quota, fetches a new answer in the background: for this request, or for
    /// one whose answer has been stale for longer. Without it, after a failure, the request's own
    /// call finds out whether there are answers again; nobody waits for it.
    fn refresh(&self, call: &Call, entry: &Arc<Entry>, reason: StaleReason, now: Instant) {
        let Shared {
            refresh_queue,
            has_spare_quota,
            ..
        } = &*self.shared;
        if entry.refresh_state().is_due(now) {
            refresh_queue.push(call, entry.fresh_until());
        }
        let payer = call.request.payer();
        if !has_spare_quota(payer) {
            if reason == StaleReason::IfError
                && let Some(guard) = RefreshGuard::begin(entry, now)
            {
                self.refresh_in_background(call, Caller::clone(&call.caller), guard);
            }
            return;
        }
        while let Some(call) = refresh_queue.pop_stalest(payer) {
            let cache = &self.shared.cache;
            // The entry may have been refreshed or removed since it was queued, or the rows of its
            // ids may have come with another call.
            let stale = |entry: &Arc<Entry>| entry.age(now).remaining().is_none();
            if let Some(entry) = cache.find(call.request.key(), now).filter(stale)
                && !PartialHit::find(cache, &call.request, &CacheDirectives::default(), now)
                    .is_some_and(|partial_hit| partial_hit.is_whole())
                && let Some(guard) = RefreshGuard::begin(&entry, now)
            {
                let caller = Caller {
                    urgency: Urgency::LAST,
                    deadline: now + REFRESH_WAIT,
                    wait: None,
                    ..Caller::clone(&call.caller)
                };
                self.refresh_in_background(&call, caller, guard);
                return;
            }
        }
    }

    fn refresh_in_background(&self, call: &Call, caller: Caller, guard: RefreshGuard) {
        let call = Call {
            request: Arc::clone(&call.request),
            caller: Arc::new(Caller {
                cache_directives: CacheDirectives::default(),
                ..caller
            }),
        };
        let endpoint = call.request.endpoint();
        let asked = self.inner.call(call);
        self.shared.tasks.spawn("cache renewal", async move {
            let result = asked.await;
            if let Err(error) = &result {
                tracing::debug!(%error, "a stale entry could not be renewed");
            }
            guard.finish(refresh_outcome(endpoint, &result), Instant::now());
        });
    }
}

/// A request whose lookup is counted when it is known what answers it, or when its caller leaves.
struct CountedOnDrop {
    cache: Arc<Cache>,
    lookup: Lookup,
}

impl CountedOnDrop {
    fn becomes(&mut self, lookup: Lookup) {
        self.lookup = lookup;
    }
}

impl Drop for CountedOnDrop {
    fn drop(&mut self) {
        self.cache.count(self.lookup);
    }
}

fn refresh_outcome(endpoint: Endpoint, result: &Result<ServedResponse, BoxError>) -> RefreshOutcome {
    match result {
        Ok(served) if is_answer(endpoint, served) => RefreshOutcome::Answered,
        Ok(_) => RefreshOutcome::Failed,
        Err(error) => match log::causes(error.as_ref()).find_map(|cause| cause.downcast_ref::<Failure>()) {
            Some(failure) if failure.delivery != Delivery::NoSlot => RefreshOutcome::Failed,
            _ => RefreshOutcome::NotTried,
        },
    }
}

/// Whether a response is Defender's answer to the request. Stored responses are known to be
/// answers.
pub(super) fn is_answer(endpoint: Endpoint, served: &ServedResponse) -> bool {
    served.status.stored || served.outcome == Outcome::Hit || ResponseKind::of(endpoint, &served.answer).is_answer()
}

pub(super) fn assembled(assembly: Assembled, now: Instant) -> ServedResponse {
    let age = Age {
        age: now.saturating_duration_since(assembly.stored),
        ttl: assembly.ttl,
    };
    ServedResponse {
        may_link: true,
        answer: assembly.answer,
        outcome: Outcome::Hit,
        status: Status {
            ttl: Some(age.ttl_seconds()),
            detail: Some("assembled"),
            ..Status::default()
        },
        age: Some(age.age),
    }
}

fn serve(entry: &Entry, now: Instant, outcome: Outcome, detail: Option<&'static str>) -> ServedResponse {
    let age = entry.age(now);
    ServedResponse {
        may_link: entry.may_link(),
        answer: entry.answer().clone(),
        outcome,
        status: Status {
            ttl: Some(age.ttl_seconds()),
            detail,
            ..Status::default()
        },
        age: Some(age.age),
    }
}

/// The caller wanted a stored answer or none (`only-if-cached`), and no stored answer may be
/// served. RFC 9111 §5.2.1.7 asks for status 504.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no stored answer may be served, and only a stored one was wanted")]
pub struct NotCached;
