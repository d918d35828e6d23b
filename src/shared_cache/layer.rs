//! The service that looks for other replicas' answers.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{BoxFuture, Either};
use http::StatusCode;
use tokio::time::{Instant, sleep_until};
use tower::{Service, ServiceExt as _};

use super::backend::{Backend, Found, LookupMode, LookupReply};
use super::lookup::{Outcome, Via, lookup};
use super::metrics::Lookup;
use super::registry::{LookupRole, Registry};
use super::subscriber::listen;
use super::waiters::{LeaseEvent, Waiters};
use super::write_queue::{WriteQueue, deliver};
use super::{Config, Metrics};
use crate::BoxError;
use crate::scan::{self, Answer, Call, Request, ResponseKind, Served, Status};
use crate::task::Tasks;

/// When an answer was asked for and came, in this process's time, and for how long from then on it is fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// When the call left.
    pub asked: Instant,
    /// When its answer came.
    pub stored: Instant,
    /// How long it is fresh from then on.
    pub ttl: Duration,
}

/// Puts an answer of another replica into this one's memory.
pub type InsertLocal = Arc<dyn Fn(&Request, &Freshness, &Answer) + Send + Sync>;

/// This process as one of the fleet. Clones are the same member.
#[derive(Clone, Debug)]
pub struct SharedCache(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) config: Config,
    pub(super) backend: Backend,
    pub(super) registry: Arc<Registry>,
    pub(super) waiters: Arc<Waiters>,
    pub(super) write_queue: WriteQueue,
    pub(super) adopt: InsertLocal,
    pub(super) metrics: Metrics,
    pub(super) tasks: Tasks,
}

impl SharedCache {
    /// Joins. Connecting and listening go on in the background, as `tasks`; nothing waits for them.
    #[must_use]
    pub fn join(config: Config, adopt: InsertLocal, tasks: &Tasks, metrics: Metrics) -> Self {
        let (write_queue, parcels) = WriteQueue::new(metrics.clone());
        let inner = Arc::new(Inner {
            backend: Backend::new(config.clone(), tasks, metrics.clone()),
            config,
            registry: Arc::default(),
            waiters: Arc::default(),
            write_queue,
            adopt,
            metrics,
            tasks: tasks.clone(),
        });
        tasks.spawn_upkeep("shared answers: listening", listen(Arc::clone(&inner)));
        tasks.spawn("shared answers: writing", deliver(Arc::clone(&inner), parcels));
        Self(inner)
    }

    /// What `/status` shows.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let metrics = &self.0.metrics;
        Snapshot {
            up: self.0.backend.is_up(),
            hits: metrics.looked_up(Lookup::Hit),
            followed: metrics.looked_up(Lookup::Followed),
            led: metrics.looked_up(Lookup::Led),
            alone: metrics.looked_up(Lookup::Alone),
            written: metrics.written(),
            unreadable: metrics.unreadable(),
        }
    }

    /// The outcome for one call, waited for no longer than its caller would wait for a slot.
    async fn lookup(&self, call: &Call) -> Outcome {
        let inner = &self.0;
        let name = inner.config.name(call.request.key());
        if call.caller.freshness.no_store {
            // It may take what is there, but others would wait in vain for what it gets.
            return match inner
                .backend
                .look(call.request.endpoint(), &name, None, LookupMode::Answers)
                .await
            {
                LookupReply::Found(found) => Outcome::Found(Arc::new(found), Via::Look),
                _ => Outcome::Alone,
            };
        }
        let standing = inner.registry.stand(call.request.key(), |entry| {
            Box::pin(lookup(Arc::clone(inner), Arc::clone(&call.request), name, entry))
        });
        let lookup = match standing {
            LookupRole::Led(lease) => return Outcome::Led(lease),
            LookupRole::Asking(lookup) => lookup,
        };
        // Who would not wait at all for a slot still gives the store the time to say what it has.
        let until = call.caller.deadline.max(Instant::now() + inner.config.look);
        tokio::select! {
            biased;
            outcome = lookup => outcome,
            () = sleep_until(until) => Outcome::Alone,
        }
    }
}

