//! The whole path of a request, one layer per line.
//!
//! Read from the top: that is the way in. HTTP outside, typed questions from `read` on, paid attempts from `retry` on.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Response;
use hyper::body::Incoming;
use tokio::time::Instant;
use tower::layer::layer_fn;
use tower::util::Oneshot;
use tower::{Service, ServiceBuilder, ServiceExt as _};

use crate::caller::{Name, Urgency};
use crate::response::Body;
use crate::{
    BoxError, app, attempt, cache, queue, quota, region, response, scan, server, shared_cache, single_flight, token,
    upstream,
};

/// The layers, made and waiting to be put in order. Each part is built by `app`; nothing is configured here.
#[derive(Debug)]
pub struct Parts {
    /// Puts requests into traces.
    pub trace: server::trace::Layer,
    /// Counts and logs.
    pub count: server::count::Layer,
    /// Writes answers.
    pub respond: response::Layer,
    /// Keeps out what is not addressed to us.
    pub guard: server::guard::Layer,
    /// Reads bodies and fields.
    pub read: server::read::Layer,
    /// The fair-use limit per caller.
    pub fair_use: queue::FairUseLayer,
    /// Answers in memory.
    pub cache: cache::Layer,
    /// Memory for those that were not answered from memory.
    pub request_memory: app::RequestMemoryLayer,
    /// Answers and calls of other replicas.
    pub shared_cache: shared_cache::Layer,
    /// One call for many.
    pub single_flight: single_flight::Layer,
    /// Whose turn it is, with which token.
    pub token_limiters: app::LaneLayer,
    /// Pays for each attempt.
    pub quota: quota::Layer,
    /// The nearest host that works.
    pub region: region::RegionLayer,
    /// The access token.
    pub token: token::Layer,
    /// The call itself.
    pub client: upstream::Client,
}

/// What a question goes through that was not answered from memory. Copying it copies one pointer; it is really copied for those that go
/// through.
#[derive(Clone)]
struct Forwarding(Arc<Forward>);

type Forward = dyn Fn(scan::Call) -> BoxFuture<'static, Result<scan::Served, BoxError>> + Send + Sync;

impl Forwarding {
    fn new<S>(service: S) -> Self
    where
        S: Service<scan::Call, Response = scan::Served, Error = BoxError> + Clone + Send + Sync + 'static,
        S::Future: Send,
    {
        Self(Arc::new(move |call| Box::pin(service.clone().oneshot(call))))
    }
}

impl Service<scan::Call> for Forwarding {
    type Response = scan::Served;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<scan::Served, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // The copy is asked.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: scan::Call) -> Self::Future {
        (self.0)(call)
    }
}

/// Puts the layers in order.
#[must_use]
pub fn build(
    parts: Parts,
) -> impl Service<server::InboundRequest<Incoming>, Response = Response<Body>, Error = Infallible, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static {
    let paid = ServiceBuilder::new()
        .layer(layer_fn(Seldom::new))
        // Above the queue, so that a second attempt waits for its own slot, in its old place.
        .layer(upstream::RetryLayer)
        // Above the quota: a slot is bound to whoever's turn it is when it is there, not before. A caller's own token has its own queue.
        .layer(parts.token_limiters)
        // Above everything that can fail on the way: the charge ends here whatever happened, and a 429 pauses all.
        .layer(parts.quota)
        // The layers above copy what is below them at every step.
        .layer(layer_fn(Seldom::new))
        // Below the quota: a host that has provably processed nothing is followed by the next one, with the same slot.
        .layer(parts.region)
        // Below the region: a token is attached to the very attempt it is checked by, and a 401 is blamed on the right token.
        .layer(parts.token)
        .service(parts.client);

    let forwarding = ServiceBuilder::new()
        // Below the cache: a hit waits for nothing, so it takes none. In front of everything where a request may wait.
        .layer(parts.request_memory)
        // Below memory, which the store must not slow down; above the flights: a lease is on a question, whatever calls it becomes part of.
        .layer(parts.shared_cache)
        // Above the attempts: whoever asks the same shares them all, retries included.
        .layer(parts.single_flight)
        .service(paid);
    // The type of everything below would be named in every future above; one box keeps compile times and stack frames small.
    let forwarding = Forwarding::new(forwarding);

    let questions = ServiceBuilder::new()
        // In front of the cache: fair use counts requests, not calls.
        .layer(parts.fair_use)
        // In front of the flights: a hit costs neither a task nor a slot.
        .layer(parts.cache)
        // Below the cache: requests answered from memory do not pay for copies of what they do not pass through.
        .service(forwarding);

    ServiceBuilder::new()
        // Outside of all that takes time; before `count`, whose log lines name the trace.
        .layer(parts.trace)
        // Outside of `response`: counts what callers really got.
        .layer(parts.count)
        // The one place that turns an error into an answer, and a panic too.
        .layer(parts.respond)
        // Before anything is read: who is not meant for us gets nothing for free.
        .layer(parts.guard)
        // Before the body: a wrong path or method costs no memory.
        .layer(server::route::Layer)
        // The last layer that sees HTTP.
        .layer(parts.read)
        .service(questions)
}

/// A service that is copied more often than it is called. Copying it copies one pointer; it is really copied for those that go through.
#[derive(Clone, Debug)]
struct Seldom<S>(Arc<S>);

impl<S> Seldom<S> {
    fn new(service: S) -> Self {
        Self(Arc::new(service))
    }
}

impl<S, R> Service<R> for Seldom<S>
where
    S: Service<R> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Oneshot<S, R>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // The copy is asked.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> Self::Future {
        S::clone(&self.0).oneshot(request)
    }
}

/// The one seam between two parts: the queue takes its slots from the quota.
impl queue::PermitSource for quota::Quota {
    type Permit = quota::Permit;

    fn take(&self, now: Instant) -> Result<quota::Permit, Option<Instant>> {
        quota::Quota::take(self, now)
    }

    fn forecast(&self, now: Instant, count: usize, slots: &mut VecDeque<Instant>) {
        quota::Quota::forecast(self, now, count, slots);
    }

    fn version(&self) -> u64 {
        quota::Quota::version(self)
    }

    fn changed(&self) -> impl Future<Output = ()> + Send {
        quota::Quota::changed(self)
    }

    fn demand(&self, demand: attempt::Demand<'_>) {
        quota::Quota::demand(self, demand);
    }

    fn shared_order(&self) -> Option<Arc<attempt::SharedOrder>> {
        quota::Quota::shared_order(self)
    }

    fn granted_to(&self, permit: &quota::Permit) -> Option<(Urgency, Name)> {
        permit.granted_to()
    }

    fn rivals(&self) -> usize {
        quota::Quota::rivals(self)
    }

    fn lost(&self) -> Option<Duration> {
        quota::Quota::lost(self)
    }

    fn next_timeout(&self) -> Option<Instant> {
        quota::Quota::next_timeout(self)
    }
}
