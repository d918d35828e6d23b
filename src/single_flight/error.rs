//! What can go wrong for somebody who shares a call.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::BoxError;

/// A failure that several callers get. Its `source` is the original.
#[derive(Clone, Debug)]
pub struct Shared(Arc<dyn Error + Send + Sync>);

impl Shared {
    /// Makes `error` shareable.
    #[must_use]
    pub fn new(error: BoxError) -> Self {
        Self(error.into())
    }

    /// The first error of type `E` in the chain.
    #[must_use]
    pub fn find<E: Error + 'static>(&self) -> Option<&E> {
        let mut cause: Option<&(dyn Error + 'static)> = Some(self.0.as_ref());
        while let Some(error) = cause {
            if let Some(found) = error.downcast_ref() {
                return Some(found);
            }
            cause = error.source();
        }
        None
    }
}

impl fmt::Display for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the call for this question failed")
    }
}

impl Error for Shared {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.0.as_ref())
    }
}

/// The caller had joined a call that was still waiting for its slot when the caller's own time was up. The call goes on for the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the call that would have answered this request did not leave in time")]
pub struct DeadlineExceeded {
    /// By then the call will have left: its turn comes before that of anybody who comes now.
    pub retry_after: Duration,
}

/// The call ended without telling how: a bug of ours, or the runtime is going down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the call for this question was lost")]
pub struct FlightDropped;
