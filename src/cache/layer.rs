//! The cache in front of a service.

use std::fmt;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Either};
use tokio::time::Instant;
use tower::{Service, ServiceExt as _};

use crate::BoxError;
use crate::cache::assembly::Assembled;
use crate::cache::entry::{Age, Entry};
use crate::cache::freshness::{Health, Reason, Verdict, evaluate};
use crate::cache::metrics::Handling;
use crate::cache::partial_hit::Parts;
use crate::cache::refresh_queue::Wanted;
use crate::cache::{Cache, NotCached};
use crate::caller::{Caller, Freshness, Urgency};
use crate::scan::{Call, Endpoint, Forward, Outcome, Payer, Request, ResponseKind, Served, Status};
use crate::task::Tasks;

/// Whether there is quota that nobody will miss, for calls that are paid for so: only then is a stale entry renewed in the
/// background.
pub type HasSpareQuota = Arc<dyn Fn(Payer) -> bool + Send + Sync>;

/// How long a background fetch may wait for its slot. It is made from surplus, so it should not wait at all.
const RENEWAL_WAIT: Duration = Duration::from_secs(1);

/// Puts a [`Cache`] in front of a service.
#[derive(Clone)]
pub struct Layer {
    shared: Arc<Shared>,
}

struct Shared {
    cache: Arc<Cache>,
    tasks: Tasks,
    surplus: HasSpareQuota,
    wanted: Wanted,
}

