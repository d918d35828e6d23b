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
mod connection;
mod limited_stream;
mod outage;
mod resp_limits;
mod script;
mod subscription;

use std::io;
use std::time::Duration;

use redis::ErrorKind;

use crate::telemetry;

pub use address::{Address, Config, scope};
pub use client::Client;
pub use outage::Outage;
pub use script::{Eviction, Script};
pub use subscription::Event;

/// The store did not do what it was asked, as far as we know: it may have, and its answer was lost.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No answer in time.
    #[error("the store did not answer within {0:?}")]
    Timeout(Duration),
    /// It refused, or the connection failed.
    #[error("the store failed")]
    Failed(#[from] redis::RedisError),
    /// A password, certificate or authority cannot be read.
    #[error("{key} cannot be read")]
    File {
        /// Which key names the file.
        key: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A file holds no certificate or key that can be read.
    #[error("{key} holds no PEM that can be read")]
    Pem {
        /// Which key names the file.
        key: &'static str,
    },
    /// A certificate or key cannot be used.
    #[error("a certificate or key for the store cannot be used")]
    Tls(#[from] rustls::Error),
    /// No majority of the Sentinels named one server.
    #[error("{named} of {asked} Sentinels agree on a master for the group, and more than half must")]
    NoMaster {
        /// How many named the server that most named.
        named: usize,
        /// How many there are.
        asked: usize,
    },
    /// It failed a moment ago, and is not tried again yet.
    #[error("the store failed a moment ago")]
    Resting,
}

impl Error {
    /// Whether the server said so, and is well.
    fn is_answer(&self) -> bool {
        matches!(self, Self::Failed(error) if matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension))
    }
}

/// An error of the store and its causes, as people are told them.
pub fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    shown(&telemetry::log::chain(error))
}

/// Most letters of what the store says that are shown.
const LONGEST_SHOWN: usize = 300;

/// What the store says, as people are told it.
fn shown(text: &str) -> String {
    let shown = text.chars().filter(|letter| !telemetry::log::steers(*letter));
    shown.take(LONGEST_SHOWN).collect()
}

/// A store address that cannot be used; the operator's mistake. Never holds the address itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    /// It is none.
    #[error("is no address")]
    Address,
    /// Nothing that we know how to reach.
    #[error("starts with an unknown scheme")]
    Scheme,
    /// It names no server.
    #[error("has no host")]
    Host,
    /// A socket needs a path.
    #[error("has no absolute path; write redis+unix:///run/redis.sock")]
    Socket,
    /// A server's name or port cannot be read.
    #[error("names a server that cannot be read: {0}")]
    Server(String),
    /// More than one server without Sentinel and Cluster.
    #[error("names several servers, which needs redis+sentinel:// or redis+cluster://")]
    Several,
    /// Sentinels watch groups by name.
    #[error("names no group; write redis+sentinel://HOST,HOST,HOST/GROUP")]
    Group,
    /// A cluster has only database 0.
    #[error("names a database, and a cluster has only one")]
    Database,
    /// Something after `?` or `#` that is not understood.
    #[error("has an option that is not known; Sentinels' own sentinel_user and sentinel_password are")]
    Choice,
}
