//! Why a gateway did not start.

use crate::BoxError;

/// A gateway that could not be started. The configuration was checked, so what is left is the machine: ports, files, sockets.
#[derive(Debug, thiserror::Error)]
#[error("cannot start: {part}")]
pub struct Error {
    /// What could not be made.
    pub part: &'static str,
    /// Why.
    pub source: BoxError,
}

impl Error {
    pub(super) fn of<E: Into<BoxError>>(part: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self {
            part,
            source: error.into(),
        }
    }
}
