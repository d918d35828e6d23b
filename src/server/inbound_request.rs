//! A request on its way through the layers, and the peer that sent it.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, header};
use tokio::time::Instant;

use super::guard::Hosts;
use crate::caller::{Name, RequestId};
use crate::response::{RequestError, RequestInfo};
use crate::scan::{Endpoint, Target, route};
use crate::telemetry::trace::Trace;

/// A request, and what is known about it besides its HTTP message.
///
/// It is in one box, because it is passed from layer to layer: moving all of it each time, or
/// looking parts up by type in a map, would cost more than most layers do.
#[derive(Debug)]
pub struct InboundRequest<B> {
    meta: Box<RequestMeta>,
    body: B,
}

/// All of an [`InboundRequest`] except its body.
#[derive(Debug)]
pub struct RequestMeta {
    /// The request without its body.
    pub head: Request<()>,
    /// The peer that sent it.
    pub peer: Peer,
    /// The caller, for fairness and for people: the peer's address, unless the request names one.
    pub caller: Name,
    /// Its id in logs and responses.
    pub id: RequestId,
    /// Its context in a trace.
    pub trace: Trace,
    /// When its last header field arrived.
    pub at: Instant,
    /// Whether it has only [usual](is_usual) fields, so that other fields need not be searched for.
    pub plain: bool,
    /// The target of its path; `None` when the path is no operation's.
    pub target: Option<Target>,
    /// The reason why the connection has refused it, if it has: a layer below does, after it has been
    /// counted.
    pub refused: Option<RequestError>,
}

/// Whether nearly every request has this field, and its value does not matter here.
pub fn is_usual(name: &HeaderName) -> bool {
    static USUAL: [HeaderName; 7] = [
        header::HOST,
        header::CONTENT_TYPE,
        header::CONTENT_LENGTH,
        header::ACCEPT,
        header::USER_AGENT,
        header::ACCEPT_ENCODING,
        header::CONNECTION,
    ];
    USUAL.contains(name)
}

impl<B> InboundRequest<B> {
    /// A request that has just arrived from `peer`. Its id is the caller's, if that is valid.
    pub fn new(request: Request<B>, peer: Peer) -> Self {
        let (head, body) = request.into_parts();
        let plain = head.headers.keys().all(is_usual);
        let given = if plain { None } else { id_from_caller(&head.headers) };
        Self {
            meta: Box::new(RequestMeta {
                caller: peer.name(),
                peer,
                id: given.unwrap_or_else(RequestId::random),
                trace: Trace::None,
                at: Instant::now(),
                target: route(head.uri.path()),
                head: Request::from_parts(head, ()),
                plain,
                refused: None,
            }),
            body,
        }
    }

    /// What is known about it.
    pub fn meta(&self) -> &RequestMeta {
        &self.meta
    }

    /// The same, for the layers that find out more about it.
    pub fn meta_mut(&mut self) -> &mut RequestMeta {
        &mut self.meta
    }

    /// Its metadata and its body.
    pub fn into_parts(self) -> (Box<RequestMeta>, B) {
        (self.meta, self.body)
    }

    /// As a plain request, with the [`Peer`] as an extension.
    pub fn into_request(self) -> Request<B> {
        let (mut head, ()) = self.meta.head.into_parts();
        head.extensions.insert(self.meta.peer);
        Request::from_parts(head, self.body)
    }
}

/// The id that the caller gave its request, if it is valid.
fn id_from_caller(fields: &HeaderMap) -> Option<RequestId> {
    RequestId::from_caller(fields.get("x-request-id")?.to_str().ok()?)
}

impl<B> RequestInfo for InboundRequest<B> {
    fn id(&self) -> RequestId {
        self.meta.id.clone()
    }

    fn uri(&self) -> &Uri {
        self.meta.head.uri()
    }

    fn endpoint(&self) -> Option<Endpoint> {
        let target = self.meta.target.as_ref();
        target.map(|target| target.endpoint)
    }

    fn headers(&self) -> &HeaderMap {
        self.meta.head.headers()
    }

    fn host(&self) -> Option<HeaderValue> {
        let host = self.meta.head.headers().get(header::HOST)?;
        self.meta.peer.own_host(host)
    }

    fn peer(&self) -> Option<IpAddr> {
        self.meta.peer.address()
    }
}

/// The two ends of the request's connection, passed along with every request.
///
/// Clones share what was found out about the connection once.
#[derive(Clone, Debug)]
pub struct Peer(Arc<Ends>);

#[derive(Debug)]
struct Ends {
    /// `None` for a Unix socket.
    tcp: Option<Addresses>,
    name: Name,
    host: OnceLock<Accepted>,
    is_cut: AtomicBool,
}

