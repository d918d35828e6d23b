//! The protocol, with the real script in a real redis-server, but under a clock and a server identity that the tests move.

mod explore;
mod fleet;
mod lies;
mod mixed;
mod order;
mod pacing;
mod queued;
mod store;
mod throttle_hint;
