//! Who is at the other end of a connection.

use std::net::{IpAddr, SocketAddr};

use crate::caller;

/// The two ends of the request's connection. Travels with every request as an extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Over TCP.
    Tcp {
        /// The caller's end.
        remote: SocketAddr,
        /// Our end, even when the listener is bound to all addresses.
        local: SocketAddr,
    },
    /// Over a Unix socket: on the same machine.
    Unix,
}

impl Peer {
    /// Whether the peer is on the same machine.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp { remote, .. } => remote.ip().to_canonical().is_loopback(),
            Self::Unix => true,
        }
    }

    /// Our own address, if the connection has one.
    #[must_use]
    pub fn local_ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp { local, .. } => Some(local.ip().to_canonical()),
            Self::Unix => None,
        }
    }

    /// The name to count the caller under when it gives none: its address, without the port, which changes with every connection.
    #[must_use]
    pub fn name(&self) -> caller::Name {
        match self {
            Self::Tcp { remote, .. } => caller::Name::new(&remote.ip().to_canonical().to_string()),
            Self::Unix => caller::Name::new("local"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(remote: &str) -> Peer {
        Peer::Tcp {
            remote: remote.parse().unwrap(),
            local: "127.0.0.1:80".parse().unwrap(),
        }
    }

    #[test]
    fn peers_are_named_by_address_without_port() {
        assert_eq!(tcp("[::ffff:10.0.0.1]:5").name().as_str(), "10.0.0.1");
        assert_eq!(Peer::Unix.name().as_str(), "local");
    }

    #[test]
    fn only_this_machine_is_local() {
        assert!(tcp("127.8.0.1:1").is_local() && tcp("[::1]:1").is_local() && Peer::Unix.is_local());
        assert!(!tcp("10.0.0.1:1").is_local());
    }
}
