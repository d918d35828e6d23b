//! The protocol, with the real script in a real redis-server, but under a clock and a server
//! identity that the tests move.

mod chaos;
mod explore;
mod explored;
mod idle;
mod lies;
mod members;
mod mixed;
mod order;
mod pacing;
mod probe;
mod queue_fixture;
mod queued;
mod repeated;
mod replicas;
mod store;
mod throttle_hint;
