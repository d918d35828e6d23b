//! The protocol, with the real script in a real redis-server, but under a clock and a server
//! identity that the tests move.

mod answers;
mod chaos;
mod explore;
mod explored;
mod idle;
mod limits_differ;
mod members;
mod obedience;
mod order;
mod pacing;
mod probe;
mod queue_fixture;
mod queued;
mod replicas;
mod store;
mod suspended;
mod throttle_hint;
mod went_back;
mod widened;
