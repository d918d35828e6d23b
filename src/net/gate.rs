//! One connection set-up at a time per HTTP/2 host.
//!
//! A pool that finds no connection starts one for every waiting request: a burst of a hundred requests would make a hundred TLS
//! handshakes to keep one connection. Behind the gate the first request connects and the others find its connection.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Mutex as Gate, OwnedMutexGuard};

use crate::net::stream::Protocol;

/// Most hosts remembered; beyond it new hosts are let through without a gate.
const MAX_HOSTS: usize = 64;

/// The gates of one client. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Gates {
    hosts: Arc<Mutex<HashMap<Arc<str>, Host>>>,
}

#[derive(Debug, Default)]
struct Host {
    gate: Arc<Gate<()>>,
    /// HTTP/1.1 needs a connection per request in flight, so requests must not wait for each other.
    open: bool,
}

impl Gates {
    /// Waits until no other request is connecting to `authority`; hold the pass until connected.
    ///
    /// # Cancel safety
    /// Safe; a dropped wait loses its turn.
    pub(super) async fn enter(&self, authority: &Arc<str>) -> Option<OwnedMutexGuard<()>> {
        let gate = {
            let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
            if hosts.len() >= MAX_HOSTS && !hosts.contains_key(authority) {
                return None;
            }
            let host = hosts.entry(Arc::clone(authority)).or_default();
            if host.open {
                return None;
            }
            Arc::clone(&host.gate)
        };
        Some(gate.lock_owned().await)
    }

    /// Learns which HTTP the host speaks.
    pub(super) fn learn(&self, authority: &Arc<str>, protocol: Protocol) {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = hosts.get_mut(authority) {
            host.open = protocol == Protocol::Http1;
        }
    }
}
