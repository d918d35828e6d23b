//! The pooled client.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Extensions, Request, Response};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::{self, connect};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::{Instant, sleep_until, timeout_at};
use tower::util::BoxCloneSyncService;

use crate::net::connector::Target;
use crate::net::gate::Gates;
use crate::net::stream::Born;
use crate::net::{Config, ConnectError, Connector, Error, Exchange, Kind, Resolver, SetupError, Step};

/// Shorter than the idle limits of common front ends, so that it is us who hang up.
const IDLE: Duration = Duration::from_mins(1);

/// Idle HTTP/1.1 connections kept per host; a burst of 100 calls leaves this many.
const MAX_IDLE_PER_HOST: usize = 16;

/// Longest head of an answer over HTTP/1.1; over HTTP/2, longest list of fields.
const MAX_HEAD_BYTES: u32 = 64 * 1024;

/// HTTP/2 flow-control windows, large enough that a distant host can fill the line.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * STREAM_WINDOW;

/// The connector ends by its own timeout first, because its error says more; this is the net below it.
const SLACK: Duration = Duration::from_millis(500);

/// Sends requests over pooled connections: rustls, HTTP/2 where offered, redirects never followed. Clones share the pool.
///
/// Idle connections are bounded in number and age, dead ones are noticed by pings, keep-alive probes and timeouts, and a connection on
/// which an answer failed to come takes no further request.
#[derive(Clone)]
pub struct Client {
    pool: legacy::Client<Connector, Full<Bytes>>,
    connector: Connector,
    gates: Gates,
    config: Arc<Config>,
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
        // Connection tasks run outside `task::Tasks`: they end with the pool, and the drain must neither wait for an idle connection nor
        // cut one that a flight still reads from.
        let pool = legacy::Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(MAX_IDLE_PER_HOST)
            .http1_max_buf_size(MAX_HEAD_BYTES as usize)
            .http2_max_header_list_size(MAX_HEAD_BYTES)
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(config.ping_every)
            .http2_keep_alive_timeout(config.ping_answer)
            .http2_keep_alive_while_idle(true)
            .build(connector.clone());
        Self {
            pool,
            connector,
            gates: Gates::default(),
            config,
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
    pub async fn send(&self, request: Request<Bytes>, limits: Limits) -> Result<Response<Bytes>, Error> {
        let target = Target::new(request.uri().clone());
        let authority = target.authority();
        let mut request = request.map(Full::new);
        let mut captured = connect::capture_connection(&mut request);
        let mut answer = std::pin::pin!(self.pool.request(request));

        let early = self.connected(authority, answer.as_mut(), &mut captured).await?;
        let sent = Instant::now();
        let answer = match early {
            Some(answer) => Ok(answer),
            None => timeout_at(sent + limits.head.min(limits.whole), answer).await,
        };
        let answer = match answer {
            Ok(result) => result.map_err(|error| Error::from_client(authority, error)),
            Err(_) => Err(Error::new(authority, Kind::HeadTimeout)),
        };
        let answer = match answer {
            Ok(head) => read(authority, head, sent + limits.whole, limits.body_bytes).await,
            Err(error) => Err(error),
        };
        self.retire(&captured, answer.as_ref().err());
        answer
    }

    /// Drives `answer` until a connection has taken the request; `Some` when it has ended by then.
    async fn connected<A, T>(
        &self,
        authority: &Arc<str>,
        mut answer: A,
        captured: &mut connect::CaptureConnection,
    ) -> Result<Option<T>, Error>
    where
        A: Future<Output = T> + Unpin,
    {
        let deadline = Instant::now() + self.config.connect_timeout;
        let late = || Error::new(authority, Kind::Connect(ConnectError::timed_out(authority, Step::Dial)));
        let _pass = timeout_at(deadline, self.gates.enter(authority))
            .await
            .map_err(|_| late())?;
        tokio::select! {
            // First the answer: when it fails, the capture ends as well, without a connection.
            biased;
            ended = &mut answer => Ok(Some(ended)),
            connection = captured.wait_for_connection_metadata() => {
                if let Some(born) = connection.as_ref().and_then(born) {
                    self.gates.learn(authority, born.protocol);
                }
                Ok(None)
            }
            () = sleep_until(deadline + SLACK) => Err(late()),
        }
    }

    /// Keeps a connection from further use when an answer failed to come over it, or when it is old.
    fn retire(&self, captured: &connect::CaptureConnection, error: Option<&Error>) {
        let connection = captured.connection_metadata();
        let Some(connection) = connection.as_ref() else {
            return;
        };
        let old = born(connection).is_some_and(|born| born.at.elapsed() > self.config.max_age);
        // A body that is too large says nothing against the connection's health, but it is being cut off all the same.
        if old || error.is_some() {
            connection.poison();
        }
    }
}

fn born(connection: &connect::Connected) -> Option<Born> {
    let mut extensions = Extensions::new();
    connection.get_extras(&mut extensions);
    extensions.get().copied()
}

async fn read(
    authority: &Arc<str>,
    answer: Response<Incoming>,
    deadline: Instant,
    limit_bytes: usize,
) -> Result<Response<Bytes>, Error> {
    let (head, body) = answer.into_parts();
    let kind = match timeout_at(deadline, Limited::new(body, limit_bytes).collect()).await {
        Ok(Ok(body)) => return Ok(Response::from_parts(head, body.to_bytes())),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Kind::BodyTooLarge { limit_bytes },
        Ok(Err(error)) => Kind::BodyLost(error),
        Err(_) => Kind::BodyTimeout,
    };
    Err(Error::new(authority, kind))
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("connector", &self.connector)
            .finish_non_exhaustive()
    }
}
