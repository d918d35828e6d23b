//! Whether the gateway has started, and whether it wants requests.

use crate::telemetry::named_enum;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

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

type Checks = Arc<dyn Fn() -> Vec<Check> + Send + Sync>;

/// The gateway's state. Clones share it.
#[derive(Clone)]
pub struct Health {
    state: Arc<AtomicU8>,
    checks: Checks,
}

impl Health {
    /// Starts in [`State::Starting`]. `checks` must be quick and must not block.
    pub fn new(checks: impl Fn() -> Vec<Check> + Send + Sync + 'static) -> Self {
        Self {
            state: Arc::new(AtomicU8::new(State::Starting as u8)),
            checks: Arc::new(checks),
        }
    }

    /// The state now.
    pub fn state(&self) -> State {
        match self.state.load(Ordering::Acquire) {
            0 => State::Starting,
            1 => State::Ready,
            _ => State::Draining,
        }
    }

    /// Every listener accepts. Without effect once draining has begun: there is no way back.
    pub fn set_ready(&self) {
        self.state.fetch_max(State::Ready as u8, Ordering::AcqRel);
    }

    /// The gateway stops.
    pub fn set_draining(&self) {
        self.state.fetch_max(State::Draining as u8, Ordering::AcqRel);
    }

    pub(super) fn checks(&self) -> Vec<Check> {
        (self.checks)()
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health")
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_only_moves_on() {
        let health = Health::new(Vec::new);
        assert_eq!(health.state(), State::Starting);
        health.set_ready();
        assert_eq!(health.state(), State::Ready);
        health.set_draining();
        health.set_ready();
        assert_eq!(health.state(), State::Draining);
    }
}
