//! The client with pooled connections.

use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use tokio::time::{Instant, sleep, timeout_at};
use tower::util::BoxCloneSyncService;

use crate::memory::MemoryBudget;
use crate::net::collect::Collector;
use crate::net::connection::{Connection, Refusal};
use crate::net::pool::{Host, Pool};
use crate::net::{Config, Connector, Error, Exchange, Kind, Resolver, SetupError};

/// A body that has received this much since the last check has made progress. A host that sends a
/// byte now and then sends less.
const PROGRESS_BYTES: usize = 4 * 1024;

/// The pauses before a request that was provably not processed is sent again. If the host refuses
/// it once more after them, the refusal is returned.
const RETRY_DELAYS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(50), Duration::from_millis(200)];

/// An exchange that ends so long after its limit shows that the gateway itself stood still, and
/// nothing about the host.
const STANDSTILL: Duration = Duration::from_secs(1);

/// Sends requests over pooled connections: rustls, HTTP/2 where it is offered, redirects never
/// followed. Clones share the pool.
///
/// Idle connections are bounded in number and age, dead ones are noticed by pings, keep-alive
/// probes and timeouts, and a connection on which an answer failed to arrive takes no further
/// request.
#[derive(Clone)]
pub struct Client {
    pool: Pool,
    large_bodies: Option<Arc<MemoryBudget>>,
}

/// The limits of one exchange. Connecting has its own limit, [`Config::connect_timeout`], which is
/// added.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest time from a ready connection to the head of the answer.
    pub head: Duration,
    /// The longest time from a ready connection to the end of the answer.
    pub whole: Duration,
    /// The longest body in bytes.
    pub body_bytes: usize,
}

impl Client {
    /// A client with an empty pool; it connects when a request needs a connection.
    ///
    /// # Errors
    ///
    /// When the CA file is unusable.
    pub fn new(config: &Config) -> Result<Self, SetupError> {
        Self::with_resolver(config, Resolver::system())
    }

    /// A client with another resolver, for tests.
    ///
    /// # Errors
    ///
    /// When the CA file is unusable.
    pub fn with_resolver(config: &Config, resolver: Resolver) -> Result<Self, SetupError> {
        Ok(Self::build(Connector::new(config, resolver)?, Arc::new(config.clone())))
    }

    /// The same client without the proxy, with a pool of its own: for the managed-identity
    /// endpoint, which must not be proxied.
    pub fn direct(&self) -> Self {
        Self::build(self.pool.connector.direct(), Arc::clone(&self.pool.config))
    }

    /// The same client, speaking HTTP/2 to `http` addresses without negotiation, for hosts that are
    /// known to speak it. It has a pool of its own.
    pub fn cleartext_http2(&self) -> Self {
        Self::build(self.pool.connector.cleartext_http2(), Arc::clone(&self.pool.config))
    }

    /// The same client for one particular server, with a pool of its own: `ca_text` (PEM), if
    /// given, replaces all trusted certificates, and `server_name` is requested and checked instead
    /// of the address's host.
    ///
    /// # Errors
    ///
    /// When the text contains no usable certificate, or the name is invalid.
    pub fn for_peer(&self, ca_text: Option<&[u8]>, server_name: Option<&str>) -> Result<Self, SetupError> {
        let connector = self.pool.connector.for_peer(ca_text, server_name)?;
        Ok(Self::build(connector, Arc::clone(&self.pool.config)))
    }

    fn build(connector: Connector, config: Arc<Config>) -> Self {
        Self {
            pool: Pool::new(connector, config),
            large_bodies: None,
        }
    }

    /// The same client with its pool. Bodies larger than
    /// [`LARGE_ANSWER`](crate::memory::LARGE_ANSWER) reserve from `memory`.
    pub fn with_large_bodies(self, memory: Arc<MemoryBudget>) -> Self {
        Self {
            large_bodies: Some(memory),
            ..self
        }
    }

    /// The connector of this client, which also measures round-trip times.
    pub fn connector(&self) -> &Connector {
        &self.pool.connector
    }

    /// This client as a service with fixed limits, for sign-in.
    pub fn exchange(&self, limit_bytes: usize, timeout: Duration) -> Exchange {
        let client = self.clone();
        let limits = Limits {
            head: timeout,
            whole: timeout,
            body_bytes: limit_bytes,
        };
        BoxCloneSyncService::new(tower::service_fn(move |request| {
            let client = client.clone();
            async move { client.send(request, limits).await.map_err(Into::into) }
        }))
    }

