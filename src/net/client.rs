//! The pooled client.

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use tokio::time::{Instant, timeout_at};
use tower::util::BoxCloneSyncService;

use crate::memory::MemoryBudget;
use crate::net::collect::Collector;
use crate::net::connection::Failed;
use crate::net::pool::Pool;
use crate::net::{Config, Connector, Error, Exchange, Kind, Resolver, SetupError};

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
    // Not an `async fn`: that would hold what it is given twice, and a request is large.
    pub fn send(
        &self,
        request: Request<Bytes>,
        limits: Limits,
    ) -> impl Future<Output = Result<Response<Bytes>, Error>> + Send + use<'_> {
        let host = self.pool.host(request.uri());
        let mut request = request.map(Full::new);
        async move {
            let Some(host) = host else {
                return Err(Error::new(&"no host".into(), Kind::Unsendable));
            };
            let mut sent = Instant::now();
            let deadline = sent + self.config.connect_timeout;
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
                let answer = match connection.send(&host, request, until).await {
                    Ok(answer) => {
                        let (head, body) = answer.into_parts();
                        let collector = Collector::new(limits.body_bytes, self.large_bodies.clone());
                        let body = read(body, sent + limits.whole, collector).await;
                        body.map(|body| Response::from_parts(head, body))
                    }
                    // It had closed while nobody looked. There may be more of that kind, so there is an end to it.
                    Err(Failed::Unsent(unsent, error)) => {
                        sent = Instant::now();
                        if kept && sent < deadline {
                            host.retire(&connection);
                            request = *unsent;
                            continue;
                        }
                        Err(Kind::NotSent(error))
                    }
                    Err(Failed::Lost(error)) => Err(Kind::Lost(error)),
                    Err(Failed::Late) => Err(Kind::HeadTimeout),
                };
                // A body that is too large says nothing against the connection's health, but it is being cut off all the same.
                match answer {
                    Ok(answer) => {
                        self.pool.give_back(&host, connection);
                        return Ok(answer);
                    }
                    Err(kind) => {
                        host.retire(&connection);
                        return Err(Error::new(host.authority(), kind));
                    }
                }
            }
        }
    }
}

async fn read(body: Incoming, deadline: Instant, collector: Collector) -> Result<Bytes, Kind> {
    let mut body = pin!(whole(body, collector));
    // Mostly it has come with the head: then no time is set.
    match poll_fn(|context| Poll::Ready(body.as_mut().poll(context))).await {
        Poll::Ready(body) => body,
        Poll::Pending => timeout_at(deadline, body)
            .await
            .unwrap_or_else(|_| Err(Kind::BodyTimeout)),
    }
}

/// All of a body.
async fn whole(mut body: Incoming, mut collector: Collector) -> Result<Bytes, Kind> {
    while !body.is_end_stream()
        && let Some(frame) = body.frame().await
    {
        let frame = frame.map_err(|error| Kind::BodyLost(error.into()))?;
        let Ok(data) = frame.into_data() else { continue };
        let rest = body.size_hint();
        collector.add(data, (rest.lower(), rest.exact().is_some())).await?;
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
