//! The admin listener: health for the kubelet, metrics for the scraper, status for people.
//!
//! Not here: what the figures mean; [`View`] brings them, so that this module knows no part. It is
//! served by [`server::Bound`](crate::server::Bound) with limits of its own ([`listener`]), best on
//! a thread of its own: a probe must be answered while the data side is saturated. Invariants: it
//! shows no secret; nothing but `POST /quitquitquit` changes anything, and that only from this
//! machine, when it is switched on.

mod page;
mod service;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;

use crate::server::Peer;
use crate::server::guard::Host;
use crate::telemetry::metrics::Exposition;
use crate::telemetry::named_enum;

pub use service::{Admin, listener};

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

named_enum! {
    /// Where the gateway is in its life.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub enum State, as_str {
        /// Not listening yet.
        Starting = "starting",
        /// Takes requests. A slow upstream, a missing token or a lost store change nothing about
        /// it: the answer is then an honest refusal, and restarting or cutting off the gateway
        /// would not help.
        Ready = "ready",
        /// Finishes what is in flight; new requests should go elsewhere.
        Draining = "draining",
    }
}

/// One line of `?verbose`: for people, it decides nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at, such as `token`.
    pub name: &'static str,
    /// Whether all is well.
    pub ok: bool,
    /// How it stands, in one line, without secrets.
    pub text: String,
}

impl Check {
    /// How it stands with `name`.
    pub fn new(name: &'static str, ok: bool, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { name, ok, text }
    }
}

/// The gateway's state, [`State::Starting`] at first. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<AtomicU8>);

impl Health {
    /// The state now.
    pub fn state(&self) -> State {
        match self.0.load(Ordering::Acquire) {
            0 => State::Starting,
            1 => State::Ready,
            _ => State::Draining,
        }
    }

    /// Every listener accepts. Without effect once draining has begun: there is no way back.
    pub fn set_ready(&self) {
        self.0.fetch_max(State::Ready as u8, Ordering::AcqRel);
    }

    /// The gateway stops.
    pub fn set_draining(&self) {
        self.0.fetch_max(State::Draining as u8, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests;
