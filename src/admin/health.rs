//! Whether the gateway has started, and whether it wants requests.

use crate::telemetry::named_enum;
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
mod tests {
    use super::*;

    #[test]
    fn the_state_only_moves_on() {
        let health = Health::default();
        assert_eq!(health.state(), State::Starting);
        health.set_ready();
        assert_eq!(health.state(), State::Ready);
        health.set_draining();
        health.set_ready();
        assert_eq!(health.state(), State::Draining);
    }
}
