//! The whole path of a request, one layer per line.
//!
//! Read from the top, it is the way in: HTTP at first, typed requests from `read` on, attempts from
//! `retry` on, charged ones below `quota`.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::Response;
use hyper::body::Incoming;
use tokio::time::Instant;
use tower::{Service, ServiceBuilder};

use crate::caller::{Name, Urgency};
use crate::middleware::{Next, layer};
use crate::response::Body;
use crate::telemetry::trace;
use crate::{
    app, attempt, cache, queue, quota, region, response, server, shared_cache, single_flight, token, upstream,
};

/// The layers, ready to be stacked. Each part is built by `app`; nothing is configured here.
pub struct Parts {
    /// Puts requests into traces.
    pub trace: trace::Tracer,
    /// Counts and logs.
    pub access_log: server::access_log::Layer,
    /// Writes answers.
    pub respond: response::Layer,
    /// Rejects requests that are not addressed to this gateway.
    pub guard: server::guard::Guard,
    /// Parses bodies and header fields.
    pub read: server::read::Layer,
    /// The limit of requests that each caller may make.
    pub fair_use: queue::CallerLimitLayer,
    /// Answers in memory.
    pub cache: cache::Layer,
    /// Memory for requests that were not answered from memory.
    pub request_memory: app::RequestMemory,
    /// Answers and calls of other replicas.
    pub shared_cache: Option<shared_cache::SharedCache>,
    /// One call for equal requests.
    pub single_flight: single_flight::SingleFlight,
    /// The fair queue of each token.
    pub token_limiters: app::TokenLimiters,
    /// Ends the charge of each attempt, whatever becomes of it.
    pub quota: quota::Charging,
    /// Picks the nearest working host.
    pub region: region::HostSelector,
    /// The access token.
    pub token: token::TokenSource,
    /// The call itself.
    pub client: upstream::Client,
}

/// Puts the layers in order.
pub fn build(
    parts: Parts,
) -> impl Service<server::InboundRequest<Incoming>, Response = Response<Body>, Error = Infallible, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static {
    let paid = ServiceBuilder::new()
        // Above the queue, so that a second attempt waits for its own slot, at its old place.
        .layer(layer(upstream::Retry))
        // Above the quota: a slot is bound to the request whose turn it is when the slot is there.
        // A caller's own token has its own queue.
        .layer(layer(parts.token_limiters))
        // Above everything that can fail on the way: the charge ends here in any case, and a 429
        // pauses all calls.
        .layer(layer(parts.quota))
        // Below the quota: if a host has provably processed nothing, the next one is tried with the
        // same slot.
        .layer(layer(parts.region))
        // Below the region: a token is attached to the attempt that it was checked for, and a 401
        // is attributed to the right token.
        .layer(layer(parts.token))
        .service(Next::new(parts.client));

    let forwarding = ServiceBuilder::new()
        // Below the cache: a hit never waits, so it takes no memory. Above every layer where a
        // request may wait once it is read.
        .layer(layer(parts.request_memory))
        // Below memory, which the store must not slow down; above the flights, because a lease
        // belongs to a request, whatever calls it becomes part of.
        .layer(layer(parts.shared_cache))
        // Above the attempts: equal requests share all of them, retries included.
        .layer(layer(parts.single_flight))
        .service(paid);

    let history = ServiceBuilder::new()
        // Above the cache: this limit counts requests and not calls.
        .layer(parts.fair_use)
        // Above the flights: a hit needs neither a flight nor a slot.
        .layer(parts.cache)
        .service(forwarding);

    ServiceBuilder::new()
        // Outside of everything that takes time; above `access_log`, whose log lines contain the
        // trace.
        .layer(server::trace::layer(parts.trace))
        // Outside of `response`, to count the responses that callers really get.
        .layer(parts.access_log)
        // The one place that turns errors and panics into responses.
        .layer(parts.respond)
        // Before anything is parsed: requests that are not meant for us cost nothing.
        .filter(parts.guard)
        // Before the body: a wrong path or method costs no memory.
        .layer(server::route::layer())
        // The last layer that sees HTTP.
        .layer(parts.read)
        .service(history)
}

/// The one connection between two parts: the queue gets its slots from the quota.
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

    fn demand(&self, flows: &dyn attempt::FlowOrder) {
        quota::Quota::demand(self, flows);
    }

    fn shared_order(&self) -> Option<Arc<attempt::SharedOrder>> {
        quota::Quota::shared_order(self)
    }

    fn granted_to(&self, permit: &quota::Permit) -> Option<(Urgency, Name)> {
        permit.granted_to()
    }

    fn unavailable_for(&self) -> Option<Duration> {
        quota::Quota::unavailable_for(self)
    }

    fn next_timeout(&self) -> Option<Instant> {
        quota::Quota::next_timeout(self)
    }
}
