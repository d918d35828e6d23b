//! The tower layer that attaches the token.

mod authorize;

pub use authorize::{Layer, MAX_PERMIT_HOLD};

#[cfg(test)]
mod tests;
