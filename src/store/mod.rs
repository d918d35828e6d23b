//! The link to Redis or Valkey, single, watched by Sentinels or a cluster. It knows nothing of what is stored there.
//!
//! Every wait is bounded, and nothing is tried twice that may have been done, except where [`Link::run`] says so: whoever asks must know
//! whether its step may have been taken. A link that failed closes its connection, so that a late answer is never taken for the answer to
//! a later question, and the next connection reads the password again and looks for the master again.

mod address;
mod client;
mod config;
mod connection;
mod error;
mod eviction;
mod link;
mod meter;
mod outage;
mod script;
mod sentinel;
mod tls;
mod wakes;
mod wire;

pub use address::Address;
pub use client::Client;
pub use config::{Config, scope};
pub use error::{Error, Invalid};
pub use eviction::Eviction;
pub use link::Link;
pub use outage::Outage;
pub use script::Script;
pub use wakes::Wakes;
