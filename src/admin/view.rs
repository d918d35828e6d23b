//! What the admin listener shows, brought by whoever assembles the gateway.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::{Check, Health};
use crate::server::Peer;
use crate::server::guard::Host;
use crate::telemetry::metrics::Exposition;

/// Whether a host is named so over a connection with this peer.
pub type Named = dyn Fn(&Host, Option<&Peer>) -> bool + Send + Sync;

/// Everything that is shown. The functions are called for every request to the admin listener; they
/// must be quick.
#[derive(Clone)]
pub struct View {
    /// For the probes.
    pub health: Health,
    /// For `?verbose`.
    pub checks: Arc<dyn Fn() -> Vec<Check> + Send + Sync>,
    /// For `/status`; without secrets.
    pub status: Arc<dyn Fn() -> serde_json::Value + Send + Sync>,
    /// For `/history`: what happened in the last hour, in steps.
    pub history: Arc<dyn Fn() -> serde_json::Value + Send + Sync>,
    /// For `/metrics`.
    pub metrics: Arc<dyn Fn(Exposition) -> String + Send + Sync>,
    /// For `/openapi.json`.
    pub openapi: Bytes,
    /// Whether a name in `Host` is one that the gateway was given, loopback ones aside.
    pub named: Arc<Named>,
    /// For `POST /quitquitquit`: begins the drain. `None` switches it off.
    pub quit: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View")
            .field("health", &self.health)
            .finish_non_exhaustive()
    }
}
