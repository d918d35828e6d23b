//! The link to Redis or Valkey, single, watched by Sentinels or a cluster. It knows nothing of what
//! is stored there.
//!
//! Every wait is bounded, and nothing is tried twice that may have been done, except where
//! [`Client::step`] says so: whoever asks must know whether its step may have been taken. One
//! [`Client`] serves all parts of a process: one connection, one subscription, one circuit breaker.
//! After a failure, or several timeouts in a row, the connection is closed, and the next one reads
//! the password again and looks for the master again.

mod address;
mod breaker;
mod client;
mod config;
mod connection;
mod error;
mod eviction;
mod limited_stream;
mod outage;
mod resp_limits;
mod script;
mod sentinel;
mod subscription;
mod tls;

pub use address::Address;
pub use client::Client;
pub use config::{Config, scope};
pub use error::Error;
pub use eviction::Eviction;
pub use outage::Outage;
pub use script::Script;
pub use subscription::Event;