/// What sharing has done so far, for `/status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Whether answers are being shared; not while the store is left alone after a failure.
    pub up: bool,
    /// Requests answered by what was in the store.
    pub hits: u64,
    /// Requests answered by a call that another replica was making.
    pub followed: u64,
    /// Requests for which this replica asked, for all.
    pub led: u64,
    /// Requests for which it asked for itself.
    pub alone: u64,
    /// Answers written.
    pub written: u64,
    /// Values in the store that could not be used.
    pub unreadable: u64,
}

/// Puts the fleet in front of a service.
#[derive(Clone, Debug)]
pub struct Layer(Option<SharedCache>);

impl Layer {
    /// Answers of others are had through `member`.
    #[must_use]
    pub fn new(member: SharedCache) -> Self {
        Self(Some(member))
    }

    /// This process shares nothing.
    #[must_use]
    pub fn off() -> Self {
        Self(None)
    }
}

impl<S> tower::Layer<S> for Layer {
    type Service = SharedCacheService<S>;

    fn layer(&self, inner: S) -> SharedCacheService<S> {
        SharedCacheService {
            member: self.0.clone(),
            inner,
        }
    }
}

/// Answers from the store, or waits for another replica's call, or asks the service below, which must be always ready.
#[derive(Clone, Debug)]
pub struct SharedCacheService<S> {
    member: Option<SharedCache>,
    inner: S,
}

impl<S> Service<Call> for SharedCacheService<S>
where
    S: Service<Call, Response = Served, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Served;
    type Error = BoxError;
    type Future = Either<S::Future, BoxFuture<'static, Result<Served, BoxError>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    /// # Cancel safety
    ///
    /// Dropping the future leaves the look to the others, and gives a lease back if there are none.
    fn call(&mut self, call: Call) -> Self::Future {
        // An answer to a later question is wanted, or one that nobody else may see.
        let own = call.caller.freshness.no_cache || call.request.holder().is_some();
        match &self.member {
            Some(member) if !own => Either::Right(Box::pin(run(member.clone(), self.inner.clone(), call))),
            _ => Either::Left(self.inner.call(call)),
        }
    }
}

async fn run<S>(member: SharedCache, below: S, call: Call) -> Result<Served, BoxError>
where
    S: Service<Call, Response = Served, Error = BoxError>,
{
    let metrics = &member.0.metrics;
    match member.lookup(&call).await {
        Outcome::Found(found, means) if found.suits(&call.caller.freshness, Instant::now()) => {
            metrics.looked(match means {
                Via::Look => Lookup::Hit,
                Via::Wait => Lookup::Followed,
            });
            Ok(served(&found, means, Instant::now()))
        }
        Outcome::Led(lease) => {
            metrics.looked(Lookup::Led);
            let endpoint = call.request.endpoint();
            let result = below.oneshot(call).await;
            // What was kept has ended the lease when it was written. An error may be this caller's only: the call goes on for others.
            if let Ok(served) = &result {
                let is_rows = served.answer.status == StatusCode::OK
                    && (served.status.stored || ResponseKind::of(endpoint, &served.answer).is_answer());
                lease.end(if is_rows { LeaseEvent::Alone } else { LeaseEvent::Failed });
            }
            result
        }
        Outcome::Found(..) | Outcome::Alone => {
            metrics.looked(Lookup::Alone);
            below.oneshot(call).await
        }
    }
}

fn served(found: &Found, means: Via, now: Instant) -> Served {
    let age = found.age(now);
    let left = found.ttl.saturating_sub(age).as_secs();
    Served {
        may_link: true,
        answer: found.answer.clone(),
        outcome: match means {
            Via::Look => scan::Outcome::Hit,
            Via::Wait => scan::Outcome::Collapsed,
        },
        status: Status {
            ttl: Some(i64::try_from(left).unwrap_or(i64::MAX)),
            collapsed: means == Via::Wait,
            stored: means == Via::Wait,
            detail: Some("shared"),
            ..Status::default()
        },
        age: Some(age),
    }
}

impl Found {
    pub(super) fn life(&self) -> Freshness {
        Freshness {
            asked: self.asked,
            stored: self.stored,
            ttl: self.ttl,
        }
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