impl Layer {
    /// A layer over `cache`. Background fetches run as `tasks`, and only while `surplus` says so.
    ///
    /// The service below has to give its answers to the same cache, through [`scan::Keep`](crate::scan::Keep).
    #[must_use]
    pub fn new(cache: Arc<Cache>, tasks: Tasks, surplus: HasSpareQuota) -> Self {
        Self {
            shared: Arc::new(Shared {
                cache,
                tasks,
                surplus,
                wanted: Wanted::default(),
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

impl<S> tower::Layer<S> for Layer {
    type Service = Front<S>;

    fn layer(&self, inner: S) -> Front<S> {
        Front {
            shared: Arc::clone(&self.shared),
            inner,
        }
    }
}

/// Answers from the cache, or asks the service below. It is always ready.
///
/// A hit is a finished future: it is not boxed and never waits.
#[derive(Clone)]
pub struct Front<S> {
    shared: Arc<Shared>,
    inner: S,
}

impl<S> fmt::Debug for Front<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Front")
            .field("cache", &self.shared.cache)
            .finish_non_exhaustive()
    }
}

impl<S> Service<Call> for Front<S>
where
    S: Service<Call, Response = Served, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Served;
    type Error = BoxError;
    type Future = Either<Ready<Result<Served, BoxError>>, BoxFuture<'static, Result<Served, BoxError>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let cache = &self.shared.cache;
        if cache.is_off() {
            return self.forward(call, Forward::Bypass, None, None);
        }
        let now = Instant::now();
        let wanted = &call.caller.freshness;
        cache.note(&call.request, now);
        let found = cache.find(call.request.key(), now);
        let verdict = found.as_ref().map(|entry| {
            let health = if entry.renewal().is_failing() {
                Health::Failing
            } else {
                Health::Good
            };
            evaluate(cache.config(), wanted, entry.age(now), health)
        });
        if let (Some(entry), Some(Verdict::Fresh)) = (&found, verdict) {
            cache.count(Handling::Hit);
            return Either::Left(ready(Ok(serve(entry, now, Outcome::Hit, None))));
        }
        if let Some((answer, list)) = cache.entity_in_list(&call.request, wanted, now) {
            cache.count(Handling::Hit);
            let served = serve(&list, now, Outcome::Hit, Some("list"));
            return Either::Left(ready(Ok(Served { answer, ..served })));
        }
        let parts = Parts::find(cache, &call.request, wanted, now);
        if let Some(assembly) = parts.as_ref().and_then(Parts::whole) {
            cache.count(Handling::Hit);
            if !wanted.no_store {
                cache.keep_assembled(&call.request, &assembly);
            }
            return Either::Left(ready(Ok(assembled(assembly, now))));
        }
        match (found, verdict) {
            (Some(entry), Some(Verdict::Stale(reason))) => {
                cache.count(Handling::Stale);
                let served = serve(&entry, now, Outcome::Stale, reason.detail());
                self.renew(&call, &entry, now);
                Either::Left(ready(Ok(served)))
            }
            (Some(entry), Some(Verdict::InReserve(forward))) => self.forward(call, forward, parts, Some(entry)),
            (_, Some(Verdict::Unusable(forward))) => self.forward(call, forward, parts, None),
            _ => self.forward(call, Forward::Miss, parts, None),
        }
    }
}

impl<S> Front<S>
where
    S: Service<Call, Response = Served, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
{
    fn forward(
        &self,
        call: Call,
        forward: Forward,
        parts: Option<Parts>,
        reserve: Option<Arc<Entry>>,
    ) -> <Self as Service<Call>>::Future {
        let cache = &self.shared.cache;
        if call.caller.freshness.only_if_cached {
            cache.count(Handling::NotCached);
            return Either::Left(ready(Err(NotCached.into())));
        }
        let partial = parts.and_then(|parts| parts.missing().map(|missing| (parts, missing)));
        cache.count(match forward {
            _ if partial.is_some() => Handling::Partial,
            Forward::Miss => Handling::Miss,
            Forward::Stale => Handling::Expired,
            Forward::Request => Handling::Request,
            Forward::Partial => Handling::Partial,
            Forward::Bypass => Handling::Bypass,
        });
        let (inner, endpoint) = (self.inner.clone(), call.request.endpoint());
        let asked = match partial {
            Some((parts, missing)) => ask_for_missing(inner, call, forward, parts, missing, Arc::clone(cache)).boxed(),
            None => ask(inner, call, forward).boxed(),
        };
        Either::Right(match reserve {
            Some(entry) => self.with_reserve(endpoint, asked, entry).boxed(),
            None => asked,
        })
    }

    /// Falls back on a stale entry when no better answer can be had.
    fn with_reserve(
        &self,
        endpoint: Endpoint,
        asked: BoxFuture<'static, Result<Served, BoxError>>,
        entry: Arc<Entry>,
    ) -> impl Future<Output = Result<Served, BoxError>> + Send + use<S> {
        let shared = Arc::clone(&self.shared);
        let attempt = RefreshGuard::begin(&entry, Instant::now());
        async move {
            let result = asked.await;
            let now = Instant::now();
            let failed = has_failed(endpoint, &result);
            if let Some(attempt) = attempt {
                attempt.finish(failed, now);
            }
            if failed && entry.age(now).staleness() <= shared.cache.config().stale_if_error {
                if let Err(error) = &result {
                    tracing::debug!(%error, "a stale answer stands in for one that could not be had");
                }
                shared.cache.count(Handling::Stale);
                return Ok(serve(&entry, now, Outcome::Stale, Reason::IfError.detail()));
            }
            result
        }
    }

    /// If there is quota to spare, fetches a new answer in the background: to this question, or to one that has waited for longer.
    fn renew(&self, call: &Call, entry: &Arc<Entry>, now: Instant) {
        let Shared { wanted, surplus, .. } = &*self.shared;
        if entry.renewal().is_due(now) {
            wanted.note(call, entry.fresh_until());
        }
        let payer = call.request.payer();
        if !surplus(payer) {
            return;
        }
        while let Some(call) = wanted.next(payer) {
            // It may have been renewed, or dropped, since it was wanted.
            let stale = |entry: &Arc<Entry>| entry.age(now).remaining().is_none();
            if let Some(entry) = self.shared.cache.find(call.request.key(), now).filter(stale)
                && let Some(attempt) = RefreshGuard::begin(&entry, now)
            {
                self.fetch(&call, attempt, now);
                return;
            }
        }
    }

    fn fetch(&self, call: &Call, attempt: RefreshGuard, now: Instant) {
        let call = Call {
            request: Arc::clone(&call.request),
            caller: Arc::new(Caller {
                urgency: Urgency::LAST,
                deadline: now + RENEWAL_WAIT,
                wait: None,
                freshness: Freshness::default(),
                ..Caller::clone(&call.caller)
            }),
        };
        let endpoint = call.request.endpoint();
        let asked = self.inner.clone().oneshot(call);
        self.shared.tasks.spawn("cache renewal", async move {
            let result = asked.await;
            if let Err(error) = &result {
                tracing::debug!(%error, "a stale entry could not be renewed");
            }
            attempt.finish(has_failed(endpoint, &result), Instant::now());
        });
    }
}

/// The right to renew an entry. Dropped without a result, it goes back.
struct RefreshGuard {
    entry: Arc<Entry>,
    finished: bool,
}

impl RefreshGuard {
    fn begin(entry: &Arc<Entry>, now: Instant) -> Option<Self> {
        entry.renewal().begin(now).then(|| Self {
            entry: Arc::clone(entry),
            finished: false,
        })
    }

