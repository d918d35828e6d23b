//! The tower layer that attaches the token.

mod attach;

pub use attach::{Attach, Layer, MAX_PERMIT_HOLD, Rejected};

#[cfg(test)]
mod tests;
