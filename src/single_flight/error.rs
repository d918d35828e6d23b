//! Why a flight has no response for its waiters.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::BoxError;
use crate::telemetry::log;

/// An error that several waiters get. Its `source` is the original error.
#[derive(Clone, Debug)]
pub struct Shared(Arc<dyn Error + Send + Sync>);

impl Shared {
    /// Makes `error` cloneable.
    pub fn new(error: BoxError) -> Self {
        Self(error.into())
    }

    /// The first error of type `E` in the chain.
    pub fn find<E: Error + 'static>(&self) -> Option<&E> {
        log::causes(self.0.as_ref()).find_map(|cause| cause.downcast_ref())
    }
}

impl fmt::Display for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the call for this request failed")
    }
}

impl Error for Shared {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.0.as_ref())
    }
}

/// The request had joined a call that was still waiting for its slot when the request's own
/// deadline passed. The call goes on for the other waiters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the call that would have answered this request did not leave in time")]
pub struct DeadlineExceeded {
    /// By then the call will have left: it is ahead in the queue of any request that comes now.
    pub retry_after: Duration,
    /// Nobody can tell whether there are slots, because the store does not answer through which
    /// replicas share the quota.
    pub is_store_lost: bool,
}

impl DeadlineExceeded {
    /// There are slots, but none in time.
    pub fn new(retry_after: Duration) -> Self {
        Self {
            retry_after,
            is_store_lost: false,
        }
    }
}

/// The flight ended without a result: because of a panic, or because the runtime is shutting down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the call for this request was lost")]
pub(super) struct FlightDropped;
