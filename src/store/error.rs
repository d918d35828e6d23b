//! What goes wrong between us and the store.

use std::time::Duration;

/// The store did not do what it was asked, as far as we know: it may have, and its answer was lost.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No answer in time.
    #[error("the store did not answer within {0:?}")]
    Timeout(Duration),
    /// No connection could be opened. Shared by all who waited for it.
    #[error("the store cannot be reached")]
    Unreachable(#[source] std::sync::Arc<redis::RedisError>),
    /// It refused, or the connection failed.
    #[error("the store failed")]
    Failed(#[from] redis::RedisError),
}

/// A store address that cannot be used; the operator's mistake. Never holds the address itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// A way to reach a store that is not built in.
    #[error(
        "store.url starts with {0}://, which this version does not support; use redis://, rediss:// or redis+unix://"
    )]
    Scheme(String),
    /// It cannot be read.
    #[error("store.url is not an address of a store: {0}")]
    Address(String),
}