/// An accepted `Host`, and the hosts that accepted it, because other settings may reject it.
#[derive(Debug)]
struct Accepted {
    host: HeaderValue,
    by: Arc<Hosts>,
}

#[derive(Debug)]
struct Addresses {
    remote: SocketAddr,
    local: SocketAddr,
}

impl Peer {
    /// A peer over TCP. `local` is our end, even when the listener is bound to all addresses.
    pub fn tcp(remote: SocketAddr, local: SocketAddr) -> Self {
        let name = Name::new(&remote.ip().to_canonical().to_string());
        Self::new(Some(Addresses { remote, local }), name)
    }

    /// A peer over a Unix socket, on the same machine.
    pub fn unix() -> Self {
        Self::new(None, Name::of_unix_socket())
    }

    fn new(tcp: Option<Addresses>, name: Name) -> Self {
        Self(Arc::new(Ends {
            tcp,
            name,
            host: OnceLock::new(),
            is_cut: AtomicBool::new(false),
        }))
    }

    /// Whether the connection is over a Unix socket.
    pub fn is_unix(&self) -> bool {
        self.0.tcp.is_none()
    }

    /// Whether the peer is on the same machine. Both ends tell: the proxy of a service mesh passes
    /// on from a loopback address what others send to the machine's own.
    pub fn is_local(&self) -> bool {
        let is_loopback = |end: SocketAddr| end.ip().to_canonical().is_loopback();
        let tcp = self.0.tcp.as_ref();
        tcp.is_none_or(|ends| is_loopback(ends.remote) && is_loopback(ends.local))
    }

    /// The peer's address without the port; `None` over a Unix socket.
    pub fn address(&self) -> Option<IpAddr> {
        self.0.tcp.as_ref().map(|ends| ends.remote.ip().to_canonical())
    }

    /// Our own address, if the connection has one.
    pub fn local_ip(&self) -> Option<IpAddr> {
        self.0.tcp.as_ref().map(|ends| ends.local.ip().to_canonical())
    }

    /// The caller's name when the request gives none: the address without the port, which changes
    /// with every connection.
    pub fn name(&self) -> Name {
        self.0.name.clone()
    }

    /// Records that the gateway cuts the connection off, with all requests in flight.
    pub(super) fn cut(&self) {
        self.0.is_cut.store(true, Ordering::Relaxed);
    }

    /// Whether the gateway has cut the connection off, and not the peer.
    pub(super) fn is_cut(&self) -> bool {
        self.0.is_cut.load(Ordering::Relaxed)
    }

    /// Whether `by` has accepted this `Host` from this peer before, as is almost always the case.
    pub(super) fn is_accepted(&self, host: &HeaderValue, by: &Arc<Hosts>) -> bool {
        let accepted = self.0.host.get();
        accepted.is_some_and(|accepted| Arc::ptr_eq(&accepted.by, by) && accepted.host == host)
    }

    /// Remembers the first `Host` that `by` has accepted.
    pub(super) fn accept(&self, host: &HeaderValue, by: &Arc<Hosts>) {
        if let Some(host) = self.own_host(host) {
            let by = Arc::clone(by);
            let _ = self.0.host.set(Accepted { host, by });
        }
    }

    /// The same `Host` in memory of its own, which nearly all requests of the connection share: a
    /// slice would keep the whole read buffer alive.
    fn own_host(&self, host: &HeaderValue) -> Option<HeaderValue> {
        let accepted = self.0.host.get().map(|accepted| &accepted.host);
        match accepted.filter(|accepted| *accepted == host) {
            Some(own) => Some(own.clone()),
            None => HeaderValue::from_bytes(host.as_bytes()).ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(remote: &str) -> Peer {
        Peer::tcp(remote.parse().unwrap(), "127.0.0.1:80".parse().unwrap())
    }

    #[test]
    fn peers_are_named_by_address_without_port() {
        assert_eq!(tcp("[::ffff:10.0.0.1]:5").name().as_str(), "10.0.0.1");
        assert_eq!(Peer::unix().name().as_str(), "local");
    }

    #[test]
    fn only_this_machine_is_local() {
        assert!(tcp("127.8.0.1:1").is_local() && tcp("[::1]:1").is_local() && Peer::unix().is_local());
        assert!(!tcp("10.0.0.1:1").is_local());
        let passed_on = Peer::tcp("127.0.0.6:1".parse().unwrap(), "10.0.0.1:80".parse().unwrap());
        assert!(!passed_on.is_local());
    }
}