    fn finish(mut self, failed: bool, now: Instant) {
        if failed {
            self.entry.renewal().fail(now, rand::random());
            self.finished = true;
        }
        // A good answer has taken the entry's place; if it was not kept, the next renewal may try again.
    }
}

impl Drop for RefreshGuard {
    fn drop(&mut self) {
        if !self.finished {
            self.entry.renewal().cancel(Instant::now());
        }
    }
}

fn has_failed(endpoint: Endpoint, result: &Result<Served, BoxError>) -> bool {
    match result {
        Ok(served) => !is_answer(endpoint, served),
        Err(_) => true,
    }
}

/// Whether what came is an answer of Defender's to the question. Only answers are stored: of those it is known already.
fn is_answer(endpoint: Endpoint, served: &Served) -> bool {
    served.status.stored || served.outcome == Outcome::Hit || ResponseKind::of(endpoint, &served.answer).is_answer()
}

async fn ask<S>(inner: S, call: Call, forward: Forward) -> Result<Served, BoxError>
where
    S: Service<Call, Response = Served, Error = BoxError>,
{
    let mut served = inner.oneshot(call).await?;
    // What was found below us was a hit all the same.
    if served.outcome != Outcome::Hit {
        served.status.forward = Some(forward);
    }
    Ok(served)
}

/// Asks for the ids that are missing and puts the answer together; asks for all of them when that is not certain to be right.
async fn ask_for_missing<S>(
    inner: S,
    call: Call,
    forward: Forward,
    parts: Parts,
    missing: Request,
    cache: Arc<Cache>,
) -> Result<Served, BoxError>
where
    S: Service<Call, Response = Served, Error = BoxError> + Clone,
{
    let missing = Arc::new(missing);
    let part = Call {
        request: Arc::clone(&missing),
        caller: Arc::clone(&call.caller),
    };
    let rest = ask(inner.clone(), part, Forward::Partial).await?;
    if !is_answer(missing.endpoint(), &rest) {
        // It would not be better for more ids.
        return Ok(rest);
    }
    match parts.with(&missing, &rest, &cache) {
        Ok(assembly) => {
            let now = Instant::now();
            let whole = assembled(assembly, now);
            Ok(Served {
                may_link: whole.may_link,
                answer: whole.answer,
                age: whole.age,
                outcome: rest.outcome,
                status: Status {
                    ttl: rest.status.ttl.and(whole.status.ttl),
                    ..rest.status
                },
            })
        }
        Err(split_error) => {
            tracing::debug!(reason = split_error.as_str(), "a partial answer could not be completed");
            ask(inner, call, forward).await
        }
    }
}

fn assembled(assembly: Assembled, now: Instant) -> Served {
    let age = Age {
        age: now.saturating_duration_since(assembly.stored),
        ttl: assembly.ttl,
    };
    Served {
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

fn serve(entry: &Entry, now: Instant, outcome: Outcome, detail: Option<&'static str>) -> Served {
    let age = entry.age(now);
    Served {
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
