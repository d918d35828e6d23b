//! The pooled client.

use std::fmt;
use std::future::{Pending, pending, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use tokio::time::{Instant, sleep, timeout_at};
use tower::util::BoxCloneSyncService;

use crate::memory::MemoryBudget;
use crate::net::collect::Collector;
use crate::net::connection::{Connection, Failed, Refusal};
use crate::net::pool::{Host, Pool};
use crate::net::{Config, Connector, Error, Exchange, Kind, Resolver, SetupError};

/// A body that has moved by so much since it was last looked at is not one that stands still. A host that sends a byte now and then
/// moves less.
const PROGRESS_BYTES: usize = 4 * 1024;

/// The pauses before a request is sent again that provably was not processed. A host that refuses it once more after them is taken at
/// its word.
const RETRY_DELAYS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(50), Duration::from_millis(200)];

/// Sends requests over pooled connections: rustls, HTTP/2 where offered, redirects never followed. Clones share the pool.
///
/// Idle connections are bounded in number and age, dead ones are noticed by pings, keep-alive probes and timeouts, and a connection on
/// which an answer failed to come takes no further request.
#[derive(Clone)]
pub struct Client {
    pool: Pool,
    connector: Connector,
    config: Arc<Config>,
    large_bodies: Option<Arc<MemoryBudget>>,
}

/// What one exchange may take. Connecting has its own limit, [`Config::connect_timeout`], and comes on top.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest time from a ready connection to the head of the answer.
    pub head: Duration,
    /// Longest time from a ready connection to the end of the answer.
    pub whole: Duration,
    /// Longest body, in bytes.
    pub body_bytes: usize,
}

impl Client {
    /// A client with an empty pool; it connects when a request needs it.
    ///
    /// # Errors
    /// When the CA file is unusable.
    pub fn new(config: &Config) -> Result<Self, SetupError> {
        Self::with_resolver(config, Resolver::system())
    }

    /// The same with another way to find addresses, for tests.
    ///
    /// # Errors
    /// When the CA file is unusable.
    pub fn with_resolver(config: &Config, resolver: Resolver) -> Result<Self, SetupError> {
        Ok(Self::build(Connector::new(config, resolver)?, Arc::new(config.clone())))
    }

    /// The same without the proxy, with a pool of its own: for the managed-identity endpoint, which must not be proxied.
    #[must_use]
    pub fn direct(&self) -> Self {
        Self::build(self.connector.direct(), Arc::clone(&self.config))
    }

    /// The same speaking HTTP/2 to `http` addresses, which says nothing about who can do so: for hosts that are known to. It has a
    /// pool of its own.
    #[must_use]
    pub fn cleartext_http2(&self) -> Self {
        Self::build(self.connector.cleartext_http2(), Arc::clone(&self.config))
    }

    /// The same for one particular server, with a pool of its own: `ca_text` (PEM), when given, replaces all that is trusted, and
    /// `server_name` is asked for and checked in place of the address's host.
    ///
    /// # Errors
    /// When the text holds no usable certificate, or the name is none.
    pub fn for_peer(&self, ca_text: Option<&[u8]>, server_name: Option<&str>) -> Result<Self, SetupError> {
        let connector = self.connector.for_peer(ca_text, server_name)?;
        Ok(Self::build(connector, Arc::clone(&self.config)))
    }

    fn build(connector: Connector, config: Arc<Config>) -> Self {
        Self {
            pool: Pool::new(Arc::clone(&config)),
            connector,
            config,
            large_bodies: None,
        }
    }

    /// The same with its pool; what bodies are above [`LARGE_ANSWER`](crate::memory::LARGE_ANSWER) they reserve from `memory`.
    #[must_use]
    pub fn with_large_bodies(self, memory: Arc<MemoryBudget>) -> Self {
        Self {
            large_bodies: Some(memory),
            ..self
        }
    }

    /// How this client connects; measures how near a host is.
    #[must_use]
    pub fn connector(&self) -> &Connector {
        &self.connector
    }

    /// This client as a service with fixed limits, for sign-in.
    #[must_use]
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

