//! The second-level cache and single flight over all replicas, in the store.
//!
//! An answer that one replica got is written to the store, and a replica that does not have it in
//! memory looks it up there before it asks the upstream. The first replica that finds nothing takes
//! a *lease* on the request and asks; the others wait for its answer. When that leader fails or
//! dies, another replica takes the lease.
//!
//! A more urgent request does not wait for the call of a less urgent one that waits for a slot, whose
//! turn may come later than its own: it takes the lease, and the first answer serves both. Once the
//! call has left, as the leader says then, nobody takes the lease, and who waits for the answer
//! waits to the end, also of an attempt that follows soon, as who has joined a call of its own
//! replica.
//!
//! The shared cache never delays a request for long: a request that memory can answer does not come
//! here, a lookup takes at most [`Config::look`], and after a failure the store's circuit breaker
//! is open for a while, during which every replica asks for itself.
//!
//! ```text
//! memory ─ miss ─► lookup ─┬─ answer found ──────────────► served, and inserted into memory
//!                          ├─ nothing: lease taken ──────► asks; the answer is written, the lease ends, followers get an event
//!                          ├─ another has the lease ─────► waits for the event, then looks up again, until the deadline or the stop
//!                          └─ store slow or unreachable ─► asks for itself
//! ```
//!
//! # Times
//!
//! The clocks of replicas differ, so only the store's clock is used: an answer carries the store's
//! time, as its writer knows it from its latest exchange, and its age is computed from the store's
//! time when it is read. Both err by one exchange at most, towards a greater age. A write that
//! arrives late changes nothing, because it names the end of the freshness and not its length.
//!
//! When the store's clock is set back, answers from before it are of the future. They can neither be
//! used nor replaced, so a lookup deletes them.
//!
//! # What is never shared
//!
//! Requests with a caller's own token, answers that a caller or the upstream forbade to store, and
//! secrets. What is written is an answer's status, header fields and body, under a digest of the
//! request. Requests with `no-cache` take the lease where it is free, use no stored answer and wait
//! for no other replica.
//!
//! # Versions
//!
//! The version of the format is part of every key and the first byte of every value. A value that
//! cannot be read is counted and treated as missing.
//!
//! Invariant: whatever the store replies, a request gets the answer that it would get without a
//! store, or a fresh one that another replica got to an equal request.

mod backend;
mod codec;
mod config;
mod follow;
mod lease;
mod metrics;
mod registry;
mod write_queue;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::time::{Instant, sleep_until, timeout};

use crate::BoxError;
use crate::caller::CacheDirectives;
use crate::middleware::{Middleware, Next};
use crate::scan::{self, Call, Endpoint, Request, ResponseKind, ServedResponse, Status};
use crate::store::Event;
use crate::task::Tasks;

pub use codec::{DecodeError, StoreTime, StoredResponse};
pub use config::{Config, Name};
pub use metrics::{Metrics, Snapshot};
pub use write_queue::Publisher;

use backend::{Backend, Found, LookupMode, LookupReply};
use follow::{LookupOutcome, Via, lookup};
use lease::{Lease, LeaseEvent};
use metrics::LookupResult;
use registry::Registry;
use write_queue::{WriteQueue, run_writer};

/// Inserts another replica's answer into this replica's memory.
pub type InsertLocal = Arc<dyn Fn(&Request, &Found) + Send + Sync>;

/// This replica's part of the shared cache. Clones are the same part.
#[derive(Clone, Debug)]
pub struct SharedCache(Arc<Inner>);

struct Inner {
    config: Config,
    backend: Backend,
    registry: Arc<Registry>,
    write_queue: WriteQueue,
    insert_local: InsertLocal,
    metrics: Metrics,
    tasks: Tasks,
}

impl SharedCache {
    /// Starts the background work, as `tasks`. Nothing waits for connections.
    pub fn join(config: Config, insert_local: InsertLocal, tasks: &Tasks, metrics: Metrics) -> Self {
        let (write_queue, jobs) = WriteQueue::new(metrics.clone());
        let inner = Arc::new(Inner {
            backend: Backend::new(config.clone(), tasks, metrics.clone()),
            config,
            registry: Arc::default(),
            write_queue,
            insert_local,
            metrics,
            tasks: tasks.clone(),
        });
        tasks.spawn_upkeep("shared answers: listening", listen(Arc::clone(&inner)));
        tasks.spawn_upkeep_to_end("shared answers: writing", run_writer(Arc::clone(&inner), jobs));
        Self(inner)
    }

