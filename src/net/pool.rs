//! The pool of connections, host by host.
//!
//! Over HTTP/1.1 a connection serves one request at a time, so each request takes an idle one or
//! opens one. Over HTTP/2 one connection serves all requests, and is opened once: without a lock a
//! burst of a hundred requests would make a hundred TLS handshakes to keep one connection. With it,
//! the first request connects and the others find its connection.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use http::header::HOST;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Uri};
use hyper::rt::Executor as _;
use hyper_util::rt::TokioExecutor;
use tokio::sync::Mutex as Gate;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::net::connection::Connection;
use crate::net::connector::Protocol;
use crate::net::connector::{Offer, Target};
use crate::net::{Config, ConnectError, Connector, Error, Kind, Step};

/// Shorter than the idle timeouts of common front ends, so that this side closes first.
const IDLE: Duration = Duration::from_mins(1);

/// The connector's own timeout comes first, because its error says more; this is the safeguard
/// behind it.
const SLACK: Duration = Duration::from_millis(500);

/// The idle HTTP/1.1 connections kept for each host: a burst of all the calls that a minute allows
/// leaves all of its connections for the next one.
const MAX_IDLE_PER_HOST: usize = 100;

/// How long only HTTP/1.1 is offered to a host that asked for it.
const HTTP1_FOR: Duration = Duration::from_hours(1);

/// The most hosts whose connections are kept; another host gets a connection for each request.
const MAX_HOSTS: usize = 64;

/// The connections of one client. Clones share them.
#[derive(Clone)]
pub(super) struct Pool {
    hosts: Arc<Mutex<Vec<Arc<Host>>>>,
    pub(super) connector: Connector,
    pub(super) config: Arc<Config>,
}

/// One scheme, host and port.
pub(super) struct Host {
    scheme: Scheme,
    authority: Authority,
    target: Target,
    field: HeaderValue,
    gate: Gate<()>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// The host speaks HTTP/1.1, so requests must not wait for each other at the lock.
    open: bool,
    /// The HTTP/2 connection that all requests share.
    shared: Option<Connection>,
    /// The idle HTTP/1.1 connections, and since when they have been idle; the latest last.
    idle: Vec<(Instant, Connection)>,
    /// A task closes connections that have been idle for too long.
    has_closer: bool,
    /// HTTP/2 is not offered until then.
    http1_until: Option<Instant>,
}

impl Pool {
    pub(super) fn new(connector: Connector, config: Arc<Config>) -> Self {
        Self {
            hosts: Arc::default(),
            connector,
            config,
        }
    }

    /// The host of an absolute address; `None` when the address is not absolute.
    pub(super) fn host(&self, uri: &Uri) -> Option<Arc<Host>> {
        let (scheme, authority) = (uri.scheme()?, uri.authority()?);
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = hosts
            .iter()
            .find(|host| host.authority == *authority && host.scheme == *scheme)
        {
            return Some(Arc::clone(host));
        }
        let host = Arc::new(Host {
            scheme: scheme.clone(),
            authority: authority.clone(),
            target: Target::new(uri.clone()),
            field: field(scheme, authority)?,
            gate: Gate::default(),
            kept: Mutex::default(),
        });
        if hosts.len() < MAX_HOSTS {
            hosts.push(Arc::clone(&host));
        }
        Some(host)
    }

    /// A connection to `host` that can take a request, and whether it has served others before.
    ///
    /// # Errors
    ///
    /// Nothing was written: there was no connection by `deadline`, or one that does not speak HTTP.
    ///
    /// # Cancel safety
    ///
    /// Safe; a connection that is being set up is given up.
    pub(super) async fn take(&self, host: &Host, deadline: Instant) -> Result<(Connection, bool), Error> {
        timeout_at(deadline + SLACK, self.look(host, deadline))
            .await
            .unwrap_or_else(|_| Err(host.late()))
            .map_err(|kind| Error::new(host.authority(), kind))
    }

    async fn look(&self, host: &Host, deadline: Instant) -> Result<(Connection, bool), Kind> {
        if let Some(kept) = self.kept(host).await {
            return Ok((kept, true));
        }
        let is_open = host.kept().open;
        let _pass = if is_open {
            None
        } else {
            let pass = timeout_at(deadline, host.gate.lock()).await;
            let pass = pass.map_err(|_| host.late())?;
            // The request that held the lock may have opened one.
            if let Some(kept) = self.kept(host).await {
                return Ok((kept, true));
            }
            Some(pass)
        };
        let offer = host.kept().offer(Instant::now());
        let stream = self.connector.reach(&host.target, offer).await.map_err(Kind::Connect)?;
        let connection = Connection::begin(stream, &self.config).await.map_err(Kind::NotSent)?;
        let mut kept = host.kept();
        kept.open = connection.protocol() == Protocol::Http1;
        // A connection that was started before the host asked for HTTP/1.1 serves only the request
        // that it was opened for.
        if kept.offer(connection.created()) == offer {
            kept.shared = connection.shared();
        }
        Ok((connection, false))
    }

