//! Why a flight has no response for its waiters.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

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

/// The call leaves too late for a waiter that is not its leader, which asks for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the call that would have answered this request did not leave in time")]
pub(super) struct LeftBehind;

impl LeftBehind {
    /// Whether that is why a waiter has no response.
    pub(super) fn is(error: &BoxError) -> bool {
        error.is::<Self>()
            || error
                .downcast_ref::<Shared>()
                .is_some_and(|shared| shared.find::<Self>().is_some())
    }
}

/// The flight ended without a result: because of a panic, or because the runtime is shutting down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the call for this request was lost")]
pub(super) struct FlightDropped;