    /// Sets the gauge that changes without a lookup: other parts find the store lost and back too.
    pub fn show(&self) {
        self.0.metrics.up.set(self.0.backend.is_up().into());
    }

    /// The state for `/status`.
    pub fn snapshot(&self) -> Snapshot {
        self.0.metrics.snapshot(self.0.backend.is_up())
    }

    /// Looks up one call, for no longer than its caller would wait for a slot.
    async fn lookup(&self, call: &Call) -> LookupOutcome {
        let inner = &self.0;
        let name = inner.config.name(call.request.key());
        if call.caller.cache_directives.no_store {
            // It may use a stored answer. It takes no lease, because its own answer must not be
            // stored for the followers.
            return match inner
                .backend
                .get_or_lease(call.request.endpoint(), &name, None, LookupMode::Answers)
                .await
            {
                LookupReply::Found(found) => LookupOutcome::Found(Arc::new(found), Via::Look),
                _ => LookupOutcome::Alone,
            };
        }
        let lookup = inner.registry.join_lookup(&name, call.caller.urgency, |entry| {
            Box::pin(lookup(
                Arc::clone(inner),
                Arc::clone(&call.request),
                name.clone(),
                entry,
            ))
        });
        // A caller that does not wait for a slot still waits for the store's reply, and so does one
        // that comes when the gateway closes. Who is left then asks alone, and the queue says why
        // there is no slot.
        let reply = Instant::now() + inner.config.look;
        let until = call.caller.deadline.max(reply);
        // Another replica's call that is under way is joined as one of this replica's would be.
        let late = async {
            sleep_until(until).await;
            timeout(inner.config.attempt, inner.registry.waits_for_no_call(&name)).await
        };
        let closed = async {
            inner.config.closed().await;
            sleep_until(reply).await;
        };
        tokio::select! {
            biased;
            outcome = lookup => outcome,
            _ = late => LookupOutcome::Alone,
            () = closed => LookupOutcome::Alone,
        }
    }
}

impl SharedCache {
    /// The lease for a request that wants no stored answer, if this replica has it or can have it:
    /// its answer serves those who ask the same elsewhere. It waits for none of them.
    async fn lead(&self, call: &Call) -> Option<Arc<Lease>> {
        let inner = &self.0;
        if call.caller.cache_directives.no_store {
            return None;
        }
        let name = inner.config.name(call.request.key());
        if let Some(lease) = inner.registry.lease(&name) {
            return Some(lease);
        }
        let (lease, endpoint) = (Lease::new(inner, &name, call.caller.urgency), call.request.endpoint());
        let look = inner
            .backend
            .get_or_lease(endpoint, &name, Some(lease.token()), LookupMode::LeasesOnly);
        match look.await {
            LookupReply::Led => return Some(lease.granted()),
            // The lease may have been granted; dropping it gives it back.
            LookupReply::NoReply | LookupReply::Nothing => {}
            _ => lease.not_granted(),
        }
        None
    }

    /// The answer of another replica to the request of this lease, once there is one that suits.
    async fn found_elsewhere(
        &self,
        lease: &Lease,
        request: &Request,
        wanted: &CacheDirectives,
        came: Instant,
    ) -> Found {
        let inner = &self.0;
        loop {
            lease.answered_elsewhere().await;
            let backend = &inner.backend;
            let look = backend.get_or_lease(request.endpoint(), lease.name(), None, LookupMode::Answers);
            if let LookupReply::Found(found) = look.await
                && found.suits(wanted, came, Instant::now())
            {
                (inner.insert_local)(request, &found);
                return found;
            }
        }
    }
}

/// Listens until the shared cache is dropped.
async fn listen(inner: Arc<Inner>) {
    let (store, channel) = (inner.config.store.clone(), inner.config.channel());
    let listener = Arc::downgrade(&inner);
    let heard = move |event: Event<'_>| {
        let Some(inner) = listener.upgrade() else { return false };
        match event {
            Event::Message(message) => inner.registry.notify(&String::from_utf8_lossy(message)),
            Event::Missed => {
                inner.registry.notify_all();
                // Connects again if necessary, and learns the store's time.
                let asks = Arc::clone(&inner);
                inner
                    .tasks
                    .spawn_upkeep("shared answers: greeting", async move { asks.backend.warm_up().await });
            }
        }
        true
    };
    store.subscribe(channel, heard).await;
}

