//! The peer of a connection.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use http::HeaderValue;

use super::guard::Hosts;
use crate::caller;

/// The two ends of the request's connection, passed along with every request.
///
/// Clones share what was found out about the connection once.
#[derive(Clone, Debug)]
pub struct Peer(Arc<Ends>);

#[derive(Debug)]
struct Ends {
    /// `None` for a Unix socket.
    tcp: Option<Addresses>,
    name: caller::Name,
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
        let name = caller::Name::new(&remote.ip().to_canonical().to_string());
        Self::new(Some(Addresses { remote, local }), name)
    }

    /// A peer over a Unix socket, on the same machine.
    pub fn unix() -> Self {
        Self::new(None, caller::Name::new("local"))
    }

    fn new(tcp: Option<Addresses>, name: caller::Name) -> Self {
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

    /// Whether the peer is on the same machine.
    pub fn is_local(&self) -> bool {
        let tcp = self.0.tcp.as_ref();
        tcp.is_none_or(|ends| ends.remote.ip().to_canonical().is_loopback())
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
    pub fn name(&self) -> caller::Name {
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
        // A copy, because a slice would keep the whole read buffer alive.
        if let Ok(host) = HeaderValue::from_bytes(host.as_bytes()) {
            let by = Arc::clone(by);
            let _ = self.0.host.set(Accepted { host, by });
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
    }
}