    /// Sends `request`, whose address must be absolute, and reads the whole answer. Any status is
    /// an answer.
    ///
    /// # Errors
    ///
    /// [`Error`], after at most the connect timeout (plus half a second) and `limits.whole`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the exchange; it is unknown then whether the request arrived.
    pub async fn send(&self, request: Request<Bytes>, limits: Limits) -> Result<Response<Bytes>, Error> {
        self.send_with(request, limits, pending).await
    }

    /// The same with a watch on progress: a watch begins when the request is sent, when the head of
    /// its answer has arrived, and whenever the body has made progress. When one resolves, the
    /// exchange is given up as if it had reached its limit; one that is dropped has seen progress
    /// or the end.
    ///
    /// # Errors
    ///
    /// As for [`Client::send`].
    ///
    /// # Cancel safety
    ///
    /// As for [`Client::send`].
    pub async fn send_with<F>(
        &self,
        request: Request<Bytes>,
        limits: Limits,
        watch: impl Fn() -> F + Send + Sync,
    ) -> Result<Response<Bytes>, Error>
    where
        F: Future<Output = ()> + Send,
    {
        let Some(host) = self.pool.host(request.uri()) else {
            return Err(Error::new(&"no host".into(), Kind::Unsendable));
        };
        let request = request.map(Full::new);
        let deadline = Instant::now() + self.pool.config.connect_timeout;
        let mut retry_delays = RETRY_DELAYS.into_iter();
        loop {
            // Boxed, because it is large and seldom has to wait.
            let (mut connection, kept) = Box::pin(self.pool.take(&host, deadline)).await?;
            let sent = Instant::now();
            let until = sent + limits.head.min(limits.whole);
            let kind = match connection.send(&host, request.clone(), until, watch()).await {
                Ok(answer) => {
                    let (head, body) = answer.into_parts();
                    let collector = Collector::new(limits.body_bytes, self.large_bodies.clone());
                    let until = sent + limits.whole;
                    let body = timeout_at(until, read(body, collector, &watch)).await;
                    let body = body.unwrap_or(Err(Kind::BodyTimeout));
                    return match body {
                        Ok(body) => {
                            self.pool.give_back(&host, connection);
                            Ok(Response::from_parts(head, body))
                        }
                        Err(kind) => Err(end(&host, &connection, kind, until).after(head)),
                    };
                }
                Err(kind) => kind,
            };
            let now = Instant::now();
            let pause = match &kind {
                // The connection was closed while idle. There may be more of that kind, so the
                // number of repetitions is bounded.
                Kind::NotSent(_) => (kept && now < deadline).then_some(Duration::ZERO),
                // The host has not processed it. Another connection may lead to another machine,
                // or to one that is available again.
                Kind::NotProcessed(error) => {
                    match Refusal::of(error) {
                        Some(Refusal::Http1Required) => host.require_http1(now),
                        Some(Refusal::Fault) => connection.peer().failed(),
                        // Once is routine; it is none only if it goes on.
                        Some(Refusal::TryAgain) | None => {}
                    }
                    retry_delays.next().filter(|pause| now + *pause < deadline)
                }
                _ => None,
            };
            let Some(pause) = pause else {
                return Err(end(&host, &connection, kind, until));
            };
            host.retire(&connection);
            sleep(pause).await;
        }
    }
}

/// Ends a failed exchange, which was to end by `until`: its connection is not used again. A body
/// that is too large says nothing about the connection's health, but the connection is cut off all
/// the same.
fn end(host: &Arc<Host>, connection: &Connection, kind: Kind, until: Instant) -> Error {
    host.retire(connection);
    let stood_still = Instant::now() > until + STANDSTILL;
    if kind.is_of_address() && !stood_still {
        connection.peer().failed();
    }
    Error::new(host.authority(), kind)
}

/// Reads a whole body.
async fn read<F>(mut body: Incoming, mut collector: Collector, watch: &impl Fn() -> F) -> Result<Bytes, Kind>
where
    F: Future<Output = ()>,
{
    let (mut stands_still, mut moved) = (pin!(watch()), 0);
    while !body.is_end_stream() {
        let frame = tokio::select! {
            biased;
            frame = body.frame() => frame,
            () = stands_still.as_mut() => return Err(Kind::BodyTimeout),
        };
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| Kind::BodyLost(error.into()))?;
        let Ok(data) = frame.into_data() else { continue };
        moved += data.len();
        let rest = body.size_hint();
        let has_waited = collector.add(data, (rest.lower(), rest.exact().is_some())).await?;
        // While it waited for memory, the host could not make progress.
        if moved >= PROGRESS_BYTES || has_waited {
            moved = 0;
            stands_still.set(watch());
        }
    }
    Ok(collector.finish())
}
