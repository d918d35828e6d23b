//! The tower layer that attaches the token.

mod attach;

pub use attach::{Attach, LONGEST_HOLD, Layer, Rejected};

#[cfg(test)]
mod tests;