    /// Sends `request`, whose address must be absolute, and reads the whole answer. Any status is an answer.
    ///
    /// # Errors
    /// [`Error`], after at most the connect timeout (plus half a second) and `limits.whole`.
    ///
    /// # Cancel safety
    /// Dropping it cancels the exchange; whether the request arrived is then unknown.
    pub fn send(
        &self,
        request: Request<Bytes>,
        limits: Limits,
    ) -> impl Future<Output = Result<Response<Bytes>, Error>> + Send + use<'_> {
        self.send_with(request, limits, pending as fn() -> Pending<()>)
    }

    /// The same with a watch on progress: a watch begins when the request is sent, when the head of its answer has come, and whenever the
    /// body has moved on. When one resolves, the exchange is given up, as if it had reached its limit; one that is dropped has seen
    /// progress or the end.
    ///
    /// # Errors
    /// As for [`Client::send`].
    ///
    /// # Cancel safety
    /// As for [`Client::send`].
    // Not an `async fn`: that would hold what it is given twice, and a request is large.
    pub fn send_with<W, F>(
        &self,
        request: Request<Bytes>,
        limits: Limits,
        watch: W,
    ) -> impl Future<Output = Result<Response<Bytes>, Error>> + Send + use<'_, W, F>
    where
        W: Fn() -> F + Send + Sync,
        F: Future<Output = ()> + Send,
    {
        let host = self.pool.host(request.uri());
        let mut request = request.map(Full::new);
        async move {
            let Some(host) = host else {
                return Err(Error::new(&"no host".into(), Kind::Unsendable));
            };
            let mut sent = Instant::now();
            let deadline = sent + self.config.connect_timeout;
            let mut retry_delays = RETRY_DELAYS.into_iter();
            loop {
                let (mut connection, kept) = if let Some(connection) = self.pool.at_hand(&host, sent) {
                    (connection, true)
                } else {
                    // In a box, because it is large and seldom needed.
                    let taken = Box::pin(self.pool.take(&host, &self.connector, deadline)).await?;
                    sent = Instant::now();
                    taken
                };
                let until = sent + limits.head.min(limits.whole);
                let failed = match connection.send(&host, request, until, watch()).await {
                    Ok(answer) => {
                        let (head, body) = answer.into_parts();
                        let collector = Collector::new(limits.body_bytes, self.large_bodies.clone());
                        let body = read(body, sent + limits.whole, collector, &watch).await;
                        return self.end(&host, connection, body.map(|body| Response::from_parts(head, body)));
                    }
                    Err(failed) => failed,
                };
                sent = Instant::now();
                let (again, pause, kind) = match failed {
                    // It had closed while nobody looked. There may be more of that kind, so there is an end to it.
                    Failed::Unsent(unsent, error) => {
                        let pause = (kept && sent < deadline).then_some(Duration::ZERO);
                        (Some(unsent), pause, Kind::NotSent(error))
                    }
                    // The host has not touched it. Another connection may meet another machine, or one that has come up.
                    Failed::Unprocessed(untouched, refusal, error) => {
                        if refusal == Refusal::Http1Required {
                            host.require_http1(sent);
                        }
                        let pause = retry_delays.next().filter(|pause| sent + *pause < deadline);
                        (Some(untouched), pause, Kind::NotProcessed(error))
                    }
                    Failed::Lost(error) => (None, None, Kind::Lost(error)),
                    Failed::Late => (None, None, Kind::HeadTimeout),
                };
                let Some((untouched, pause)) = again.zip(pause) else {
                    return self.end(&host, connection, Err(kind));
                };
                host.retire(&connection);
                request = *untouched;
                sleep(pause).await;
            }
        }
    }

    /// Keeps the connection of an exchange that went well, and no other.
    fn end(
        &self,
        host: &Arc<Host>,
        connection: Connection,
        answer: Result<Response<Bytes>, Kind>,
    ) -> Result<Response<Bytes>, Error> {
        match answer {
            Ok(answer) => {
                self.pool.give_back(host, connection);
                Ok(answer)
            }
            // A body that is too large says nothing against the connection's health, but it is being cut off all the same.
            Err(kind) => {
                host.retire(&connection);
                Err(Error::new(host.authority(), kind))
            }
        }
    }
}

async fn read<W, F>(body: Incoming, deadline: Instant, collector: Collector, watch: &W) -> Result<Bytes, Kind>
where
    W: Fn() -> F,
    F: Future<Output = ()>,
{
    let mut body = pin!(whole(body, collector, watch));
    // Mostly it has come with the head: then no time is set.
    match poll_fn(|context| Poll::Ready(body.as_mut().poll(context))).await {
        Poll::Ready(body) => body,
        Poll::Pending => timeout_at(deadline, body)
            .await
            .unwrap_or_else(|_| Err(Kind::BodyTimeout)),
    }
}

/// All of a body.
async fn whole<W, F>(mut body: Incoming, mut collector: Collector, watch: &W) -> Result<Bytes, Kind>
where
    W: Fn() -> F,
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
        // While it waited for memory, it was not the host that stood still.
        if moved >= PROGRESS_BYTES || has_waited {
            moved = 0;
            stands_still.set(watch());
        }
    }
    Ok(collector.finish())
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("connector", &self.connector)
            .finish_non_exhaustive()
    }
}
