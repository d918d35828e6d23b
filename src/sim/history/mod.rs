//! The scan history that the simulated tenant has: the same for the same id and seed, always.

mod rows;
mod settings;
mod spelling;
#[cfg(test)]
mod tests;

pub use settings::{Casing, Duplicates, Envelope, History, Layout, Matching, NextLink, Order, Unknown};

/// An id that is always unknown, although it looks like one.
pub const UNKNOWN_ID: &str = "00000000-0000-0000-0000-000000000000";
