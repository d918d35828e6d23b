//! The tower layer that attaches the token.

mod attach;

pub use attach::{Attach, Layer, Rejected};

#[cfg(test)]
mod tests;