/// Answers from the store, waits for another replica's call, or calls the service below. `None`
/// shares nothing.
///
/// # Cancel safety
///
/// Dropping the future leaves the lookup to the other requests, and gives the lease back if there
/// are none.
impl Middleware<Call, Next<Call, ServedResponse, BoxError>, ServedResponse, BoxError> for Option<SharedCache> {
    async fn call(&self, call: Call, next: &Next<Call, ServedResponse, BoxError>) -> Result<ServedResponse, BoxError> {
        // Otherwise it is an answer that no other caller may see.
        let may_share = call.request.token_id().is_none();
        let Some(shared_cache) = self.as_ref().filter(|_| may_share) else {
            return next.call(call).await;
        };
        let (came, directives) = (Instant::now(), call.caller.cache_directives);
        let metrics = &shared_cache.0.metrics;
        if directives.no_cache {
            return match shared_cache.lead(&call).await {
                Some(lease) => ended(&lease, call.request.endpoint(), next.call(call).await),
                None => next.call(call).await,
            };
        }
        match shared_cache.lookup(&call).await {
            LookupOutcome::Found(found, via) if found.suits(&directives, came, Instant::now()) => {
                metrics.record_lookup(match via {
                    Via::Look => LookupResult::Hit,
                    Via::Wait => LookupResult::Followed,
                });
                Ok(served(&found, via, Instant::now()))
            }
            LookupOutcome::Led(lease) => {
                metrics.record_lookup(LookupResult::Led);
                let request = Arc::clone(&call.request);
                let result = tokio::select! {
                    biased;
                    result = next.call(call) => result,
                    found = shared_cache.found_elsewhere(&lease, &request, &directives, came) => {
                        // Where it is still this replica's, those who follow it look again.
                        lease.end(LeaseEvent::Completed);
                        return Ok(served(&found, Via::Wait, Instant::now()));
                    }
                };
                ended(&lease, request.endpoint(), result)
            }
            LookupOutcome::Found(..) | LookupOutcome::Alone => {
                metrics.record_lookup(LookupResult::Alone);
                next.call(call).await
            }
        }
    }
}

/// The result of a call that this replica made for all. If its answer was stored, writing it ends
/// the lease. An error, or an answer without rows, may concern this caller only, while the call goes
/// on for the other waiters: the lease ends with the call.
fn ended(
    lease: &Lease,
    endpoint: Endpoint,
    result: Result<ServedResponse, BoxError>,
) -> Result<ServedResponse, BoxError> {
    if let Ok(served) = &result
        && served.answer.status == StatusCode::OK
        && (served.status.stored || ResponseKind::of(endpoint, &served.answer).is_answer())
    {
        lease.end(LeaseEvent::Alone);
    }
    result
}

fn served(found: &Found, via: Via, now: Instant) -> ServedResponse {
    let age = found.age(now);
    let left = found.ttl.saturating_sub(age).as_secs();
    ServedResponse {
        may_link: true,
        answer: found.answer.clone(),
        outcome: match via {
            Via::Look => scan::Outcome::Hit,
            Via::Wait => scan::Outcome::Collapsed,
        },
        status: Status {
            ttl: Some(i64::try_from(left).unwrap_or(i64::MAX)),
            collapsed: via == Via::Wait,
            stored: via == Via::Wait,
            detail: Some("shared"),
            ..Status::default()
        },
        age: Some(age),
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedCache")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Found {
    /// Whether a caller accepts an answer that is wanted since it `came`. It is fresh, but the
    /// caller may have stricter limits (RFC 9111 §5.2.1); none is stricter than a call of its own,
    /// whose answer would be as old.
    fn suits(&self, wanted: &CacheDirectives, came: Instant, now: Instant) -> bool {
        let age = self.age(now);
        let Some(left) = self.ttl.checked_sub(age).filter(|left| !left.is_zero()) else {
            return false;
        };
        let is_young = wanted.max_age.is_none_or(|limit| age <= limit) || self.stored >= came;
        is_young && wanted.min_fresh.is_none_or(|least| left >= least)
    }

    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.stored)
    }
}