    /// Keeps a connection that has served a request successfully.
    pub(super) fn give_back(&self, host: &Arc<Host>, connection: Connection) {
        let now = Instant::now();
        if !connection.is_usable(self.config.max_age, now) {
            host.retire(&connection);
            return;
        }
        if connection.protocol() == Protocol::Http2 {
            return;
        }
        let mut kept = host.kept();
        if kept.idle.len() >= MAX_IDLE_PER_HOST {
            return;
        }
        kept.idle.push((now, connection));
        if !std::mem::replace(&mut kept.has_closer, true) {
            // Outside of `task::Tasks`, like the connections themselves.
            TokioExecutor::new().execute(close_idle(Arc::downgrade(host)));
        }
    }

    /// A kept connection that can take a request.
    async fn kept(&self, host: &Host) -> Option<Connection> {
        loop {
            let mut connection = host.kept().next(self.config.max_age, Instant::now())?;
            // Its earlier request is finished within this very poll of its task, or it has been
            // closed.
            if connection.ready().await.is_ok() {
                return Some(connection);
            }
            host.retire(&connection);
        }
    }
}

impl Kept {
    fn offer(&self, now: Instant) -> Offer {
        match self.http1_until {
            Some(until) if now < until => Offer::Http1,
            _ => Offer::All,
        }
    }

    fn next(&mut self, max_age: Duration, now: Instant) -> Option<Connection> {
        self.shared.take_if(|shared| !shared.is_usable(max_age, now));
        if let Some(shared) = &self.shared {
            return shared.shared();
        }
        while let Some((since, connection)) = self.idle.pop() {
            if now.saturating_duration_since(since) < IDLE && connection.is_usable(max_age, now) {
                return Some(connection);
            }
        }
        None
    }

    /// Closes connections that have been idle for too long, and drops closed ones; returns when to
    /// check again.
    fn close_expired(&mut self, now: Instant) -> Option<Instant> {
        self.idle
            .retain(|(since, connection)| *since + IDLE > now && connection.is_usable(Duration::MAX, now));
        self.has_closer = !self.idle.is_empty();
        self.idle.first().map(|(since, _)| *since + IDLE)
    }
}

/// Closes the host's idle connections in time, until there are none.
async fn close_idle(host: Weak<Host>) {
    let mut next = Instant::now() + IDLE;
    loop {
        sleep_until(next).await;
        let Some(host) = host.upgrade() else { return };
        let Some(at) = host.kept().close_expired(Instant::now()) else {
            return;
        };
        next = at;
    }
}

/// The host, with its port if that is not the default.
fn field(scheme: &Scheme, authority: &Authority) -> Option<HeaderValue> {
    let usual = if *scheme == Scheme::HTTP { 80 } else { 443 };
    let host = authority.host();
    match authority.port_u16().filter(|port| *port != usual) {
        Some(port) => HeaderValue::try_from(format!("{host}:{port}")).ok(),
        None => HeaderValue::from_str(host).ok(),
    }
}

impl Host {
    pub(super) fn authority(&self) -> &Arc<str> {
        self.target.authority()
    }

    /// Over HTTP/1.1 the host is a header field, and the address is the path after it (RFC 9112
    /// §3.2.1).
    pub(super) fn use_origin_form<B>(&self, request: &mut Request<B>) {
        request.headers_mut().insert(HOST, self.field.clone());
        let path = std::mem::take(request.uri_mut()).into_parts().path_and_query;
        *request.uri_mut() = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    }

    /// Keeps a connection from taking further requests; requests under way go on.
    pub(super) fn retire(&self, connection: &Connection) {
        let is_same = |shared: &mut Connection| shared.created() == connection.created();
        self.kept().shared.take_if(is_same);
    }

    /// The host has asked for HTTP/1.1, and nothing else is offered for a while.
    pub(super) fn require_http1(&self, now: Instant) {
        let mut kept = self.kept();
        kept.http1_until = Some(now + HTTP1_FOR);
        kept.shared = None;
        // From now on, each request may have a connection of its own.
        kept.open = true;
    }

    fn late(&self) -> Kind {
        Kind::Connect(ConnectError::timed_out(self.authority(), Step::Dial))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Every change is complete before anything can panic.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
