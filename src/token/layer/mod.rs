//! The tower layer that attaches the token.

mod authorize;

pub use authorize::{Authorize, Layer, MAX_PERMIT_HOLD, Rejected};

#[cfg(test)]
mod tests;
